package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/chain/auth"
	"github.com/ringmasterd/ringmaster/ipc"
	ringmasterv1 "github.com/ringmasterd/ringmaster/proto/ringmaster/v1"
)

// guarded is a server with a gate, on a socket and a port.
type guarded struct {
	*testServer
	port  string
	token string // one that may ask for everything but the server itself
}

// startGuarded starts one where only its own user and the token's bearer may do anything, the latter in these pools; none: in all.
func startGuarded(t *testing.T, backend Backend, cfg Config, pools ...string) *guarded {
	t.Helper()
	if len(pools) == 0 {
		pools = []string{"*"}
	}
	g := &guarded{}
	var hash string
	g.token, hash = auth.NewToken()
	gate, err := auth.New(auth.Config{
		Given: true, Roles: map[string]auth.Role{"app": {Allow: []auth.Rule{{Pools: pools, Actions: []string{"*"}}}}}, Tokens: map[string]auth.Token{"t": {Hash: hash, Roles: []string{"app"}}},
	}, true)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := Listen(filepath.Join(t.TempDir(), "rm.sock"), "")
	if err != nil {
		t.Fatal(err)
	}
	port, err := ListenTCP("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.port = port.Path()
	cfg.Gate, cfg.Logger = gate, slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	srv := newServer(ctx, ln, backendFunc(gate.Link(backend.Call)), cfg.withDefaults())
	go func() { served <- srv.run(ctx, ln, port) }()
	g.testServer = &testServer{server: srv, path: ln.Path(), stop: sync.OnceValue(func() error {
		cancel()
		return <-served
	})}
	t.Cleanup(func() {
		if err := g.stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
		if srv.clients.open != 0 || len(srv.clients.byID) != 0 || srv.clients.memory.Used() != 0 {
			t.Errorf("somebody is still counted: %+v, %d bytes", srv.clients, srv.clients.memory.Used())
		}
	})
	return g
}

func connectTCP(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func dialTCP(t *testing.T, address string) *testClient {
	t.Helper()
	sock := ipc.NewSocket(connectTCP(t, address), 1<<20, patience)
	hello, ring, err := ipc.ClientHelloRing(sock, "test", 1<<20)
	if err != nil || ring != nil {
		t.Fatalf("%v, rings %v", err, ring)
	}
	return newTestClient(t, &testClient{over: sock, hello: hello})
}

func (g *guarded) with(req *ipc.Request) {
	req.Headers = map[string]string{"authorization": "Bearer " + g.token}
}

func TestFramesByTCP(t *testing.T) {
	g := startGuarded(t, newFake(), Config{})
	c := dialTCP(t, g.port)
	_, err := recv(c.call(t, "echo"))
	wantReason(t, err, "PERMISSION_DENIED/unauthenticated")
	if _, err := recv(c.call(t, "echo", g.with)); err != nil {
		t.Error(err)
	}
	_, err = recv(c.call(t, "echo"))
	wantReason(t, err, "PERMISSION_DENIED/unauthenticated") // each request shows its own
	dial(t, g.path).echo(t)
}

// Who has shown no token makes us hold a small frame, even if the token is in the large one; afterwards it is a client like others.
func TestStrangersHoldLittle(t *testing.T) {
	g := startGuarded(t, newFake(), Config{})
	c := dialTCP(t, g.port)
	body, err := ipc.Marshal(make([]byte, 1<<19))
	if err != nil {
		t.Fatal(err)
	}
	large := func(req *ipc.Request) {
		g.with(req)
		req.Body = body
	}
	used := g.server.clients.memory.Used()
	for range 3 {
		_, err := recv(c.call(t, "echo", large))
		wantReason(t, err, "PERMISSION_DENIED/unauthenticated")
	}
	if now := g.server.clients.memory.Used(); now > used+unknownFrame {
		t.Errorf("%d bytes are held for a stranger", now-used)
	}
	if _, err := recv(c.call(t, "echo", g.with)); err != nil {
		t.Fatal(err)
	}
	if r, err := recv(c.call(t, "echo", large)); err != nil || len(r.Body) < 1<<19 {
		t.Error(err)
	}
}

// By gRPC it is told as any error is: a status with its reason.
func TestGRPCByTCP(t *testing.T) {
	g := startGuarded(t, newFake(), Config{})
	conn, err := grpc.NewClient(g.port, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := ringmasterv1.NewRingmasterClient(conn)
	for range 2 {
		_, err := c.Call(t.Context(), &ringmasterv1.CallRequest{Pool: "p", Action: "echo"})
		if e := asIPC(t, err); e.Code != ipc.PermissionDenied || e.Reason != "unauthenticated" {
			t.Errorf("%v", err)
		}
		stream, err := c.Converse(t.Context())
		if err == nil {
			_, err = stream.Recv()
		}
		if e := asIPC(t, err); e.Reason != "unauthenticated" {
			t.Errorf("a stream: %v", err)
		}
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+g.token)
	if _, err := c.Call(ctx, &ringmasterv1.CallRequest{Pool: "p", Action: "echo"}); err != nil {
		t.Error(err)
	}
}

// A client that had to show a token and has shown none is hung up on, whatever it speaks; one that has shown it stays.
func TestUnprovenClientsAreExpelled(t *testing.T) {
	g := startGuarded(t, newFake(), Config{helloTimeout: 300 * time.Millisecond})
	proven, unproven := dialTCP(t, g.port), dialTCP(t, g.port)
	if _, err := recv(proven.call(t, "echo", g.with)); err != nil {
		t.Fatal(err)
	}
	_, err := recv(unproven.call(t, "echo"))
	wantReason(t, err, "PERMISSION_DENIED/unauthenticated")
	web := connectTCP(t, g.port)
	if _, err := io.WriteString(web, "GET /healthz HTTP/1.1\r\n"); err != nil {
		t.Fatal(err)
	}
	await(t, unproven.gone, "the client without a token to lose its connection")
	wantClosed(t, web)
	if _, err := recv(proven.call(t, "echo", g.with)); err != nil {
		t.Error(err)
	}
}

// Both listeners are drained, and requests that came by either are answered.
func TestDrainByTCP(t *testing.T) {
	release := make(chan struct{})
	g := startGuarded(t, backendFunc(func(context.Context, *ipc.Request) (ipc.Replies, error) {
		<-release
		return &echoReplies{body: ipc.Body{42}}, nil
	}), Config{})
	c := dialTCP(t, g.port)
	call := c.call(t, "echo", g.with)
	c.ping(t)
	stopped := make(chan error, 1)
	go func() { stopped <- g.stop() }()
	await(t, c.drain, "drain")
	if _, err := net.Dial("tcp", g.port); err == nil {
		t.Error("a draining server takes new connections")
	}
	close(release)
	if _, err := recv(call); err != nil {
		t.Error(err)
	}
	if err := await(t, stopped, "Serve to return"); err != nil {
		t.Error(err)
	}
}

// When one listener breaks the other one ends as well, and the error is told.
func TestBrokenPort(t *testing.T) {
	ln, err := Listen(filepath.Join(t.TempDir(), "rm.sock"), "")
	if err != nil {
		t.Fatal(err)
	}
	port, err := ListenTCP("localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = port.Listener.Close()
	if err := Serve(context.Background(), ln, newFake(), Config{Logger: slog.New(slog.DiscardHandler)}, port); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(ln.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Error("the socket was left behind")
	}
}

// A connection by TCP counts as its address's, however many processes there are.
func TestAddressIsAClient(t *testing.T) {
	cs := newClients(Config{Clients: Limits{Connections: 2}}.withDefaults(), 0)
	enter := func(address string) (*client, *ipc.Error) {
		return cs.enter(chain.Peer{UID: chain.NoID, Standing: chain.Remote, Address: address})
	}
	a, _ := enter("127.0.0.1:1")
	b, _ := enter("127.0.0.1:2")
	other, _ := enter("127.0.0.2:3")
	six, _ := enter("[::1]:4")
	if a == nil || a != b || other == nil || other == a || six == nil || six == a || six == other || a.id.PID >= 0 {
		t.Errorf("%+v %+v %+v %+v", a, b, other, six)
	}
	if _, e := enter("127.0.0.1:5"); e == nil || e.Reason != "too_many_connections" {
		t.Errorf("a third: %v", e)
	}
}

func TestForeignPage(t *testing.T) {
	allowed := []string{"http://localhost:3000"}
	for _, tt := range []struct {
		host, origin string
		want         bool
	}{
		{"localhost", "", true}, {"localhost:8080", "", true}, {"127.0.0.1:8080", "", true}, {"[::1]:8080", "", true}, {"[::1]", "", true},
		{"", "", false}, {"example.com", "", false}, {"example.com:8080", "", false}, {"127.0.0.1.example.com", "", false}, {"localhost.", "", false}, {"[::2]", "", false}, {"0.0.0.0:8080", "", false},
		{"localhost", "http://localhost:3000", true}, {"localhost", "http://localhost", false}, {"localhost", "null", false}, {"example.com", "http://localhost:3000", false},
	} {
		if e := foreignPage(tt.host, tt.origin, allowed); (e == nil) != tt.want {
			t.Errorf("%q, %q: %v", tt.host, tt.origin, e)
		}
	}
}

func TestStanding(t *testing.T) {
	d := door{uid: 1000, gid: 500}
	for _, tt := range []struct {
		peer chain.Peer
		want chain.Standing
	}{
		{chain.Peer{PID: int32(os.Getpid()), UID: 1000}, chain.Self}, {chain.Peer{PID: 1, UID: 1000}, chain.Owner}, {chain.Peer{PID: 1}, chain.Owner},
		{chain.Peer{PID: 1, UID: 7, GID: 500}, chain.Member}, {chain.Peer{PID: 1, UID: 7, Groups: []uint32{500}}, chain.Member}, {chain.Peer{PID: 1, UID: 7, GID: 7}, chain.Stranger},
	} {
		if got := d.standing(tt.peer); got != tt.want {
			t.Errorf("%+v: %v, want %v", tt.peer, got, tt.want)
		}
	}
}

func TestCGroupOf(t *testing.T) {
	for text, want := range map[string]string{
		"0::/system.slice/robot.service\n": "/system.slice/robot.service",
		"0::/\n":                           "/",
		"5:cpu:/a\n1:name=systemd:/user.slice\n0::/user.slice/x\n": "/user.slice/x",
		"0::/\n1:name=systemd:/user.slice\n":                       "/user.slice",
		"1:name=systemd:/user.slice\n0::/\n":                       "/user.slice",
		"5:cpu:/a\n":                                               "",
		"":                                                         "",
		"0::/a:b\n":                                                "/a:b",
		"5:cpu:/a:name=systemd:/b\n0::/\n":                         "/",
		"9:x:/0::/b\n0::/c:name=systemd:/d\n":                      "/c:name=systemd:/d",
	} {
		if got := cgroupOf(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// The peer's control group is that of /proc, and none when the process has ended.
func TestPeerCGroup(t *testing.T) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Skip(err)
	}
	ln, err := Listen(filepath.Join(t.TempDir(), "rm.sock"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	connect(t, ln.Path())
	raw, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	p, unknown, err := peerOf(raw.(stream), true)
	if unknown != nil || err != nil || p.CGroup != cgroupOf(string(b)) {
		t.Errorf("%+v, %v, want %s", p, err, cgroupOf(string(b)))
	}
	if p, _, err := peerOf(raw.(stream), false); err != nil || p.CGroup != "" {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestListenMode(t *testing.T) {
	ln, err := ListenMode(filepath.Join(t.TempDir(), "new", "rm.sock"), "", 0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for path, want := range map[string]os.FileMode{ln.Path(): 0o666, filepath.Dir(ln.Path()): 0o755} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	for _, address := range []string{"0.0.0.0:0", "[::]:0", "10.1.2.3:80", "127.0.0.1", "localhost", ":80", "example.com:80"} {
		if ln, err := ListenTCP(address); err == nil || !strings.Contains(err.Error(), "127.0.0.1:") {
			t.Errorf("%s: %v, %v", address, ln, err)
		}
	}
}
