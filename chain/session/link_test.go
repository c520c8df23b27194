package session

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/internal/budget"
	"github.com/ringmasterd/ringmaster/ipc"
)

// answering is the handler behind the link in these tests: a worker that gives these replies, which may be made of the request.
type answering func(ctx context.Context, req *ipc.Request) []*ipc.Reply

func (f answering) handle(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
	return &script{ctx: ctx, replies: f(ctx, req)}, nil
}

// script is an answer known beforehand. One that is nil comes when the request is cancelled.
type script struct {
	ctx       context.Context
	replies   []*ipc.Reply
	cancelled string
}

func (s *script) Recv(ctx context.Context) (*ipc.Reply, error) {
	if len(s.replies) == 0 {
		return nil, io.EOF
	}
	r := s.replies[0]
	s.replies = s.replies[1:]
	switch {
	case r == nil:
		<-ctx.Done()
		return nil, ipc.AsError(context.Cause(ctx))
	case r.Err != nil:
		return nil, r.Err
	}
	return r, nil
}

func (s *script) Cancel(reason string) { s.cancelled = reason }

// keeping makes a link with a store in memory, unless the configuration names another.
func keeping(t testing.TB, cfg Config) *Sessions {
	t.Helper()
	if cfg.Store == "" {
		cfg.Store = Memory
	}
	s, err := New(cfg, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

var conversing = Config{Pools: map[string]PoolConfig{"llm": {Conversation: true}}}

func as(t testing.TB, uid uint32) context.Context {
	return chain.WithPeer(testContext(t), chain.Peer{UID: uid})
}

func encoded(t testing.TB, v any) ipc.Body {
	t.Helper()
	b, err := ipc.Marshal(v)
	must(t, err)
	return b
}

func asked(t testing.TB, id string, body any) *ipc.Request {
	return &ipc.Request{Pool: "llm", Action: "chat", Headers: map[string]string{header: id}, Body: encoded(t, body)}
}

func end(r *ipc.Reply) *ipc.Reply {
	r.End = true
	return r
}

// taken takes all replies, and returns the last one or the error.
func taken(ctx context.Context, h chain.Handler, req *ipc.Request) (*ipc.Reply, error) {
	replies, err := h(ctx, req)
	if err != nil {
		return nil, err
	}
	for {
		r, err := replies.Recv(ctx)
		if err != nil || r.End {
			return r, err
		}
	}
}

func wantError(t testing.TB, err error, code ipc.Code, reason string) {
	t.Helper()
	if e := ipc.AsError(err); e == nil || e.Code != code || e.Reason != reason {
		t.Errorf("%v, want %s/%s", err, code, reason)
	}
}

// counter is a worker whose context is a number that it adds one to.
func counter(_ context.Context, req *ipc.Request) []*ipc.Reply {
	n, _ := strconv.Atoi(string(req.Context))
	return []*ipc.Reply{end(&ipc.Reply{Body: ipc.Body{byte(n)}, Context: []byte(strconv.Itoa(n + 1))})}
}

func TestContextIsKept(t *testing.T) {
	s := keeping(t, Config{})
	h := s.Link(answering(counter).handle)
	for i := range 5 {
		for _, id := range []string{"a", "b"} {
			r, err := taken(as(t, 1), h, asked(t, id, nil))
			must(t, err)
			if r.Body[0] != byte(i) || r.Headers[versionHeader] != strconv.Itoa(i+1) || len(r.Context) != 0 {
				t.Errorf("call %d of %s: %+v", i, id, r)
			}
		}
	}
	req := asked(t, "a", nil)
	req.Context = []byte("41") // its own goes before what is kept, and is what is kept next
	for _, want := range []byte{41, 42} {
		r, err := taken(as(t, 1), h, req)
		must(t, err)
		if r.Body[0] != want {
			t.Errorf("%d, want %d", r.Body[0], want)
		}
		req = asked(t, "a", nil)
	}
	other, err := taken(as(t, 2), h, asked(t, "a", nil))
	must(t, err)
	if other.Body[0] != 0 {
		t.Error("another user has got at the session")
	}
	alone := asked(t, "a", nil)
	alone.Headers = nil
	r, err := taken(as(t, 1), h, alone)
	must(t, err)
	if r.Body[0] != 0 || r.Headers != nil || string(r.Context) != "1" {
		t.Errorf("without a session: %+v", r)
	}
}

// messages is what a body's list has, as "role: content".
func messages(t testing.TB, b ipc.Body, member string) (list []string) {
	t.Helper()
	var body map[string]any
	must(t, b.Decode(&body))
	all, _ := body[member].([]any)
	for _, m := range all {
		m, _ := m.(map[string]any)
		list = append(list, m["role"].(string)+": "+m["content"].(string))
	}
	return list
}

func says(role, content string) map[string]any {
	return map[string]any{"role": role, "content": content}
}

func TestConversationGoesOn(t *testing.T) {
	s := keeping(t, conversing)
	var got []string
	h := s.Link(answering(func(_ context.Context, req *ipc.Request) []*ipc.Reply {
		got = messages(t, req.Body, "messages")
		var body map[string]any
		must(t, req.Body.Decode(&body))
		if body["max_tokens"] != int8(7) || len(body) != 3 {
			t.Errorf("%v", body)
		}
		return []*ipc.Reply{
			{Body: encoded(t, map[string]any{"text": "Hel"})}, {Body: encoded(t, map[string]any{"text": "lo"})}, {Body: encoded(t, "!")},
			{Body: encoded(t, map[string]any{"text": "", "finish_reason": "stop"})}, end(&ipc.Reply{}),
		}
	}).handle)
	ask := func(want []string, now ...any) {
		t.Helper()
		_, err := taken(as(t, 1), h, asked(t, "s", map[string]any{"a": 1, "messages": now, "max_tokens": 7}))
		must(t, err)
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("the worker got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	ask([]string{"system: be kind", "user: one"}, says("system", "be kind"), says("user", "one"))
	ask([]string{"system: be kind", "user: one", "assistant: Hello!", "user: two"}, says("user", "two"))
	ask([]string{"developer: be brief", "user: one", "assistant: Hello!", "user: two", "assistant: Hello!", "user: three"}, says("developer", "be brief"), says("user", "three"))
	ask([]string{"developer: be brief", "user: one", "assistant: Hello!", "user: two", "assistant: Hello!", "user: three", "assistant: Hello!", "user: four"}, says("user", "four"))
	if r, err := s.read(as(t, 1), "s"); err != nil || len(r.messages) != 9 {
		t.Errorf("%d messages, %v", len(r.messages), err)
	}
}

// read is what the session of this user is now.
func (s *Sessions) read(ctx context.Context, id string) (record, error) {
	_, data, err := s.store.Load(ctx, key{owner(ctx, &ipc.Request{}), id}.String())
	if err != nil {
		return record{}, err
	}
	return decodeRecord(data)
}

func TestToolCallsAreKept(t *testing.T) {
	s := keeping(t, conversing)
	calls := []any{map[string]any{"id": "1", "type": "function"}}
	h := s.Link(answering(func(context.Context, *ipc.Request) []*ipc.Reply {
		return []*ipc.Reply{end(&ipc.Reply{Body: encoded(t, map[string]any{"text": nil, "tool_calls": calls})})}
	}).handle)
	_, err := taken(as(t, 1), h, asked(t, "s", map[string]any{"messages": []any{says("user", "x")}}))
	must(t, err)
	r, err := s.read(as(t, 1), "s")
	must(t, err)
	if want := encoded(t, map[string]any{"role": "assistant", "content": "", "tool_calls": calls}); len(r.messages) != 2 || !sameValue(t, r.messages[1], want) {
		t.Errorf("%q, want %q", r.messages, want)
	}
}

func sameValue(t testing.TB, a, b ipc.Body) bool {
	t.Helper()
	var x, y any
	must(t, a.Decode(&x))
	must(t, b.Decode(&y))
	return string(encoded(t, x)) == string(encoded(t, y))
}

// Bodies that have no messages, and actions of which nobody said that they hold conversations, stay as they are.
func TestWhatIsNoConversation(t *testing.T) {
	s := keeping(t, Config{Pools: map[string]PoolConfig{"llm": {Conversation: true, Actions: []string{"chat", "ask"}, Messages: "turns"}}})
	var got ipc.Body
	h := s.Link(answering(func(_ context.Context, req *ipc.Request) []*ipc.Reply {
		got = req.Body
		return []*ipc.Reply{end(&ipc.Reply{Body: encoded(t, "yes")})}
	}).handle)
	list := []any{says("user", "hi")}
	for i, body := range []any{nil, 5, "turns", []any{"turns", list}, map[string]any{}, map[string]any{"messages": list}, map[string]any{"turns": "hi"}, map[string]any{"turns": []any{}}, map[int]any{1: list}} {
		req := asked(t, "s", body)
		_, err := taken(as(t, 1), h, req)
		must(t, err)
		if want := encoded(t, body); string(got) != string(want) {
			t.Errorf("body %d became %q", i, got)
		}
	}
	// Extensions, which the library would take for a map, and what is no MessagePack at all.
	for _, body := range []ipc.Body{{0xc7, 0x05, 0x00, 0xdf, 0xff, 0xff, 0xff, 0xff}, {0xc1}, {0x81}, {0xdf, 0xff, 0xff, 0xff, 0xff}} {
		if b, said := extend(body, "turns", nil); said != nil || string(b) != string(body) {
			t.Errorf("%x became %x", body, b)
		}
	}
	other := asked(t, "s", map[string]any{"turns": list})
	other.Action = "embed"
	_, err := taken(as(t, 1), h, other)
	must(t, err)
	if r, err := s.read(as(t, 1), "s"); err != nil || len(r.messages) != 0 {
		t.Errorf("%q is kept, %v", r.messages, err)
	}
	asks := asked(t, "s", map[string]any{"turns": list})
	asks.Action = "ask"
	_, err = taken(as(t, 1), h, asks)
	must(t, err)
	if r, err := s.read(as(t, 1), "s"); err != nil || len(r.messages) != 2 {
		t.Errorf("%q is kept, %v", r.messages, err)
	}
	_, err = taken(as(t, 1), h, other) // it is part of the session all the same, and of no conversation
	must(t, err)
	if r, err := s.read(as(t, 1), "s"); err != nil || len(r.messages) != 2 {
		t.Errorf("%q is kept, %v", r.messages, err)
	}
}

// A stream is stored at its END; one that fails or is cancelled leaves the session as it was.
func TestStreams(t *testing.T) {
	s := keeping(t, conversing)
	var answer []*ipc.Reply
	h := s.Link(answering(func(context.Context, *ipc.Request) []*ipc.Reply { return answer }).handle)
	version := func(want uint64) {
		t.Helper()
		if stamp, _, err := s.store.Load(t.Context(), "user%201/s"); err != nil || stamp.Version != want {
			t.Fatalf("version %d, want %d; %v", stamp.Version, want, err)
		}
	}
	begin := func(ctx context.Context, replies ...*ipc.Reply) ipc.Replies {
		t.Helper()
		answer = replies
		got, err := h(ctx, asked(t, "s", map[string]any{"messages": []any{says("user", "x")}}))
		must(t, err)
		r, err := got.Recv(ctx)
		must(t, err)
		if r.Headers[versionHeader] == "" {
			t.Errorf("%v: the first reply does not tell the version", r.Headers)
		}
		return got
	}
	chunk := &ipc.Reply{Body: encoded(t, map[string]any{"text": "a"}), Context: []byte("half")}

	replies := begin(as(t, 1), chunk, end(&ipc.Reply{}))
	version(0)
	_, err := replies.Recv(t.Context())
	must(t, err)
	version(1)
	if _, err := replies.Recv(t.Context()); !errors.Is(err, io.EOF) {
		t.Error(err)
	}

	replies = begin(as(t, 1), chunk, end(&ipc.Reply{Err: ipc.Errorf(ipc.Internal, "handler", "x")}))
	_, err = replies.Recv(t.Context())
	wantError(t, err, ipc.Internal, "handler")
	version(1)

	begin(as(t, 1), chunk, end(&ipc.Reply{})).Cancel("cancelled")
	version(1)

	ctx, cancel := context.WithCancel(as(t, 1))
	replies = begin(ctx, chunk, nil)
	cancel()
	_, err = replies.Recv(ctx)
	wantError(t, err, ipc.Cancelled, "cancelled")
	version(1)

	ctx, cancel = context.WithCancel(as(t, 1))
	begin(ctx, chunk, nil) // and nobody comes for the rest
	cancel()
	replies = begin(as(t, 1), chunk, end(&ipc.Reply{})) // or this would wait for ever
	_, err = replies.Recv(t.Context())
	must(t, err)
	version(2)
	r, err := s.read(as(t, 1), "s")
	if err != nil || len(r.messages) != 4 || string(r.context) != "half" {
		t.Errorf("%q %q, %v", r.context, r.messages, err)
	}
	if chunk.Headers != nil || len(chunk.Context) == 0 {
		t.Error("the worker's own reply was changed")
	}
}

// Requests of one session go one after the other, each on what the one before has left; other sessions do not wait.
func TestRequestsOfASessionGoInTurn(t *testing.T) {
	s := keeping(t, Config{})
	var inside, most atomic.Int32
	h := s.Link(func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		most.Store(max(most.Load(), inside.Add(1)))
		return answering(func(ctx context.Context, req *ipc.Request) []*ipc.Reply {
			defer inside.Add(-1)
			return counter(ctx, req)
		}).handle(ctx, req)
	})
	var mu sync.Mutex
	seen := map[byte]bool{}
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			r, err := taken(as(t, 1), h, asked(t, "s", nil))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[r.Body[0]] = true
		})
	}
	wg.Wait()
	if len(seen) != 40 || most.Load() != 1 || len(s.turns.lines) != 0 {
		t.Errorf("%d of 40 had a turn of their own, up to %d at a time; %d lines are left", len(seen), most.Load(), len(s.turns.lines))
	}
}

