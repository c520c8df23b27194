package ipc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/shm"
)

// patience is how long a test waits for something that must happen.
const patience = 20 * time.Second

// checkLeaks fails the test if it leaves a goroutine behind. Call it first: what is cleaned up first must be set up last.
func checkLeaks(t testing.TB) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
}

// pair is a connection: two transports and what lies between them.
type pair struct {
	asking, answering Transport
}

// pairOptions says how a pair differs from the usual one.
type pairOptions struct {
	askingLimit, answeringLimit int // bytes; 0: 1 MiB
}

// implementations of [Transport]. The tests in conformance_test.go hold for each of them.
var implementations = []struct {
	name string
	open func(testing.TB, pairOptions) pair
}{
	{"ring", ringPair},
	{"socket", socketPair},
	{"client's ring", clientRingPair},
	{"client's ring with bells alone", func(t testing.TB, o pairOptions) pair { return helloRingPair(t, o, 0) }},
}

// onEach runs a test on every implementation.
func onEach(t *testing.T, o pairOptions, test func(*testing.T, pair)) {
	if o.askingLimit == 0 {
		o.askingLimit = 1 << 20
	}
	if o.answeringLimit == 0 {
		o.answeringLimit = 1 << 20
	}
	for _, i := range implementations {
		t.Run(i.name, func(t *testing.T) {
			checkLeaks(t)
			test(t, i.open(t, o))
		})
	}
}

// ringPair is a supervisor's and a worker's end, small enough that messages wrap around and come in several frames.
func ringPair(t testing.TB, o pairOptions) pair {
	t.Helper()
	supervisor, worker := segments(t, shm.Geometry{S2W: 64 << 10, W2S: 64 << 10, Eventfd: true})
	return pair{SupervisorRing(supervisor, o.askingLimit), WorkerRing(worker, o.answeringLimit)}
}

// segments returns the two processes' views of a segment: one object in Go memory under the race detector, which sees no other, and two mappings otherwise.
func segments(t testing.TB, g shm.Geometry) (supervisor, worker *shm.Segment) {
	t.Helper()
	var err error
	if raceEnabled {
		if supervisor, err = shm.NewHeap(g); err != nil {
			t.Fatal(err)
		}
		checked(t, supervisor)
		return supervisor, supervisor
	}
	if supervisor, err = shm.Create(g); err != nil {
		t.Fatal(err)
	}
	checked(t, supervisor)
	if worker, err = shm.Open(int(supervisor.File().Fd())); err != nil {
		t.Fatal(err)
	}
	checked(t, worker)
	if g.Eventfd {
		if err := worker.UseEventfd(int(supervisor.Eventfd().Fd())); err != nil {
			t.Fatal(err)
		}
	}
	return supervisor, worker
}

// checked looks through the segment when the test ends, and frees it.
func checked(t testing.TB, seg *shm.Segment) {
	t.Cleanup(func() {
		seg.Shutdown()
		if err := seg.Check(); err != nil {
			t.Error(err)
		}
		if err := seg.Destroy(); err != nil {
			t.Error(err)
		}
	})
}

func socketPair(t testing.TB, o pairOptions) pair {
	t.Helper()
	a, b := connPair(t)
	return pair{NewSocket(a, o.askingLimit, 0), NewSocket(b, o.answeringLimit, 0)}
}

// clientRingPair is a client's and a server's end of rings that came with the hello, as small as ringPair's.
func clientRingPair(t testing.TB, o pairOptions) pair {
	t.Helper()
	return helloRingPair(t, o, DoorEventfd|DoorSocket)
}

