package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// testHost has two users and a group.
var testHost = host{
	user: func(name string) (string, error) {
		if id := map[string]string{"alice": "1000", "bob": "1001"}[name]; id != "" {
			return id, nil
		}
		return "", errors.New("unknown user")
	},
	group: func(name string) (string, error) {
		if name == "video" {
			return "44", nil
		}
		return "", errors.New("unknown group")
	},
}

func rules(pools, actions string) []Rule {
	return []Rule{{Pools: strings.Fields(pools), Actions: strings.Fields(actions)}}
}

// roles are what tests have.
var roles = map[string]Role{
	"app":     {Allow: rules("smollm2 embed-*", "*")},
	"monitor": {Allow: rules("ringmaster", "status")},
	"probe":   {Allow: rules("ringmaster", "health")},
	"admin":   {Allow: rules("ringmaster", "*")},
	"all":     {Allow: rules("*", "*")},
	"chat":    {Allow: []Rule{{Pools: []string{"smollm2"}, Actions: []string{"chat"}}, {Pools: []string{"*-tts"}, Actions: []string{"say*"}}}},
}

func newTest(t testing.TB, cfg Config, remote bool) *Auth {
	t.Helper()
	a, err := New(Config{}, remote)
	if err != nil {
		t.Fatal(err)
	}
	configure(t, a, cfg)
	return a
}

// configure is Configure on the host of tests.
func configure(t testing.TB, a *Auth, cfg Config) {
	t.Helper()
	p, err := compile(&cfg, testHost, a.counts)
	if err != nil {
		t.Fatal(err)
	}
	a.policy.Store(p)
}