func TestTheLineOfASessionIsBounded(t *testing.T) {
	s := keeping(t, Config{})
	gate := make(chan struct{})
	h := s.Link(func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		if req.Headers[header] == "s" {
			<-gate
		}
		return answering(counter).handle(ctx, req)
	})
	var wg sync.WaitGroup
	for range maxWaiting + 1 {
		wg.Go(func() {
			if _, err := taken(as(t, 1), h, asked(t, "s", nil)); err != nil {
				t.Error(err)
			}
		})
	}
	waiting := func() int {
		s.turns.mu.Lock()
		defer s.turns.mu.Unlock()
		return len(s.turns.lines["user%201/s"])
	}
	eventually(t, "a full line", func() bool { return waiting() == maxWaiting })
	_, err := taken(as(t, 1), h, asked(t, "s", nil))
	wantError(t, err, ipc.ResourceExhausted, "session_busy")
	_, err = taken(as(t, 1), h, asked(t, "other", nil))
	must(t, err)
	close(gate)
	wg.Wait()

	// One that gives up waiting leaves the line.
	must(t, s.turns.take(t.Context(), "user%201/s"))
	ctx, cancel := context.WithCancel(as(t, 1))
	gone := make(chan error)
	go func() { gone <- s.turns.take(ctx, "user%201/s") }()
	eventually(t, "a wait", func() bool { return waiting() == 1 })
	cancel()
	wantError(t, <-gone, ipc.Cancelled, "cancelled")
	s.turns.pass("user%201/s")
	if len(s.turns.lines) != 0 {
		t.Error("a line is left")
	}
}

