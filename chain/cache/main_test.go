package cache

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeClock tells the time that a test says.
type fakeClock struct{ now atomic.Int64 }

func newClock() *fakeClock {
	c := &fakeClock{}
	c.now.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *fakeClock) NowNano() int64                      { return c.now.Load() }
func (c *fakeClock) Tick(time.Duration) <-chan time.Time { return nil }
func (c *fakeClock) pass(d time.Duration)                { c.now.Add(int64(d)) }

// workers stand for what is behind the cache: handle is called for each request that gets there.
type workers struct {
	mu     sync.Mutex
	asked  []*ipc.Request
	handle func(ctx context.Context, req *ipc.Request) (ipc.Replies, error)
}

func (w *workers) call(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
	w.mu.Lock()
	w.asked = append(w.asked, req)
	w.mu.Unlock()
	return w.handle(ctx, req)
}

// count is how many requests got through.
func (w *workers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.asked)
}

// last is the request that got through last.
func (w *workers) last() *ipc.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[len(w.asked)-1]
}

// echoing workers answer with the request's body.
func echoing() *workers {
	return &workers{handle: func(_ context.Context, req *ipc.Request) (ipc.Replies, error) {
		return answers(&ipc.Reply{End: true, Body: req.Body}), nil
	}}
}

// scripted are replies that are known in advance, and after them an error.
type scripted struct {
	replies []*ipc.Reply
	err     error
	gate    <-chan struct{} // before each reply an element is taken; nil: at once
	taken   atomic.Int32
}

func answers(replies ...*ipc.Reply) *scripted { return &scripted{replies: replies, err: io.EOF} }

func (s *scripted) Recv(ctx context.Context) (*ipc.Reply, error) {
	if s.gate != nil {
		select {
		case <-s.gate:
		case <-ctx.Done():
			return nil, ipc.AsError(context.Cause(ctx))
		}
	}
	n := int(s.taken.Add(1)) - 1
	if n >= len(s.replies) {
		return nil, s.err
	}
	return s.replies[n], nil
}

func (s *scripted) Cancel(string) {}

const testTTL = time.Minute

// one is a configuration with one cacheable action, pool p and action a.
func one(change func(*Action)) Config {
	a := Action{TTL: testTTL}
	if change != nil {
		change(&a)
	}
	return Config{Pools: map[string]Pool{"p": {Version: "1", Actions: map[string]Action{"a": a}}}}
}

// harness is a cache in front of workers.
type harness struct {
	*Cache
	t       testing.TB
	clock   *fakeClock
	handler chain.Handler
}

func start(t testing.TB, cfg Config, w *workers) *harness {
	t.Helper()
	h := &harness{t: t, clock: newClock()}
	var err error
	if h.Cache, err = New(cfg, Options{Clock: h.clock}); err != nil {
		t.Fatal(err)
	}
	h.handler = chain.New(w.call, h.Link)
	t.Cleanup(func() {
		h.Close()
		h.checkBytes()
	})
	return h
}

// checkBytes checks that all bytes which are held are those of entries.
func (h *harness) checkBytes() {
	h.t.Helper()
	s := h.store.Load()
	if s == nil {
		return
	}
	h.ahead.forget()
	var sum int64
	for _, e := range s.entries.All() {
		sum += e.size
	}
	if held := s.room.held.Load(); held != sum {
		h.t.Errorf("%d bytes are held, entries have %d", held, sum)
	}
}

func request(body any) *ipc.Request {
	b, err := ipc.Marshal(body)
	if err != nil {
		panic(err)
	}
	return &ipc.Request{Pool: "p", Action: "a", Body: b, Client: ipc.Client{UID: 1, PID: 10}}
}

// reply makes a reply with a body.
func reply(end bool, body any) *ipc.Reply {
	b, err := ipc.Marshal(body)
	if err != nil {
		panic(err)
	}
	return &ipc.Reply{End: end, Body: b}
}

// all asks and takes every reply.
func (h *harness) all(ctx context.Context, req *ipc.Request) ([]*ipc.Reply, error) {
	replies, err := h.handler(ctx, req)
	if err != nil {
		return nil, err
	}
	return drain(ctx, replies)
}

func drain(ctx context.Context, replies ipc.Replies) (got []*ipc.Reply, err error) {
	for {
		r, err := replies.Recv(ctx)
		if err != nil {
			return got, err
		}
		got = append(got, r)
		if r.End {
			return got, nil
		}
	}
}

// ask asks for one reply and returns it and what it says of the cache.
func (h *harness) ask(req *ipc.Request) (*ipc.Reply, string) {
	h.t.Helper()
	got, err := h.all(h.t.Context(), req)
	if err != nil {
		h.t.Fatal(err)
	}
	return got[len(got)-1], got[0].Headers["cache"]
}

// says asks and checks what the reply says of the cache.
func (h *harness) says(want string, req *ipc.Request) *ipc.Reply {
	h.t.Helper()
	r, said := h.ask(req)
	if said != want {
		h.t.Errorf("the reply says %q, want %q", said, want)
	}
	return r
}

func with(req *ipc.Request, header, value string) *ipc.Request {
	r := *req
	r.Headers = map[string]string{header: value}
	return &r
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		<-tick.C
	}
}

// waiters is how many wait for flights.
func (h *harness) waiters() (n int) {
	h.flying.Lock()
	defer h.flying.Unlock()
	for _, f := range h.flights {
		f.mu.Lock()
		n += len(f.waiting)
		f.mu.Unlock()
	}
	return n
}