func TestDecisions(t *testing.T) {
	cfg := Config{
		Given: true, Roles: roles,
		Users:   map[string][]string{"alice": {"app", "monitor"}, "1001": {"probe"}, "2000": {"all"}, "2001": {"admin"}, "2002": {"chat"}},
		Groups:  map[string][]string{"video": {"app"}, "45": {"monitor"}},
		CGroups: map[string][]string{"/system.slice/robot.service": {"app"}, "/docker/*": {"chat"}},
	}
	open, owned, unowned, everybody := Config{}, cfg, cfg, cfg
	unowned.NoOwner = true
	everybody.Users = map[string][]string{"*": {"monitor"}}
	const yes, no = true, false
	for _, tt := range []struct {
		cfg          Config
		peer         chain.Peer
		pool, action string
		want         bool
	}{
		{open, chain.Peer{UID: 7, Standing: chain.Member}, "smollm2", "chat", yes},
		{open, chain.Peer{UID: 7, Standing: chain.Owner}, "ringmaster", "restart", yes},
		{open, chain.Peer{UID: 7, Standing: chain.Stranger}, "smollm2", "chat", no},
		{owned, chain.Peer{UID: 0, Standing: chain.Owner}, "ringmaster", "restart", yes},
		{unowned, chain.Peer{UID: 0, Standing: chain.Owner}, "smollm2", "chat", no},
		{unowned, chain.Peer{UID: 0, Standing: chain.Self}, "ringmaster", "status", yes},
		{owned, chain.Peer{UID: 7, Standing: chain.Member}, "smollm2", "chat", no},
		{owned, chain.Peer{UID: 1000, Standing: chain.Stranger}, "smollm2", "chat", yes},
		{owned, chain.Peer{UID: 1000, Standing: chain.Stranger}, "embed-small", "embed", yes},
		{owned, chain.Peer{UID: 1000, Standing: chain.Stranger}, "embed", "embed", no},
		{owned, chain.Peer{UID: 1000, Standing: chain.Stranger}, "other", "chat", no},
		{owned, chain.Peer{UID: 1000, Standing: chain.Stranger}, "ringmaster", "status", yes},
		{owned, chain.Peer{UID: 1000, Standing: chain.Stranger}, "ringmaster", "health", yes},
		{owned, chain.Peer{UID: 1000, Standing: chain.Stranger}, "ringmaster", "version", yes},
		{owned, chain.Peer{UID: 1000, Standing: chain.Stranger}, "ringmaster", "drain", no},
		{owned, chain.Peer{UID: 1001, Standing: chain.Stranger}, "ringmaster", "health", yes},
		{owned, chain.Peer{UID: 1001, Standing: chain.Stranger}, "ringmaster", "status", no},
		{owned, chain.Peer{UID: 1001, Standing: chain.Stranger}, "ringmaster", "whoami", yes},
		{owned, chain.Peer{UID: 7, Standing: chain.Stranger}, "ringmaster", "whoami", no},
		{owned, chain.Peer{UID: 2000, Standing: chain.Stranger}, "anything", "at-all", yes},
		{owned, chain.Peer{UID: 2000, Standing: chain.Stranger}, "ringmaster", "status", no}, // a * does not name the server
		{owned, chain.Peer{UID: 2001, Standing: chain.Stranger}, "ringmaster", "reload", yes},
		{owned, chain.Peer{UID: 2001, Standing: chain.Stranger}, "smollm2", "chat", no},
		{owned, chain.Peer{UID: 2002, Standing: chain.Stranger}, "smollm2", "chat", yes},
		{owned, chain.Peer{UID: 2002, Standing: chain.Stranger}, "smollm2", "embed", no},
		{owned, chain.Peer{UID: 2002, Standing: chain.Stranger}, "my-tts", "say_it", yes},
		{owned, chain.Peer{UID: 2002, Standing: chain.Stranger}, "my-tts", "chat", no},
		{owned, chain.Peer{UID: 7, GID: 44, Standing: chain.Stranger}, "smollm2", "chat", yes},
		{owned, chain.Peer{UID: 7, GID: 1, Groups: []uint32{3, 44}, Standing: chain.Stranger}, "smollm2", "chat", yes},
		{owned, chain.Peer{UID: 7, GID: 45, Standing: chain.Stranger}, "smollm2", "chat", no},
		{owned, chain.Peer{UID: 7, CGroup: "/system.slice/robot.service", Standing: chain.Stranger}, "smollm2", "chat", yes},
		{owned, chain.Peer{UID: 7, CGroup: "/system.slice/robot.service/sub", Standing: chain.Stranger}, "smollm2", "chat", yes},
		{owned, chain.Peer{UID: 7, CGroup: "/system.slice/robot.service2", Standing: chain.Stranger}, "smollm2", "chat", no},
		{owned, chain.Peer{UID: 7, CGroup: "/user.slice/system.slice/robot.service", Standing: chain.Stranger}, "smollm2", "chat", no},
		{owned, chain.Peer{UID: 7, CGroup: "/docker/abc", Standing: chain.Stranger}, "smollm2", "chat", yes},
		{owned, chain.Peer{UID: 7, CGroup: "/docker", Standing: chain.Stranger}, "smollm2", "chat", no},
		{owned, chain.Peer{UID: chain.NoID, GID: chain.NoID, Standing: chain.Remote}, "smollm2", "chat", no},
		{everybody, chain.Peer{UID: 7, Standing: chain.Stranger}, "ringmaster", "status", yes},
		{everybody, chain.Peer{UID: chain.NoID, Standing: chain.Remote}, "ringmaster", "status", no},
	} {
		a := newTest(t, tt.cfg, false)
		v := a.ExplainPeer(tt.peer, tt.pool, tt.action)
		if v.Allowed != tt.want || v.Why == "" {
			t.Errorf("%+v, %s.%s: %+v", tt.peer, tt.pool, tt.action, v)
		}
		// The link says the same, but for what the door alone keeps out of an open server.
		if !tt.cfg.Given && tt.peer.Standing == chain.Stranger {
			continue
		}
		_, err := ask(a, tt.peer, tt.pool, tt.action, "")
		if (err == nil) != tt.want {
			t.Errorf("the link: %+v, %s.%s: %v", tt.peer, tt.pool, tt.action, err)
		}
	}
}

