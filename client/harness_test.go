package client_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/internal/arena"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// TestMain lets this test's binary stand in for ringmaster's: a supervisor starts its builtin workers and its guard from it.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "worker":
			if err := serveTestWorker(os.Args[3]); err != nil {
				os.Exit(1)
			}
			os.Exit(0)
		case "borrower":
			borrow(os.Args[2:])
		case "guard":
			supervisor.RunGuard(os.Stdin)
			os.Exit(0)
		}
	}
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0") // for the workers: under the race detector an exit takes a second otherwise
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what must happen before it fails.
const patience = 20 * time.Second

// server is a fake server on a socket: handle answers the requests of every connection. It gives rings to who asks.
type server struct {
	t      *testing.T
	path   string
	handle func(ctx context.Context, req *ipc.Request, w *ipc.Responder)
	store  *arena.Store // what it lends

	ln   net.Listener
	wg   sync.WaitGroup
	mu   sync.Mutex
	down bool                   // guarded by mu
	open map[ipc.Transport]bool // guarded by mu
	seen int                    // guarded by mu: connections there ever were
}

func newServer(t *testing.T, handle func(ctx context.Context, req *ipc.Request, w *ipc.Responder)) *server {
	t.Helper()
	s := &server{t: t, path: filepath.Join(t.TempDir(), "rm.sock"), handle: handle, open: map[ipc.Transport]bool{}}
	s.store = arena.New(arena.Limits{Client: 4 << 20, Total: 4 << 20, Regions: 4, Files: 4})
	s.start()
	t.Cleanup(s.stop)
	return s
}

// start listens on the server's path.
func (s *server) start() {
	s.t.Helper()
	ln, err := net.Listen("unix", s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.ln = ln
	s.mu.Lock()
	s.down = false
	s.mu.Unlock()
	s.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() { s.serve(conn) })
		}
	})
}

// stop hangs up on everybody, as a server that is killed does.
func (s *server) stop() {
	_ = s.ln.Close()
	s.mu.Lock()
	s.down = true
	for sock := range s.open {
		_ = sock.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// drain tells all clients that the server is about to go.
func (s *server) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sock := range s.open {
		if err := ipc.SendSignal(sock, ipc.KindDrain); err != nil {
			s.t.Error(err)
		}
	}
}

func (s *server) connections() (open, seen int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open), s.seen
}

func (s *server) serve(conn net.Conn) {
	sock := ipc.NewSocket(conn, ipc.MaxHello, patience)
	defer sock.Close()
	if !s.enter(sock, true) {
		return
	}
	defer s.leave(sock)
	theirs, err := ipc.ReadHello(sock)
	if err != nil {
		return
	}
	var seg *shm.Segment
	if theirs.Ring > 0 {
		if seg, err = shm.Create(shm.Geometry{S2W: 64 << 10, W2S: 64 << 10, Bell: true, Eventfd: theirs.Doors&ipc.DoorEventfd != 0, Socket: theirs.Doors&ipc.DoorSocket != 0}); err != nil {
			s.t.Error(err)
			return
		}
	}
	err = ipc.AnswerHello(sock, theirs, ipc.Hello{MaxMessage: 1 << 20, Arena: uint64(s.store.Most())}, seg)
	if seg == nil {
		if err == nil {
			_ = ipc.Serve(context.Background(), sock, s, ipc.ServeConfig{})
		}
		return
	}
	ring := ipc.ServerRing(seg, sock, patience, patience)
	if err == nil && s.enter(ring, false) {
		s.leave(sock) // nobody is to speak over it any more
		set := s.store.Client(arena.ID{}).Set()
		_ = ipc.Serve(context.Background(), ring, s, ipc.ServeConfig{Arenas: set})
		set.Close()
		s.leave(ring)
	}
	_ = ring.Close()
	if err := ring.Free(); err != nil {
		s.t.Error(err)
	}
}

// enter has what is open hung up on by stop. It reports false if that has been.
func (s *server) enter(tr ipc.Transport, first bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return false
	}
	s.open[tr] = true
	if first {
		s.seen++
	}
	return true
}

func (s *server) leave(tr ipc.Transport) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, tr)
}

// ServeRequest implements ipc.Handler.
func (s *server) ServeRequest(ctx context.Context, req *ipc.Request, w *ipc.Responder) {
	s.handle(ctx, req, w)
}

func (s *server) dial() *client.Client {
	s.t.Helper()
	c, err := client.Dial(context.Background(), client.WithAddress(s.path))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// echo answers every request with its body.
func echo(_ context.Context, req *ipc.Request, w *ipc.Responder) {
	_ = w.End(&ipc.Reply{Headers: req.Headers, Body: req.Body, Tensors: req.Tensors})
}

// count sends chunks 0, 1, 2 … until nobody listens.
func count(ctx context.Context, _ *ipc.Request, w *ipc.Responder) {
	for i := 0; ; i++ {
		if err := w.Send(ctx, &ipc.Reply{Body: ipc.Body{byte(i % 100)}}); err != nil {
			_ = w.Fail(err)
			return
		}
	}
}

func wantReason(t *testing.T, err error, want string) {
	t.Helper()
	var e *client.Error
	if !errors.As(err, &e) || string(e.Code)+"/"+e.Reason != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func await[T any](t *testing.T, ch <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patience):
		t.Fatalf("waited in vain: %s", what)
	}
	return v
}

// eventually polls a condition that another goroutine is about to make true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		<-tick.C
	}
}