// With `on_conflict: abort` requests go side by side, and only one of those that have read the same version counts.
func TestConflicts(t *testing.T) {
	s := keeping(t, Config{OnConflict: Abort})
	const n = 8
	var ready sync.WaitGroup
	ready.Add(n)
	h := s.Link(func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		ready.Done()
		ready.Wait()
		return answering(counter).handle(ctx, req)
	})
	var won atomic.Int32
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			switch _, err := taken(as(t, 1), h, asked(t, "s", nil)); {
			case err == nil:
				won.Add(1)
			default:
				wantError(t, err, ipc.Aborted, "session_conflict")
			}
		})
	}
	wg.Wait()
	if r, err := s.read(as(t, 1), "s"); err != nil || string(r.context) != "1" || won.Load() != 1 || s.conflicts.Load() != n-1 {
		t.Errorf("%d won, %d conflicts, the context is %q, %v", won.Load(), s.conflicts.Load(), r.context, err)
	}
}

func TestExplicitVersions(t *testing.T) {
	s := keeping(t, Config{})
	h := s.Link(answering(counter).handle)
	ask := func(version string) error {
		req := asked(t, "s", nil)
		req.Headers[versionHeader] = version
		_, err := taken(as(t, 1), h, req)
		return err
	}
	wantError(t, ask("1"), ipc.Aborted, "session_conflict")
	must(t, ask("0"))
	wantError(t, ask("0"), ipc.Aborted, "session_conflict")
	must(t, ask("1"))
	must(t, ask("2"))
	for _, bad := range []string{"", "-1", "x", "1.0"} {
		wantError(t, ask(bad), ipc.InvalidArgument, "invalid_argument")
	}
	if len(s.turns.lines) != 0 {
		t.Error("a turn was not passed on")
	}
}