// end is a handler that answers at once.
func end(context.Context, *ipc.Request) (ipc.Replies, error) {
	signatures := map[string]ipc.Signature{"chat": {}, "embed": {}}
	body, err := ipc.Marshal(ipc.PoolList{Pools: []ipc.PoolEntry{{Name: "smollm2", State: "ready", Actions: []string{"chat", "embed"}, Signatures: signatures}, {Name: "secret", State: "ready", Actions: []string{"chat"}}}})
	return &answer{body: body}, err
}

// ask sends a request through the link and returns what it was when it came out behind.
func ask(a *Auth, peer chain.Peer, pool, action, authorization string) (came *ipc.Request, err error) {
	req := &ipc.Request{Pool: pool, Action: action, Headers: map[string]string{"session": "s"}}
	if authorization != "" {
		req.Headers[Header] = authorization
	}
	replies, err := a.Link(func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		came = req
		return end(ctx, req)
	})(chain.WithPeer(context.Background(), peer), req)
	if err == nil {
		_, err = replies.Recv(context.Background())
	}
	return came, err
}

func wantReason(t *testing.T, err error, want string) *ipc.Error {
	t.Helper()
	var e *ipc.Error
	if !errors.As(err, &e) || string(e.Code)+"/"+e.Reason != want {
		t.Fatalf("got %v, want %s", err, want)
	}
	return e
}

func TestTokens(t *testing.T) {
	robot, robotHash := NewToken()
	old, oldHash := NewToken()
	stranger, _ := NewToken()
	a := newTest(t, Config{Given: true, Roles: roles, Tokens: map[string]Token{
		"robot": {Hash: robotHash, Roles: []string{"app"}, Expires: time.Now().Add(time.Hour)},
		"old":   {Hash: oldHash, Roles: []string{"app"}, Expires: time.Now().Add(-time.Second)},
	}}, true)
	remote := chain.Peer{UID: chain.NoID, GID: chain.NoID, Standing: chain.Remote, Address: "127.0.0.1:5"}
	root := chain.Peer{Standing: chain.Owner}
	nobody := chain.Peer{UID: 7, Standing: chain.Stranger}
	for _, tt := range []struct {
		name, authorization string
		peer                chain.Peer
		want                string // "": it passes
	}{
		{"by TCP", "Bearer " + robot, remote, ""},
		{"by the socket", "Bearer " + robot, nobody, ""},
		{"another spelling", "bearer  " + robot + " ", remote, ""},
		{"none by TCP", "", remote, "PERMISSION_DENIED/unauthenticated"},
		{"none by the socket", "", nobody, "PERMISSION_DENIED/unauthenticated"},
		{"none, from root", "", root, ""},
		{"expired", "Bearer " + old, remote, "PERMISSION_DENIED/unauthenticated"},
		{"unknown", "Bearer " + stranger, remote, "PERMISSION_DENIED/unauthenticated"},
		{"unknown, from root", "Bearer " + stranger, root, "PERMISSION_DENIED/unauthenticated"},
		{"cut off", "Bearer " + robot[:20], root, "PERMISSION_DENIED/unauthenticated"},
		{"what OpenAI's clients send, by TCP", "Bearer none", remote, "PERMISSION_DENIED/unauthenticated"},
		{"what OpenAI's clients send, from root", "Bearer none", root, ""},
		{"a password, from root", "Basic YTpi", root, ""},
		{"a password, by TCP", "Basic YTpi", remote, "PERMISSION_DENIED/unauthenticated"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			came, err := ask(a, tt.peer, "smollm2", "chat", tt.authorization)
			e := a.Authenticate(tt.peer, tt.authorization)
			if tt.want == "" {
				if err != nil || e != nil {
					t.Fatal(err, e)
				}
				if tt.authorization == "Bearer "+robot && came.Principal != "token robot" || tt.peer.Standing == chain.Owner && came.Principal != "user 0" {
					t.Errorf("it is %q's", came.Principal)
				}
				if _, there := came.Headers[Header]; there || came.Headers["session"] != "s" {
					t.Errorf("headers %v", came.Headers)
				}
				if tt.peer.Standing == chain.Remote && came.Client.UID != chain.NoID {
					t.Errorf("client %+v", came.Client)
				}
				return
			}
			wantReason(t, err, tt.want)
			wantReason(t, e, tt.want)
			if strings.Contains(err.Error(), robot) {
				t.Error("the message has the token")
			}
		})
	}
	// A token has its own rights, not those of who sends it.
	_, err := ask(a, root, "other", "chat", "Bearer "+robot)
	e := wantReason(t, err, "PERMISSION_DENIED/denied")
	for _, want := range []string{"token robot", `"other"`, `"chat"`, "app", "auth.roles"} {
		if !strings.Contains(e.Message, want) {
			t.Errorf("%q lacks %s", e.Message, want)
		}
	}
	var m dto.Metric
	if err := a.denials.WithLabelValues("denied").Write(&m); err != nil || m.Counter.GetValue() != 1 {
		t.Errorf("%v, %v denials counted", err, m.Counter)
	}
	if v, ok := a.ExplainToken("old", "smollm2", "chat"); !ok || v.Allowed || !strings.Contains(v.Why, "expired") {
		t.Errorf("%+v", v)
	}
	if v, ok := a.ExplainToken("robot", "smollm2", "chat"); !ok || !v.Allowed || v.By.From != "auth.tokens.robot" {
		t.Errorf("%+v", v)
	}
}

