package resilience

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// world is pools in memory: what each does with the next request.
type world struct {
	mu     sync.Mutex
	pools  map[string]func(n int) act // n counts the pool's requests from 0
	seen   map[string]int
	asked  []ipc.Request
	ended  int // calls that were cancelled, or whose context ended
	link   *Link
	chain  chain.Handler
	idem   bool
	stream bool
}

// act is what becomes of one request.
type act struct {
	refuse *ipc.Error    // by the call itself
	after  time.Duration // before anything is said
	chunks int
	fail   *ipc.Error // at the end
}

func newWorld(t *testing.T, cfg Pool, stale StaleStore) *world {
	t.Helper()
	w := &world{pools: map[string]func(int) act{}, seen: map[string]int{}, idem: true}
	w.link = New(func(string, string) (ipc.Action, bool) { return ipc.Action{Idempotent: w.idem, Stream: w.stream}, true }, stale, slog.New(slog.DiscardHandler))
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute
	}
	c := Config{Pools: map[string]Pool{"big": cfg}}
	if err := c.Validate([]string{"big", "small"}); err != nil {
		t.Fatal(err)
	}
	w.link.Configure(c)
	w.chain = chain.New(w.serve, w.link.Link)
	t.Cleanup(w.link.Close)
	return w
}

func (w *world) serve(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
	w.mu.Lock()
	n := w.seen[req.Pool]
	w.seen[req.Pool]++
	w.asked = append(w.asked, *req)
	w.mu.Unlock()
	a := w.pools[req.Pool](n)
	if a.refuse != nil {
		return nil, a.refuse
	}
	body, _ := ipc.Marshal(req.Pool)
	return &played{w: w, act: a, body: body, ctx: ctx}, nil
}

type played struct {
	w    *world
	act  act
	body ipc.Body
	ctx  context.Context
	end  bool
}

func (p *played) Recv(ctx context.Context) (*ipc.Reply, error) {
	if p.end {
		return nil, io.EOF
	}
	timer := time.NewTimer(p.act.after)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		p.Cancel("")
		return nil, ipc.AsError(context.Cause(ctx))
	case <-p.ctx.Done():
		p.Cancel("")
		return nil, ipc.AsError(context.Cause(p.ctx))
	}
	if p.act.chunks > 0 {
		p.act.chunks--
		return &ipc.Reply{Body: p.body}, nil
	}
	p.end = true
	if p.act.fail != nil {
		return nil, p.act.fail
	}
	return &ipc.Reply{End: true, Body: p.body}, nil
}

func (p *played) Cancel(string) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.end = true
	p.w.ended++
}

// ask sends a request and takes all its replies.
func (w *world) ask(ctx context.Context, timeout time.Duration) ([]*ipc.Reply, error) {
	r, err := w.chain(ctx, &ipc.Request{Pool: "big", Action: "a", Timeout: timeout, Credit: 1})
	if err != nil {
		return nil, err
	}
	var all []*ipc.Reply
	for {
		reply, err := r.Recv(ctx)
		if err != nil {
			return all, err
		}
		if all = append(all, reply); reply.End {
			return all, nil
		}
	}
}

func (w *world) one(t *testing.T) *ipc.Reply {
	t.Helper()
	all, err := w.ask(t.Context(), 0)
	if err != nil || len(all) != 1 {
		t.Fatalf("got %d replies, %v", len(all), err)
	}
	return all[0]
}

