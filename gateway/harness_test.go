package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("GATEWAY_TEST_STRANGER"); path != "" {
		os.Exit(stranger(path))
	}
	if what := os.Getenv("GATEWAY_TEST_VILLAIN"); what != "" {
		villain(what, os.Getenv("GATEWAY_TEST_SOCKET"))
	}
	if path := os.Getenv("GATEWAY_TEST_RINGER"); path != "" {
		ringer(path)
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what must happen before it fails.
const patience = 20 * time.Second

// fake is a Backend with three actions: echo answers with the request's body; stream sends chunks until its reader stops; block answers only when its context ends.
type fake struct {
	chunk []byte // a chunk's body; nil: a small one
	ended chan string
}

func newFake() *fake { return &fake{ended: make(chan string, 1024)} }

// tell reports a request's state to the test, unless nobody has listened for a long time.
func (f *fake) tell(what string) {
	select {
	case f.ended <- what:
	default:
	}
}

func (f *fake) Call(_ context.Context, req *ipc.Request) (ipc.Replies, error) {
	switch req.Action {
	case "echo":
		return &echoReplies{body: req.Body}, nil
	case "stream":
		chunk := f.chunk
		if chunk == nil {
			chunk = []byte{7}
		}
		return &streamReplies{fake: f, chunk: chunk}, nil
	case "block":
		return &blockReplies{fake: f}, nil
	}
	return nil, ipc.Errorf(ipc.NotFound, "unknown_action", "no action %q", req.Action)
}

type echoReplies struct{ body ipc.Body }

func (r *echoReplies) Recv(context.Context) (*ipc.Reply, error) {
	return &ipc.Reply{End: true, Body: r.body}, nil
}
func (r *echoReplies) Cancel(string) {}

type streamReplies struct {
	*fake
	chunk []byte
}

func (r *streamReplies) Recv(ctx context.Context) (*ipc.Reply, error) {
	if ctx.Err() != nil {
		err := ipc.AsError(context.Cause(ctx))
		r.tell(err.Reason)
		return nil, err
	}
	return &ipc.Reply{Body: r.chunk}, nil
}
func (r *streamReplies) Cancel(reason string) { r.tell(reason) }

type blockReplies struct{ *fake }

func (r *blockReplies) Recv(ctx context.Context) (*ipc.Reply, error) {
	r.tell("begun")
	<-ctx.Done()
	err := ipc.AsError(context.Cause(ctx))
	r.tell(err.Reason)
	return nil, err
}
func (r *blockReplies) Cancel(string) {}

// server is a running Serve.
type testServer struct {
	*server
	path string
	stop func() error // ends Serve's context and returns its error; also called by the test's cleanup
}

func start(t testing.TB, backend Backend, cfg Config) *testServer {
	t.Helper()
	ln, err := Listen(filepath.Join(t.TempDir(), "rm.sock"), "")
	if err != nil {
		t.Fatal(err)
	}
	return startOn(t, ln, backend, cfg)
}

func startOn(t testing.TB, ln *Listener, backend Backend, cfg Config) *testServer {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	srv := newServer(ctx, ln, backend, cfg.withDefaults())
	go func() { served <- srv.run(ctx, ln) }()
	s := &testServer{server: srv, path: ln.Path(), stop: sync.OnceValue(func() error {
		cancel()
		return <-served
	})}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Lstat(s.path); ln.file != nil && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket file was left behind: %v", err)
		}
		if srv.clients.open != 0 || len(srv.clients.byID) != 0 || len(srv.clients.byUID) != 0 || srv.clients.memory.Used() != 0 {
			t.Errorf("somebody is still counted: %+v, %d bytes", srv.clients, srv.clients.memory.Used())
		}
	})
	return s
}

// testClient is a connected client.
type testClient struct {
	*ipc.Caller
	over  ipc.Transport
	ring  *ipc.Ring // nil: over is the socket
	hello *ipc.Hello
	drain chan struct{} // closed when the server says drain
	gone  chan struct{} // closed when the connection has ended
	why   error         // after gone
}

func dial(t testing.TB, path string) *testClient {
	t.Helper()
	sock := ipc.NewSocket(connect(t, path), 1<<20, patience)
	hello, err := ipc.ClientHello(sock, "test")
	if err != nil {
		t.Fatal(err)
	}
	return newTestClient(t, &testClient{over: sock, hello: hello})
}

// dialRing is dial, with rings of so many bytes.
func dialRing(t testing.TB, path string, capacity uint64) *testClient {
	t.Helper()
	hello, ring, err := ipc.ClientHelloRing(ipc.NewSocket(connect(t, path), 1<<20, patience), "test", capacity)
	if err != nil || ring == nil {
		t.Fatalf("rings %v, %v", ring, err)
	}
	return newTestClient(t, &testClient{over: ring, ring: ring, hello: hello})
}

func newTestClient(t testing.TB, c *testClient) *testClient {
	c.drain, c.gone = make(chan struct{}), make(chan struct{})
	c.Caller = ipc.NewCaller(c.over, ipc.Events{Drain: func() { close(c.drain) }})
	go func() {
		defer close(c.gone)
		c.why = c.Run()
		_ = c.over.Close()
		lost := ipc.Errorf(ipc.Unavailable, "connection_lost", "%v", c.why)
		c.Caller.Close(lost, func(uint64) *ipc.Error { return lost })
		if c.ring != nil {
			if err := c.ring.Free(); err != nil {
				t.Error(err)
			}
		}
	}()
	t.Cleanup(c.hangUp)
	return c
}

func (c *testClient) hangUp() {
	_ = c.over.Close()
	<-c.gone
}

// call starts a request and fails the test if that is impossible.
func (c *testClient) call(t testing.TB, action string, edit ...func(*ipc.Request)) *ipc.Call {
	t.Helper()
	req := &ipc.Request{Pool: "p", Action: action, Body: ipc.Body{42}}
	for _, e := range edit {
		e(req)
	}
	call, err := c.Start(req, nil)
	if err != nil {
		t.Fatal(err)
	}
	return call
}

// echo makes one round trip.
func (c *testClient) echo(t testing.TB) {
	t.Helper()
	r, err := recv(c.call(t, "echo"))
	if err != nil || len(r.Body) != 1 || r.Body[0] != 42 {
		t.Errorf("echo: %+v, %v", r, err)
	}
}

func recv(call *ipc.Call) (*ipc.Reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return call.Recv(ctx)
}

// connect connects, and tries again while the server's backlog is full, as clients do.
func connect(t testing.TB, path string) net.Conn {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		conn, err := net.Dial("unix", path)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() })
			return conn
		}
		if !errors.Is(err, unix.EAGAIN) || time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.After(time.Millisecond)
	}
}

// wantReason fails the test unless err is an *ipc.Error with this code and reason.
func wantReason(t *testing.T, err error, want string) {
	t.Helper()
	var e *ipc.Error
	if !errors.As(err, &e) || string(e.Code)+"/"+e.Reason != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// await returns what a channel delivers, or fails the test.
func await[T any](t testing.TB, ch <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patience):
		t.Fatalf("waited in vain: %s", what)
	}
	return v
}

// firstMessage reads one message.
func firstMessage(t *testing.T, conn net.Conn) (any, error) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	b, err := ipc.NewSocket(conn, ipc.MaxHello, 0).Recv()
	if err != nil {
		return nil, err
	}
	m, err := ipc.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return m, nil
}

// wantClosed reads to the end of the connection.
func wantClosed(t testing.TB, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the server did not close the connection")
	}
}

// openFDs counts this process's file descriptors.
func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