// A server without a configuration any more, which still listens on a port, lets nobody in there.
func TestNobodyByTCPWithoutConfiguration(t *testing.T) {
	token, hash := NewToken()
	a := newTest(t, Config{Given: true, Roles: roles, Tokens: map[string]Token{"robot": {Hash: hash, Roles: []string{"app"}}}}, true)
	remote := chain.Peer{UID: chain.NoID, GID: chain.NoID, Standing: chain.Remote}
	if _, err := ask(a, remote, "smollm2", "chat", "Bearer "+token); err != nil {
		t.Fatal(err)
	}
	configure(t, a, Config{})
	for _, authorization := range []string{"", "Bearer " + token} {
		_, err := ask(a, remote, "smollm2", "chat", authorization)
		wantReason(t, err, "PERMISSION_DENIED/unauthenticated")
		wantReason(t, a.Authenticate(remote, authorization), "PERMISSION_DENIED/unauthenticated")
	}
	if came, err := ask(a, chain.Peer{UID: 7, Standing: chain.Member}, "smollm2", "chat", "Bearer "+token); err != nil || came.Headers[Header] != "" {
		t.Errorf("by the socket: %v, %v", err, came)
	}
}

func TestAdmit(t *testing.T) {
	_, hash := NewToken()
	plain := ipc.Errorf(ipc.PermissionDenied, "peer", "the door's")
	given := Config{Given: true, Roles: roles, Users: map[string][]string{"alice": {"app"}}}
	tokens := given
	tokens.Tokens = map[string]Token{"robot": {Hash: hash, Roles: []string{"app"}}}
	for _, tt := range []struct {
		cfg   Config
		peer  chain.Peer
		plain *ipc.Error
		sure  bool
		in    bool
	}{
		{Config{}, chain.Peer{UID: 7, Standing: chain.Member}, nil, true, true},
		{Config{}, chain.Peer{UID: 7, Standing: chain.Stranger}, plain, false, false},
		{given, chain.Peer{UID: 0, Standing: chain.Owner}, nil, true, true},
		{given, chain.Peer{UID: 1000, Standing: chain.Stranger}, plain, true, true},
		{given, chain.Peer{UID: 7, Standing: chain.Member}, nil, false, false},
		{tokens, chain.Peer{UID: 7, Standing: chain.Stranger}, plain, false, true},
		{tokens, chain.Peer{UID: 1000, Standing: chain.Stranger}, plain, true, true},
	} {
		sure, e := newTest(t, tt.cfg, false).Admit(tt.peer, tt.plain)
		if sure != tt.sure || (e == nil) != tt.in {
			t.Errorf("%+v: sure %v, %v", tt.peer, sure, e)
		}
	}
}