func text(t *testing.T, r *ipc.Reply) (s string) {
	t.Helper()
	if err := r.Body.Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

func reason(err error) string {
	if err == nil {
		return ""
	}
	return ipc.AsError(err).Reason
}

func always(a act) func(int) act { return func(int) act { return a } }

func TestRetries(t *testing.T) {
	lost := failing(ipc.Aborted, "worker_lost", 0)
	down := failing(ipc.Unavailable, "no_ready_worker", 0)
	for _, w := range []struct {
		name  string
		first act
		idem  bool
		tries int // 2: it was tried again
	}{
		{"lost, idempotent", act{fail: lost}, true, 2},
		{"lost", act{fail: lost}, false, 1},
		{"refused", act{refuse: down}, false, 2}, // no worker had it
		{"refused later", act{fail: down}, false, 1},
		{"refused later, idempotent", act{fail: down}, true, 2},
		{"full", act{refuse: failing(ipc.ResourceExhausted, "queue_full", 10*time.Millisecond)}, false, 2},
		{"poison", act{fail: failing(ipc.Aborted, "poison_request", time.Millisecond)}, true, 1},
		{"a mistake", act{fail: failing(ipc.InvalidArgument, "invalid_argument", 0)}, true, 1},
		{"a reply was handed out", act{chunks: 1, fail: lost}, true, 1},
		{"later than it waits", act{refuse: failing(ipc.Unavailable, "crash_loop", 3*time.Second)}, true, 1},
	} {
		t.Run(w.name, func(t *testing.T) {
			in(t, func(t *testing.T) {
				world := newWorld(t, Pool{Retry: DefaultRetry}, nil)
				world.idem = w.idem
				world.pools["big"] = func(n int) act {
					if n == 0 {
						return w.first
					}
					return act{}
				}
				all, err := world.ask(t.Context(), 0)
				if got := world.seen["big"]; got != w.tries || (err == nil) != (w.tries == 2) {
					t.Fatalf("tried %d times, %v; want %d", got, err, w.tries)
				}
				if w.tries == 2 && (all[0].Headers["attempts"] != "2" || all[0].Headers["degraded"] != "") {
					t.Errorf("the reply's headers are %v", all[0].Headers)
				}
				if got := testutil.ToFloat64(world.link.meters.retries.WithLabelValues("big")); got != float64(w.tries-1) {
					t.Errorf("%v retries are counted", got)
				}
			})
		})
	}
}

// A retry takes what is left of the deadline, not all of it again, and one that could not end in time is not made.
func TestRetriesKeepTheDeadline(t *testing.T) {
	in(t, func(t *testing.T) {
		w := newWorld(t, Pool{Retry: Retry{Max: 10, Backoff: time.Second, MaxBackoff: time.Second, Budget: 1}}, nil)
		w.pools["big"] = always(act{})
		for range paceEnough { // it learns that an answer takes 2 s
			w.pools["big"] = always(act{after: 2 * time.Second})
			w.one(t)
		}
		w.asked = nil
		w.pools["big"] = always(act{refuse: failing(ipc.Unavailable, "no_ready_worker", 0)})
		begun := time.Now()
		_, err := w.ask(t.Context(), 5*time.Second)
		if took := time.Since(begun); took > 3*time.Second || reason(err) != "no_ready_worker" {
			t.Errorf("after %v: %v", took, err)
		}
		if n := len(w.asked); n < 3 || ipc.AsError(err).Details["attempts"] == "" {
			t.Errorf("tried %d times; the error's details are %v", n, ipc.AsError(err).Details)
		}
		for i, req := range w.asked[1:] {
			if req.Timeout >= w.asked[i].Timeout || req.Timeout < 2*time.Second {
				t.Errorf("attempt %d had %v left, the one before %v", i+2, req.Timeout, w.asked[i].Timeout)
			}
		}
	})
}

// A client that goes away while its request waits for its next attempt has none.
func TestNoRetryForNobody(t *testing.T) {
	in(t, func(t *testing.T) {
		w := newWorld(t, Pool{Retry: Retry{Max: 3, Backoff: time.Second, MaxBackoff: time.Second, Budget: 1}, Fallback: []Fallback{{Reply: ipc.Body{0xc0}}}}, nil)
		w.pools["big"] = always(act{refuse: failing(ipc.Unavailable, "no_ready_worker", 0)})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := w.ask(ctx, 0); err == nil || w.seen["big"] != 1 {
			t.Errorf("tried %d times: %v", w.seen["big"], err)
		}
	})
}

// In an outage of everything, whatever each request may do, the pool gets at most a fifth more.
func TestBudgetInAnOutage(t *testing.T) {
	in(t, func(t *testing.T) {
		w := newWorld(t, Pool{Retry: DefaultRetry}, nil)
		w.pools["big"] = always(act{refuse: failing(ipc.Unavailable, "no_ready_worker", 0)})
		const requests = 1000
		var wg sync.WaitGroup
		for range requests {
			pass(10 * time.Millisecond)
			wg.Go(func() {
				if _, err := w.ask(t.Context(), 0); reason(err) != "no_ready_worker" {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := w.seen["big"]; got < requests*11/10 || got > requests*12/10+mostSaved+quietSaved {
			t.Errorf("%d requests became %d", requests, got)
		}
		if testutil.ToFloat64(w.link.meters.exhausted.WithLabelValues("big")) == 0 {
			t.Error("nothing tells that the budget was spent")
		}
	})
}

func TestFallbacks(t *testing.T) {
	down := act{refuse: failing(ipc.Unavailable, "crash_loop", time.Minute)}
	fixed, err := ipc.Marshal("sorry")
	if err != nil {
		t.Fatal(err)
	}
	chainOf := []Fallback{{Pool: "small", Action: "b"}, {Stale: time.Hour}, {Reply: fixed}}
	for _, w := range []struct {
		name       string
		big, small act
		idem       bool
		age        time.Duration // of the answer in the cache; 0: none
		text       string
		headers    map[string]string
		err        string
	}{
		{name: "another pool", big: down, text: "small", headers: map[string]string{"degraded": "pool=small; reason=crash_loop", "pool": "small", "attempts": "2"}},
		{name: "it is down, too", big: down, small: down, age: time.Minute, text: "stale", headers: map[string]string{"degraded": "stale=1m0s; reason=crash_loop", "cache": "old", "attempts": "2"}},
		{name: "it fails later", big: down, small: act{fail: failing(ipc.Internal, "handler", 0)}, age: time.Minute, text: "stale", headers: map[string]string{"degraded": "stale=1m0s; reason=crash_loop", "cache": "old", "attempts": "2"}},
		{name: "the cache's is too old", big: down, small: down, age: 2 * time.Hour, text: "sorry", headers: map[string]string{"degraded": "reply=fixed; reason=crash_loop", "attempts": "2"}},
		{name: "may not run twice", big: act{fail: failing(ipc.Aborted, "worker_lost", 0)}, text: "sorry", headers: map[string]string{"degraded": "reply=fixed; reason=worker_lost", "attempts": "1"}},
		{name: "may run twice", idem: true, big: act{fail: failing(ipc.Aborted, "worker_lost", 0)}, text: "small", headers: map[string]string{"degraded": "pool=small; reason=worker_lost", "pool": "small", "attempts": "2"}},
		{name: "the request is wrong", big: act{fail: failing(ipc.InvalidArgument, "invalid_argument", 0)}, err: "invalid_argument"},
		{name: "poison", idem: true, big: act{fail: failing(ipc.Aborted, "poison_request", time.Second)}, err: "poison_request"},
		{name: "nothing is wrong", text: "big", headers: map[string]string{}},
	} {
		t.Run(w.name, func(t *testing.T) {
			in(t, func(t *testing.T) {
				world := newWorld(t, Pool{Fallback: chainOf}, staleStore{w.age})
				world.idem = w.idem
				world.pools["big"], world.pools["small"] = always(w.big), always(w.small)
				all, err := world.ask(t.Context(), 0)
				if w.err != "" {
					if reason(err) != w.err {
						t.Errorf("got %v, want %s", err, w.err)
					}
					return
				}
				if err != nil || len(all) != 1 || text(t, all[0]) != w.text {
					t.Fatalf("got %v, %v; want %q", all, err, w.text)
				}
				got := all[0].Headers
				if len(got) != len(w.headers) {
					t.Errorf("the headers are %v, want %v", got, w.headers)
				}
				for k, v := range w.headers {
					if got[k] != v {
						t.Errorf("the header %s is %q, want %q", k, got[k], v)
					}
				}
				if n := len(world.asked); n > 1 && (world.asked[1].Action != "b" || world.asked[1].Timeout <= 0) {
					t.Errorf("the other pool was asked %+v", world.asked[1])
				}
			})
		})
	}
}

// staleStore has one answer of an age.
type staleStore struct{ age time.Duration }

func (s staleStore) Stale(context.Context, *ipc.Request) (*ipc.Reply, time.Duration, bool) {
	body, _ := ipc.Marshal("stale")
	return &ipc.Reply{Body: body, Headers: map[string]string{"cache": "old"}}, s.age, s.age > 0
}

// A pool that fails is asked no more, until a probe succeeds; what takes its place does so at once.
func TestCircuit(t *testing.T) {
	in(t, func(t *testing.T) {
		breaker := DefaultBreaker
		w := newWorld(t, Pool{Retry: DefaultRetry, Breaker: breaker, Fallback: []Fallback{{Pool: "small"}}}, nil)
		w.idem = false
		w.pools["big"], w.pools["small"] = always(act{fail: failing(ipc.Aborted, "worker_lost", 0)}), always(act{})
		for range breaker.Failures {
			if _, err := w.ask(t.Context(), 0); reason(err) != "worker_lost" {
				t.Fatal(err)
			}
		}
		r := w.one(t)
		if w.seen["big"] != breaker.Failures || r.Headers["degraded"] != "pool=small; reason=circuit_open" {
			t.Errorf("asked %d times, headers %v", w.seen["big"], r.Headers)
		}
		pass(breaker.Open)
		if _, err := w.ask(t.Context(), 0); reason(err) != "worker_lost" { // the probe
			t.Fatal(err)
		}
		if r := w.one(t); r.Headers["pool"] != "small" {
			t.Errorf("after a probe that failed the headers are %v", r.Headers)
		}
		pass(breaker.Open)
		w.pools["big"] = always(act{})
		for range 3 {
			if r := w.one(t); text(t, r) != "big" {
				t.Errorf("after a probe that succeeded the answer is %q", text(t, r))
			}
		}
		w.link.Configure(Config{Pools: map[string]Pool{"big": {Breaker: breaker, Timeout: time.Minute}}})
		if got := w.link.circuits()["big"].openings(); got != 2 {
			t.Errorf("after a change of something else the circuit has opened %d times", got)
		}
		if n, err := testutil.GatherAndCount(gatherer(t, w.link), "ringmaster_circuit_state"); n != 3 || err != nil {
			t.Errorf("%d states are told, %v", n, err)
		}
	})
}

func TestHedges(t *testing.T) {
	hedged := Pool{Hedge: Hedge{After: 100 * time.Millisecond, Max: 1}}
	slow, quick := act{after: 10 * time.Second}, act{after: 10 * time.Millisecond}
	t.Run("the second is first", func(t *testing.T) {
		in(t, func(t *testing.T) {
			w := newWorld(t, hedged, nil)
			w.pools["big"] = func(n int) act { return []act{slow, quick}[n] }
			begun := time.Now()
			r := w.one(t)
			if took := time.Since(begun); took != 110*time.Millisecond || r.Headers["attempts"] != "2" {
				t.Errorf("took %v, headers %v", took, r.Headers)
			}
			w.link.Close()
			if w.ended != 1 || testutil.ToFloat64(w.link.meters.hedges.WithLabelValues("big", "won")) != 1 {
				t.Errorf("%d attempts were cancelled", w.ended)
			}
		})
	})
	t.Run("the first is first", func(t *testing.T) {
		in(t, func(t *testing.T) {
			w := newWorld(t, hedged, nil)
			w.pools["big"] = func(n int) act { return []act{{after: 200 * time.Millisecond}, slow}[n] }
			if w.one(t); w.seen["big"] != 2 {
				t.Errorf("asked %d times", w.seen["big"])
			}
			w.link.Close()
			if w.ended != 1 || testutil.ToFloat64(w.link.meters.hedges.WithLabelValues("big", "lost")) != 1 {
				t.Errorf("%d attempts were cancelled", w.ended)
			}
		})
	})
	t.Run("one fails, the other is waited for", func(t *testing.T) {
		in(t, func(t *testing.T) {
			w := newWorld(t, hedged, nil)
			w.pools["big"] = func(n int) act {
				return []act{{after: 200 * time.Millisecond, fail: failing(ipc.Internal, "handler", 0)}, {after: time.Second}}[n]
			}
			w.one(t)
		})
	})
	t.Run("nobody waits any more", func(t *testing.T) {
		in(t, func(t *testing.T) {
			w := newWorld(t, hedged, nil)
			w.pools["big"] = always(slow)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := w.ask(ctx, 0); reason(err) != "deadline" {
				t.Error(err)
			}
			w.link.Close()
			if w.ended != 2 {
				t.Errorf("%d attempts of 2 were cancelled", w.ended)
			}
		})
	})
	t.Run("by what is usual", func(t *testing.T) {
		in(t, func(t *testing.T) {
			w := newWorld(t, Pool{Hedge: DefaultHedge}, nil)
			w.pools["big"] = always(act{after: time.Second})
			for range paceEnough {
				w.one(t)
			}
			w.pools["big"] = func(n int) act { return []act{slow, quick}[n-paceEnough] }
			begun := time.Now()
			if w.one(t); time.Since(begun) != 1010*time.Millisecond {
				t.Errorf("took %v", time.Since(begun))
			}
		})
	})
	for name, change := range map[string]func(*world, *ipc.Request){
		"may not run twice": func(w *world, _ *ipc.Request) { w.idem = false },
		"a stream":          func(w *world, _ *ipc.Request) { w.stream = true },
		"the deadline":      func(_ *world, r *ipc.Request) { r.Timeout = 50 * time.Millisecond },
		"tensors in an arena": func(_ *world, r *ipc.Request) {
			r.Tensors = []ipc.Tensor{{Name: "x", DType: "uint8", Shape: []uint64{1}, At: ipc.Range{Region: 1, Length: 1}}}
		},
	} {
		t.Run("not: "+name, func(t *testing.T) {
			in(t, func(t *testing.T) {
				w := newWorld(t, hedged, nil)
				w.pools["big"] = always(act{after: time.Second})
				req := &ipc.Request{Pool: "big", Action: "a"}
				change(w, req)
				ctx, cancel := t.Context(), func() {}
				if req.Timeout > 0 {
					ctx, cancel = context.WithTimeout(ctx, req.Timeout)
				}
				defer cancel()
				r, err := w.chain(ctx, req)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = r.Recv(ctx)
				if w.seen["big"] != 1 {
					t.Errorf("asked %d times", w.seen["big"])
				}
			})
		})
	}
}

// A request that the link has nothing to do with costs it nothing.
func TestOthersPass(t *testing.T) {
	w := newWorld(t, Pool{Retry: DefaultRetry}, nil)
	reply := &played{w: w}
	h := w.link.Link(func(context.Context, *ipc.Request) (ipc.Replies, error) { return reply, nil })
	req := &ipc.Request{Pool: "small"}
	if n := testing.AllocsPerRun(100, func() { _, _ = h(context.Background(), req) }); n != 0 {
		t.Errorf("it allocates %v times", n)
	}
}

func gatherer(t *testing.T, l *Link) *prometheus.Registry {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(l.Collectors()...)
	return r
}