// helloRingPair is clientRingPair with these doors.
func helloRingPair(t testing.TB, o pairOptions, doors uint64) pair {
	t.Helper()
	const capacity = 64 << 10
	a, b := connPair(t)
	answered := make(chan *Ring, 1)
	go func() {
		defer close(answered)
		s := NewSocket(b, MaxHello, patience)
		theirs, err := ReadHello(s)
		if err != nil || theirs.Ring != capacity {
			t.Errorf("the client's hello: %+v, %v", theirs, err)
			return
		}
		seg, err := shm.Create(shm.Geometry{S2W: capacity, W2S: capacity, Bell: true, Eventfd: theirs.Doors&doors&DoorEventfd != 0, Socket: theirs.Doors&doors&DoorSocket != 0})
		if err != nil {
			t.Error(err)
			return
		}
		if err := AnswerHello(s, theirs, Hello{MaxMessage: uint64(o.answeringLimit)}, seg); err != nil {
			t.Error(err)
		}
		if err := seg.ClosePassed(); err != nil {
			t.Error(err)
		}
		answered <- ServerRing(seg, s, patience, patience)
	}()
	_, asking, err := ClientHelloRing(NewSocket(a, DefaultMaxMessage, patience), "test", capacity)
	answering := await(t, answered, "the server's end")
	if err != nil || asking == nil || answering == nil {
		t.Fatalf("no rings: %v", err)
	}
	asking.limit = o.askingLimit
	for _, r := range []*Ring{asking, answering} {
		t.Cleanup(func() {
			_ = r.Close()
			if err := r.seg.Check(); err != nil {
				t.Error(err)
			}
			if err := r.Free(); err != nil {
				t.Error(err)
			}
		})
	}
	return pair{asking, answering}
}

func connPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		conns[i], err = net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conns[i].Close() })
	}
	return conns[0], conns[1]
}

// handlerFunc is a [Handler].
type handlerFunc func(context.Context, *Request, *Responder)

func (f handlerFunc) ServeRequest(ctx context.Context, req *Request, w *Responder) { f(ctx, req, w) }

// serving is a running [Serve].
type serving struct {
	t    testing.TB
	tr   Transport
	ends chan struct{}
	err  error // set when ends is closed
}

func serve(t testing.TB, tr Transport, cfg ServeConfig, h handlerFunc) *serving {
	s := &serving{t: t, tr: tr, ends: make(chan struct{})}
	go s.run(cfg, h)
	t.Cleanup(func() {
		_ = tr.Close()
		s.wait()
	})
	return s
}

func (s *serving) run(cfg ServeConfig, h handlerFunc) {
	defer close(s.ends)
	s.err = Serve(context.Background(), s.tr, h, cfg)
}

// wait returns what Serve returned.
func (s *serving) wait() error {
	s.t.Helper()
	await(s.t, s.ends, "the end of Serve")
	return s.err
}

// asking is a [Caller] and its Run.
type asking struct {
	*Caller
	t    testing.TB
	tr   Transport
	ends chan struct{}
	err  error // set when ends is closed
}

var errOwner = Errorf(Unavailable, "connection_lost", "the test is over")

func ask(t testing.TB, tr Transport, events Events) *asking {
	a := &asking{Caller: NewCaller(tr, events), t: t, tr: tr, ends: make(chan struct{})}
	go a.run()
	t.Cleanup(func() { a.die(errOwner, func(uint64) *Error { return errOwner }) })
	return a
}

func (a *asking) run() {
	defer close(a.ends)
	a.err = a.Run()
}

// wait returns what Run returned.
func (a *asking) wait() error {
	a.t.Helper()
	await(a.t, a.ends, "the end of Run")
	return a.err
}

// die is what a Caller's owner does when the transport is gone.
func (a *asking) die(refuse *Error, end func(uint64) *Error) {
	a.t.Helper()
	_ = a.tr.Close()
	_ = a.wait()
	a.Close(refuse, end)
}

// await waits for ch to be closed, or to yield.
func await[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v := <-ch:
		return v
	case <-timer.C:
		t.Fatalf("waited %v for %s", patience, what)
		panic("not reached")
	}
}

// bounded is a context in which nothing waits for ever.
func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// say sends a message as a peer that is only a script.
func say(t testing.TB, tr Transport, m any) {
	t.Helper()
	if _, err := tr.Send(encodeMessage(m)); err != nil {
		t.Fatal(err)
	}
}