// A connection's identity is remembered, and found anew after a reload; what it has used up stays so.
func TestReload(t *testing.T) {
	cfg := Config{Given: true, Roles: map[string]Role{"app": {Allow: rules("smollm2", "*"), Rate: 1, Burst: 2}}, Users: map[string][]string{"alice": {"app"}}}
	a := newTest(t, cfg, false)
	peer := chain.Peer{UID: 1000, Standing: chain.Stranger, Memo: new(atomic.Value)}
	for range 2 {
		if _, err := ask(a, peer, "smollm2", "chat", ""); err != nil {
			t.Fatal(err)
		}
	}
	_, err := ask(a, peer, "smollm2", "chat", "")
	wantReason(t, err, "RESOURCE_EXHAUSTED/rate_limited")
	configure(t, a, cfg)
	_, err = ask(a, peer, "smollm2", "chat", "")
	wantReason(t, err, "RESOURCE_EXHAUSTED/rate_limited")

	raised := cfg
	raised.Roles = map[string]Role{"app": {Allow: rules("smollm2", "*"), Rate: 1e6, Burst: 2}}
	configure(t, a, raised)
	deadline := time.Now().Add(10 * time.Second)
	for _, err = ask(a, peer, "smollm2", "chat", ""); err != nil && time.Now().Before(deadline); _, err = ask(a, peer, "smollm2", "chat", "") {
	}
	if err != nil {
		t.Error(err)
	}

	taken := cfg
	taken.Users = map[string][]string{"bob": {"app"}}
	configure(t, a, taken)
	_, err = ask(a, peer, "smollm2", "chat", "")
	wantReason(t, err, "PERMISSION_DENIED/unauthenticated")
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTest(t, Config{Given: true, Users: map[string][]string{"alice": {"app"}, "bob": {"app"}}, Roles: map[string]Role{
			"app": {Rate: 10, Burst: 5, Allow: []Rule{{Pools: []string{"p"}, Actions: []string{"small"}}, {Pools: []string{"p"}, Actions: []string{"large"}, Weight: 5}}},
		}}, false)
		alice, bob := chain.Peer{UID: 1000, Standing: chain.Stranger}, chain.Peer{UID: 1001, Standing: chain.Stranger}
		for range 5 {
			if _, err := ask(a, alice, "p", "small", ""); err != nil {
				t.Fatal(err)
			}
		}
		_, err := ask(a, alice, "p", "small", "")
		e := wantReason(t, err, "RESOURCE_EXHAUSTED/rate_limited")
		if e.RetryAfter != 100*time.Millisecond || !strings.Contains(e.Message, "user 1000 (alice) asks for more than 10 requests a second (5 at once)") || !strings.Contains(e.Message, "auth.roles.app.rate") {
			t.Errorf("%v, after %v", e, e.RetryAfter)
		}
		_, err = ask(a, alice, "p", "large", "")
		if e := wantReason(t, err, "RESOURCE_EXHAUSTED/rate_limited"); e.RetryAfter != 500*time.Millisecond {
			t.Errorf("after %v", e.RetryAfter)
		}
		if _, err := ask(a, bob, "p", "large", ""); err != nil {
			t.Errorf("another user: %v", err)
		}
		<-time.After(500 * time.Millisecond)
		if _, err := ask(a, alice, "p", "large", ""); err != nil {
			t.Error(err)
		}
	})
}