// A session that was removed while a request of it ran is not brought back, nor mixed with one that began meanwhile.
func TestASessionThatHasGone(t *testing.T) {
	s := keeping(t, Config{OnConflict: Abort})
	var during func()
	h := s.Link(answering(func(ctx context.Context, req *ipc.Request) []*ipc.Reply {
		if during != nil {
			during()
		}
		return counter(ctx, req)
	}).handle)
	_, err := taken(as(t, 1), h, asked(t, "s", nil))
	must(t, err)
	during = func() {
		during = nil
		_, err := s.store.Remove(t.Context(), "user%201/s")
		must(t, err)
		_, err = taken(as(t, 1), h, asked(t, "s", nil))
		must(t, err)
	}
	_, err = taken(as(t, 1), h, asked(t, "s", nil))
	wantError(t, err, ipc.Aborted, "session_conflict")
	if r, err := s.read(as(t, 1), "s"); err != nil || string(r.context) != "1" {
		t.Errorf("%q, %v", r.context, err)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	cfg := conversing
	cfg.MaxBytes = 1000
	s := keeping(t, cfg)
	answer := "short"
	h := s.Link(answering(func(_ context.Context, req *ipc.Request) []*ipc.Reply {
		return []*ipc.Reply{{Body: encoded(t, answer), Context: req.Context}, end(&ipc.Reply{})}
	}).handle)
	ask := func(words string) error {
		_, err := taken(as(t, 1), h, asked(t, "s", map[string]any{"messages": []any{says("user", words)}}))
		return err
	}
	must(t, ask("hello"))
	wantError(t, ask(strings.Repeat("long ", 300)), ipc.ResourceExhausted, "session_full")
	answer = strings.Repeat("long ", 300)
	wantError(t, ask("hello"), ipc.ResourceExhausted, "session_full")
	answer = "short"
	must(t, ask("hello"))
	full := 0
	for range 100 {
		if err := ask("hello"); err != nil {
			wantError(t, err, ipc.ResourceExhausted, "session_full")
			full++
		}
	}
	if r, err := s.read(as(t, 1), "s"); err != nil || full == 0 || len(r.encode()) > 1000 {
		t.Errorf("%d refused, %d bytes, %v", full, len(r.encode()), err)
	}
}

func TestIDs(t *testing.T) {
	s := keeping(t, Config{})
	h := s.Link(answering(counter).handle)
	for _, id := range []string{"", " ", "a b", "a\n", "\x00", "é", strings.Repeat("x", 129)} {
		_, err := taken(as(t, 1), h, asked(t, id, nil))
		wantError(t, err, ipc.InvalidArgument, "invalid_argument")
	}
	for _, id := range []string{"a", "../2/a", "2/a", "%2F", "*", strings.Repeat("x", 128)} {
		r, err := taken(as(t, 1), h, asked(t, id, nil))
		must(t, err)
		if r.Body[0] != 0 {
			t.Errorf("%q is the same as another", id)
		}
	}
	r, err := taken(as(t, 2), h, asked(t, "a", nil))
	if err != nil || r.Body[0] != 0 {
		t.Errorf("%v, %v", r, err)
	}
	nobodys := as(t, chain.NoID)
	_, err = taken(nobodys, h, asked(t, "a", nil))
	wantError(t, err, ipc.PermissionDenied, "session_owner")
	_, err = taken(nobodys, h, &ipc.Request{Pool: controlPool, Action: "session_list"})
	wantError(t, err, ipc.PermissionDenied, "session_owner")
	for i, principal := range []string{"token robot", "user 1", "token ci"} { // chain/auth goes before the kernel, and calls its users what we do
		req := asked(t, "a", nil)
		req.Principal = principal
		r, err := taken(nobodys, h, req)
		must(t, err)
		if want := []byte{0, 1, 0}[i]; r.Body[0] != want {
			t.Errorf("%s: %d, want %d", principal, r.Body[0], want)
		}
	}
	if prefixOf("1/2") == "1/2/" || (key{"1", "2/a"}).affinity() == (key{"1/2", "a"}).affinity() || (key{"", ""}).affinity() == 0 {
		t.Error("keys that look alike")
	}
}

// Whether or not sessions are kept, a session's requests have a number, by which they find the same worker; those without have none. The server's own pool is left alone.
func TestAffinity(t *testing.T) {
	off, err := New(Config{}, slog.New(slog.DiscardHandler))
	must(t, err)
	for name, s := range map[string]*Sessions{"kept": keeping(t, Config{}), "not kept": off} {
		var got *ipc.Request
		h := s.Link(answering(func(ctx context.Context, req *ipc.Request) []*ipc.Reply { got = req; return counter(ctx, req) }).handle)
		seen := map[uint64]bool{}
		for _, id := range []string{"a", "b", "a"} {
			_, err := taken(as(t, 1), h, asked(t, id, nil))
			must(t, err)
			seen[got.Affinity] = true
		}
		req := asked(t, "a", nil)
		req.Pool = controlPool
		_, err := taken(as(t, 1), h, req)
		must(t, err)
		seen[got.Affinity] = true
		if len(seen) != 3 || !seen[0] {
			t.Errorf("%s: %v", name, slicesOf(seen))
		}
	}
	must(t, off.Close())
}

func slicesOf(m map[uint64]bool) (list []uint64) {
	for k := range maps.Keys(m) {
		list = append(list, k)
	}
	return list
}

// What a session brings into a request is its client's to pay for, like the request itself.
func TestSessionsAreCharged(t *testing.T) {
	s := keeping(t, conversing)
	h := s.Link(answering(func(context.Context, *ipc.Request) []*ipc.Reply {
		return []*ipc.Reply{end(&ipc.Reply{Body: encoded(t, "yes")})}
	}).handle)
	ask := func(text string) error {
		b := budget.New(1 << 20)
		place, refused := ipc.Enter(b.User().Account(10), 0)
		if refused != nil {
			t.Fatal(refused)
		}
		req := asked(t, "s", map[string]any{"messages": []any{says("user", text)}})
		place.Hold(req)
		_, err := taken(as(t, 1), h, req)
		place.Leave()
		if b.Used() != 0 {
			t.Errorf("%d bytes are still held", b.Used())
		}
		return err
	}
	must(t, ask(strings.Repeat("x", 300<<10)))
	wantError(t, ask("and?"), ipc.ResourceExhausted, "memory_full")
}

func TestControl(t *testing.T) {
	s := keeping(t, conversing)
	h := s.Link(answering(func(_ context.Context, req *ipc.Request) []*ipc.Reply {
		if req.Pool == controlPool {
			return []*ipc.Reply{end(&ipc.Reply{Body: encoded(t, "the server's")})}
		}
		return []*ipc.Reply{end(&ipc.Reply{Body: encoded(t, "yes"), Context: []byte("12345")})}
	}).handle)
	ask := func(uid uint32, action string, body, answer any) error {
		t.Helper()
		r, err := taken(as(t, uid), h, &ipc.Request{Pool: controlPool, Action: action, Body: encoded(t, body)})
		if err == nil {
			err = r.Body.Decode(answer)
		}
		return err
	}
	for _, id := range []string{"b", "a"} {
		_, err := taken(as(t, 1), h, asked(t, id, map[string]any{"messages": []any{says("user", "hi")}}))
		must(t, err)
	}
	var list []Listed
	must(t, ask(1, "session_list", nil, &list))
	if len(list) != 2 || list[0].ID != "a" || list[1].ID != "b" || list[0].Version != 1 || list[0].Bytes == 0 {
		t.Errorf("%+v", list)
	}
	must(t, ask(2, "session_list", nil, &list))
	if len(list) != 0 {
		t.Errorf("another user sees %+v", list)
	}
	var shown Shown
	a := map[string]any{"session": "a"}
	must(t, ask(1, "session_show", a, &shown))
	if shown.ID != "a" || shown.Version != 1 || shown.Context != 5 || len(shown.Messages) != 2 {
		t.Errorf("%+v", shown)
	}
	wantError(t, ask(2, "session_show", a, &shown), ipc.NotFound, "unknown_session")
	wantError(t, ask(1, "session_show", nil, &shown), ipc.InvalidArgument, "invalid_argument")
	var removed Removed
	for _, want := range []struct {
		uid uint32
		was bool
	}{{2, false}, {1, true}, {1, false}} {
		must(t, ask(want.uid, "session_rm", a, &removed))
		if removed.Removed != want.was {
			t.Errorf("user %d removed it: %v", want.uid, removed.Removed)
		}
	}
	var other string
	must(t, ask(1, "status", nil, &other))
	if other != "the server's" {
		t.Error(other)
	}
}

func TestConfigureKeepsTheSessions(t *testing.T) {
	s := keeping(t, Config{})
	h := s.Link(answering(counter).handle)
	_, err := taken(as(t, 1), h, asked(t, "s", nil))
	must(t, err)
	must(t, s.Configure(Config{Store: Memory, MaxSessions: 1, OnConflict: Abort}))
	r, err := taken(as(t, 1), h, asked(t, "s", nil))
	if err != nil || r.Body[0] != 1 {
		t.Errorf("%v, %v", r, err)
	}
	_, err = taken(as(t, 1), h, asked(t, "t", nil))
	must(t, err)
	if c := s.store.Count(); c.Sessions != 1 || c.Evicted != 1 {
		t.Errorf("%+v", c)
	}
	if err := s.Configure(Config{Store: Memory, TTL: -1}); err == nil {
		t.Error("taken over")
	}
}