// hear receives a message as such a peer.
func hear(t testing.TB, tr Transport) any {
	t.Helper()
	b, err := tr.Recv()
	if err != nil {
		t.Fatal(err)
	}
	m, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// hearError expects an END with an error.
func hearError(t testing.TB, tr Transport, id uint64, code Code, reason string) {
	t.Helper()
	r, ok := hear(t, tr).(*Reply)
	if !ok || !r.End || r.ID != id || r.Err == nil || r.Err.Code != code || r.Err.Reason != reason {
		t.Fatalf("heard %+v (error %v), want END of %d with %s/%s", r, r.Err, id, code, reason)
	}
}

// wantError checks what an error says about itself.
func wantError(t testing.TB, err error, code Code, reason string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != code || e.Reason != reason {
		t.Errorf("got %v, want %s/%s", err, code, reason)
	}
}

// unary makes a call and returns its END.
func unary(ctx context.Context, c *Caller, req *Request) (*Reply, error) {
	call, err := c.Start(req, nil)
	if err != nil {
		return nil, err
	}
	r, err := call.Recv(ctx)
	if err == nil && !r.End {
		call.Cancel("cancelled")
		return nil, errors.New("a chunk came where END was expected")
	}
	return r, err
}

// echoAll answers with what it was asked, or with as many chunks as the body says.
func echoAll(ctx context.Context, req *Request, w *Responder) {
	if req.Action != "count" {
		_ = w.End(&Reply{Headers: req.Headers, Body: req.Body, Tensors: req.Tensors})
		return
	}
	var n int
	if err := req.Body.Decode(&n); err != nil {
		_ = w.Fail(err)
		return
	}
	for i := range n {
		body, err := Marshal(i)
		if err == nil {
			err = w.Send(ctx, &Reply{Body: body})
		}
		if err != nil {
			_ = w.Fail(err)
			return
		}
	}
	_ = w.End(&Reply{})
}

// audited is an answering transport that watches credit: what Serve sends without it is counted.
type audited struct {
	Transport
	violations atomic.Int64
	chunks     atomic.Int64

	mu      sync.Mutex
	granted map[uint64]uint64 // guarded by mu; by request
}

func audit(tr Transport) *audited { return &audited{Transport: tr, granted: map[uint64]uint64{}} }

func (a *audited) Recv() ([]byte, error) {
	b, err := a.Transport.Recv()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch m, _ := Decode(b); m := m.(type) {
	case *Request:
		a.granted[m.ID] = uint64(m.Credit)
	case Credit:
		a.granted[m.ID] += uint64(m.N)
	}
	return b, nil
}

func (a *audited) Send(parts ...[]byte) (uint64, error) {
	m, err := Decode(bytes.Join(parts, nil))
	if err != nil {
		return 0, err
	}
	if r, ok := m.(*Reply); ok && !r.End {
		a.chunks.Add(1)
		a.mu.Lock()
		if a.granted[r.ID] == 0 {
			a.violations.Add(1)
		} else {
			a.granted[r.ID]--
		}
		a.mu.Unlock()
	}
	return a.Transport.Send(parts...)
}

// recorded is an asking transport that remembers where each request ended.
type recorded struct {
	Transport
	mu   sync.Mutex
	ends map[uint64]uint64 // guarded by mu; position by request id
}

func record(tr Transport) *recorded { return &recorded{Transport: tr, ends: map[uint64]uint64{}} }

func (r *recorded) Send(parts ...[]byte) (uint64, error) {
	m, _ := Decode(bytes.Join(parts, nil))
	end, err := r.Transport.Send(parts...)
	if req, ok := m.(*Request); ok && err == nil {
		r.mu.Lock()
		r.ends[req.ID] = end
		r.mu.Unlock()
	}
	return end, err
}

func equalMessages(a, b any) bool { return reflect.DeepEqual(normal(a), normal(b)) }

// isEOF is what a transport's orderly end looks like to a reader.
func isEOF(err error) bool { return errors.Is(err, io.EOF) }