// Who has two roles that allow something gets what both give.
func TestRolesAddUp(t *testing.T) {
	a := newTest(t, Config{Given: true, Users: map[string][]string{"alice": {"one", "two"}}, Roles: map[string]Role{
		"one": {Allow: rules("p", "*"), Rate: 1. / 3600, Burst: 2}, "two": {Allow: rules("p", "*"), Rate: 1. / 3600, Burst: 3},
	}}, false)
	passed := 0
	for range 10 {
		if _, err := ask(a, chain.Peer{UID: 1000, Standing: chain.Stranger}, "p", "x", ""); err == nil {
			passed++
		}
	}
	if passed != 5 {
		t.Errorf("%d passed", passed)
	}
}

func TestCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTest(t, Config{Given: true, Users: map[string][]string{"alice": {"app"}}, Roles: map[string]Role{"app": {Allow: rules("p", "*"), Cost: 1000}}}, false)
		send := func(n int) error {
			req := &ipc.Request{Pool: "p", Action: "x", Body: make([]byte, n/2), Tensors: []ipc.Tensor{{DType: "uint8", Shape: []uint64{uint64(n - n/2)}}}} // in an arena
			_, err := a.Link(end)(chain.WithPeer(context.Background(), chain.Peer{UID: 1000, Standing: chain.Stranger}), req)
			return err
		}
		if err := send(3000); err != nil { // more than a second's worth goes, and is owed
			t.Fatal(err)
		}
		e := wantReason(t, send(1), "RESOURCE_EXHAUSTED/rate_limited")
		if e.RetryAfter < 2*time.Second || e.RetryAfter > 2010*time.Millisecond || !strings.Contains(e.Message, "1000 bytes of requests a second") {
			t.Errorf("%v, after %v", e, e.RetryAfter)
		}
		<-time.After(e.RetryAfter)
		if err := send(1); err != nil {
			t.Error(err)
		}
	})
}

func TestInFlight(t *testing.T) {
	a := newTest(t, Config{Given: true, Users: map[string][]string{"alice": {"app"}}, Roles: map[string]Role{"app": {Allow: rules("p", "*"), InFlight: 2}}}, false)
	begin := func(next chain.Handler) (ipc.Replies, error) {
		return a.Link(next)(chain.WithPeer(context.Background(), chain.Peer{UID: 1000, Standing: chain.Stranger}), &ipc.Request{Pool: "p", Action: "x"})
	}
	must := func() ipc.Replies {
		t.Helper()
		r, err := begin(end)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first, second := must(), must()
	full := func() {
		t.Helper()
		_, err := begin(end)
		if e := wantReason(t, err, "RESOURCE_EXHAUSTED/rate_limited"); e.RetryAfter != fullPause || !strings.Contains(e.Message, "more than 2 requests in flight") {
			t.Errorf("%v", e)
		}
	}
	full()
	if _, err := first.Recv(context.Background()); err != nil { // its END
		t.Fatal(err)
	}
	if _, err := first.Recv(context.Background()); err != io.EOF {
		t.Error(err)
	}
	third := must()
	full()
	second.Cancel("cancelled")
	second.Cancel("cancelled")
	if _, err := begin(func(context.Context, *ipc.Request) (ipc.Replies, error) { return nil, io.ErrUnexpectedEOF }); err != io.ErrUnexpectedEOF {
		t.Error(err)
	}
	fourth := must()
	full()
	third.Cancel("")
	fourth.Cancel("")
	for _, l := range a.counts.by {
		if n := l.inFlight.Load(); n != 0 {
			t.Errorf("%d in flight", n)
		}
	}
}

func TestWhoamiAndPools(t *testing.T) {
	a := newTest(t, Config{Given: true, Users: map[string][]string{"alice": {"chat"}}, Roles: roles}, false)
	control := func(peer chain.Peer, action string, into any) {
		t.Helper()
		r, err := a.Link(end)(chain.WithPeer(context.Background(), peer), &ipc.Request{Pool: controlPool, Action: action})
		if err != nil {
			t.Fatal(err)
		}
		reply, err := r.Recv(context.Background())
		if err == nil {
			err = reply.Body.Decode(into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var who Who
	control(chain.Peer{UID: 1000, PID: 5, Standing: chain.Stranger}, "whoami", &who)
	if who.Identity != "user 1000 (alice)" || *who.UID != 1000 || who.PID != 5 || who.Everything || len(who.Roles) != 1 || who.Roles[0].From != "auth.users.alice" || len(who.Roles[0].Allow) != 2 {
		t.Errorf("%+v", who)
	}
	var list ipc.PoolList
	control(chain.Peer{UID: 1000, Standing: chain.Stranger}, "pools", &list)
	if fmt.Sprint(list.Pools) != "[{smollm2 ready [chat] map[chat:{[] []}]}]" {
		t.Errorf("alice sees %v", list.Pools)
	}
	control(chain.Peer{Standing: chain.Owner}, "pools", &list)
	if len(list.Pools) != 2 || len(list.Pools[0].Signatures) != 2 {
		t.Errorf("root sees %v", list.Pools)
	}
}

func TestMistakes(t *testing.T) {
	_, hash := NewToken()
	app := map[string]Role{"app": {Allow: rules("p", "*")}}
	with := func(change func(*Role)) map[string]Role {
		r := Role{Allow: rules("p", "*")}
		change(&r)
		return map[string]Role{"app": r}
	}
	for want, cfg := range map[string]Config{
		"auth.roles.app.allow: (none): say what":                          {Roles: map[string]Role{"app": {}}},
		"auth.roles.app.allow[0].actions: (none): name some":              {Roles: map[string]Role{"app": {Allow: rules("p", "")}}},
		"auth.roles.app.burst: 3: a burst is of a rate":                   {Roles: with(func(r *Role) { r.Burst = 3 })},
		"auth.roles.app.allow[0].weight: 9: it is more than":              {Roles: with(func(r *Role) { r.Rate, r.Allow[0].Weight = 5, 9 })},
		"auth.roles.app.allow[0].weight: 2: it counts to":                 {Roles: with(func(r *Role) { r.Allow[0].Weight = 2 })},
		"auth.users.alice: ap: there is no such role; auth.roles has app": {Roles: app, Users: map[string][]string{"alice": {"ap"}}},
		"auth.users.alice: []: give it a role":                            {Roles: app, Users: map[string][]string{"alice": {}}},
		"auth.users.eve: eve: there is no such user":                      {Roles: app, Users: map[string][]string{"eve": {"app"}}},
		"auth.groups.wheel: wheel: there is no such group":                {Roles: app, Groups: map[string][]string{"wheel": {"app"}}},
		"auth.cgroups.a/b: a/b: use a control group's path":               {Roles: app, CGroups: map[string][]string{"a/b": {"app"}}},
		"auth.cgroups./: /: use a control group's path":                   {Roles: app, CGroups: map[string][]string{"/": {"app"}}},
		"auth.cgroups./a[: /a[: use a control group's path":               {Roles: app, CGroups: map[string][]string{"/a[": {"app"}}},
		"auth.tokens.t.hash: sha256:abc: use the line":                    {Roles: app, Tokens: map[string]Token{"t": {Hash: "sha256:abc", Roles: []string{"app"}}}},
		"auth.tokens.t u: t u: a token's name":                            {Roles: app, Tokens: map[string]Token{"t u": {Hash: hash, Roles: []string{"app"}}}},
		"auth.tokens.u.hash: " + hash + ": this is token t":               {Roles: app, Tokens: map[string]Token{"t": {Hash: hash, Roles: []string{"app"}}, "u": {Hash: hash, Roles: []string{"app"}}}},
	} {
		_, err := compile(&cfg, testHost, newCounts())
		var field *FieldError
		if !errors.As(err, &field) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// This host's own tables are read, too.
func TestThisHost(t *testing.T) {
	cfg := Config{Given: true, Roles: roles, Users: map[string][]string{"root": {"app"}}, Groups: map[string][]string{"root": {"app"}}}
	if err := Check(cfg); err != nil {
		if _, missing := os.Stat("/etc/passwd"); missing != nil {
			t.Skip(missing)
		}
		t.Error(err)
	}
	cfg.Users = map[string][]string{"no-such-user-here": {"app"}}
	if Check(cfg) == nil {
		t.Error("a user that does not exist")
	}
}

// Control groups come and go; what they counted is forgotten once it says nothing.
func TestIdleLimitsAreForgotten(t *testing.T) {
	c := newCounts()
	r := newRole("app", Role{Allow: rules("p", "*"), Rate: 5, InFlight: 1})
	busy := c.of("busy", r)
	if got := busy.take(r, 1, &ipc.Request{}, time.Now()); got.limit != "" {
		t.Fatal(got)
	}
	for i := range 3 * idleLimits {
		c.of(fmt.Sprint("container ", i), r)
	}
	if n := len(c.by); n > 2*idleLimits || c.by[countKey{"busy", "app"}] != busy {
		t.Errorf("%d are kept", n)
	}
}

// A rule of the server itself may be for some pools: action:pool. Without a pool in the request, or with another, it allows nothing.
func TestControlOfOnePool(t *testing.T) {
	own := map[string]Role{"operator": {Allow: rules("ringmaster", "restart:vision-* health:echo drain status:whisper reload:whisper")}}
	a := newTest(t, Config{Given: true, Roles: own, Users: map[string][]string{"1000": {"operator"}}}, false)
	peer := chain.Peer{UID: 1000, Standing: chain.Stranger}
	may := func(action string, body any) error {
		t.Helper()
		req := &ipc.Request{Pool: controlPool, Action: action}
		if body != nil {
			b, err := ipc.Marshal(body)
			if err != nil {
				t.Fatal(err)
			}
			req.Body = b
		}
		_, err := a.Link(end)(chain.WithPeer(context.Background(), peer), req)
		return err
	}
	pool := func(name string) any { return map[string]string{"pool": name} }
	for _, tt := range []struct {
		action string
		body   any
		want   bool
	}{
		{"restart", pool("vision-a"), true},
		{"restart", pool("echo"), false},
		{"restart", nil, false},
		{"restart", pool(""), false},
		{"restart", map[string]any{"pool": nil}, false},
		{"drain", pool("echo"), true},
		{"drain", nil, true},
		{"health", pool("echo"), true},
		{"health", pool("vision-a"), false},
		{"status", pool("whisper"), false}, // it would tell of all pools
		{"reload", pool("whisper"), false},
		{"health", nil, false},
		{"version", nil, false},
		{"reload", pool("vision-a"), false},
	} {
		err := may(tt.action, tt.body)
		if tt.want != (err == nil) {
			t.Errorf("%s %v: %v", tt.action, tt.body, err)
		}
		if !tt.want {
			wantReason(t, err, "PERMISSION_DENIED/denied")
		}
	}
	if err := may("restart", 5); err == nil {
		t.Error("a body that names nothing is decided about")
	}
	if v := a.ExplainPeer(peer, controlPool, "restart:vision-a"); !v.Allowed {
		t.Errorf("%+v", v)
	}
	if v := a.ExplainPeer(peer, controlPool, "restart"); v.Allowed {
		t.Errorf("%+v", v)
	}
}

// A configuration that is taken back does not stay because the one before cannot be read anew: a user of it is gone.
func TestUndoAlwaysHolds(t *testing.T) {
	a := newTest(t, Config{Given: true, Users: map[string][]string{"alice": {"chat"}}, Roles: roles}, false) // this machine has no alice
	undo, err := a.Configure(Config{Given: true, Users: map[string][]string{"*": {"admin"}}, Roles: roles})
	if err != nil {
		t.Fatal(err)
	}
	undo()
	_, err = ask(a, chain.Peer{UID: 1234, Standing: chain.Stranger}, controlPool, "restart", "")
	wantReason(t, err, "PERMISSION_DENIED/unauthenticated")
	if _, err := ask(a, chain.Peer{UID: 1000, Standing: chain.Stranger}, "smollm2", "chat", ""); err != nil {
		t.Error(err)
	}
}
