package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// gated workers answer when the gate opens.
func gated(gate <-chan struct{}) *workers {
	return &workers{handle: func(_ context.Context, req *ipc.Request) (ipc.Replies, error) {
		return &scripted{replies: []*ipc.Reply{{End: true, Body: req.Body}}, gate: gate}, nil
	}}
}

// outcome is how one of many requests ended.
type outcome struct {
	replies []*ipc.Reply
	err     error
}

// begin asks on a goroutine of its own.
func (h *harness) begin(ctx context.Context, req *ipc.Request) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		r, err := h.all(ctx, req)
		done <- outcome{r, err}
	}()
	return done
}

func TestEqualRequestsShareAFlight(t *testing.T) {
	gate := make(chan struct{})
	w := gated(gate)
	h := start(t, one(nil), w)
	const many = 100
	var waiting []<-chan outcome
	for range many {
		waiting = append(waiting, h.begin(t.Context(), request("x")))
	}
	eventually(t, "all to wait", func() bool { return h.waiters() == many })
	close(gate)
	said := map[string]int{}
	for _, done := range waiting {
		o := <-done
		if o.err != nil {
			t.Fatal(o.err)
		}
		said[o.replies[0].Headers["cache"]]++
	}
	if w.count() != 1 || said[saidMiss] != 1 || said[saidCoalesced] != many-1 {
		t.Errorf("%d got through, %v", w.count(), said)
	}
}

// Whoever leaves, the flight goes on for the others; when the last one has left it ends, and the next one begins anew.
func TestFlightGoesOnWhileAnybodyWaits(t *testing.T) {
	gate := make(chan struct{})
	var ended atomic.Int32
	w := &workers{}
	w.handle = func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		context.AfterFunc(ctx, func() { ended.Add(1) })
		return &scripted{replies: []*ipc.Reply{{End: true, Body: req.Body}}, gate: gate}, nil
	}
	h := start(t, one(nil), w)
	first, leave := context.WithCancel(t.Context())
	leader := h.begin(first, request("x"))
	eventually(t, "the first", func() bool { return h.waiters() == 1 })
	second, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	follower := h.begin(second, request("x"))
	eventually(t, "both", func() bool { return h.waiters() == 2 })
	leave()
	if o := <-leader; ipc.AsError(o.err).Code != ipc.Cancelled {
		t.Errorf("the first one: %v", o.err)
	}
	if ended.Load() != 0 {
		t.Fatal("the flight ended with the first one")
	}
	late, quit := context.WithDeadline(t.Context(), time.Now().Add(time.Millisecond))
	defer quit()
	if o := <-h.begin(late, request("x")); ipc.AsError(o.err).Code != ipc.DeadlineExceeded {
		t.Errorf("one with no time: %v", o.err)
	}
	gate <- struct{}{}
	if o := <-follower; o.err != nil || w.count() != 1 {
		t.Errorf("the second one: %v; %d got through", o.err, w.count())
	}

	alone, leave := context.WithCancel(t.Context())
	only := h.begin(alone, request("y"))
	eventually(t, "the request", func() bool { return h.waiters() == 1 })
	leave()
	<-only
	eventually(t, "the flight's end", func() bool { return ended.Load() == 2 })
	again := h.begin(t.Context(), request("y"))
	eventually(t, "a flight of its own", func() bool { return w.count() == 3 })
	gate <- struct{}{}
	if o := <-again; o.err != nil {
		t.Error(o.err)
	}
}

// The time that a flight has is that of the pool, or more; those who join have theirs.
func TestFlightsTime(t *testing.T) {
	w := echoing()
	cfg := one(nil)
	cfg.Pools["p"] = Pool{Timeout: time.Minute, Actions: cfg.Pools["p"].Actions}
	h := start(t, cfg, w)
	for i, tt := range []struct{ has, gets time.Duration }{{0, 0}, {time.Second, time.Minute}, {time.Hour, time.Hour}} {
		req := request(i)
		req.Timeout = tt.has
		h.says(saidMiss, req)
		if got := w.asked[i].Timeout; got != tt.gets {
			t.Errorf("%v became %v, want %v", tt.has, got, tt.gets)
		}
	}
}

// An error of the worker's is everybody's. What went wrong for the first one's sake is tried again by those who joined.
func TestFlightFails(t *testing.T) {
	for what, tt := range map[string]struct {
		err     *ipc.Error
		through int
		failed  int
	}{
		"the worker's":     {ipc.Errorf(ipc.Aborted, "worker_lost", "no"), 1, 3},
		"the first one's":  {ipc.Errorf(ipc.ResourceExhausted, "queue_full", "no"), 2, 1},
		"the pool's time":  {ipc.Errorf(ipc.DeadlineExceeded, "deadline", "no"), 2, 1},
		"the worker hangs": {ipc.Errorf(ipc.DeadlineExceeded, "hang_timeout", "no"), 1, 3},
	} {
		for _, begun := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", what, begun), func(t *testing.T) {
				gate := make(chan struct{})
				var n atomic.Int32
				w := &workers{handle: func(context.Context, *ipc.Request) (ipc.Replies, error) {
					if n.Add(1) > 1 {
						return answers(&ipc.Reply{End: true}), nil
					}
					if begun {
						return &scripted{err: tt.err, gate: gate}, nil
					}
					<-gate
					return nil, tt.err
				}}
				h := start(t, one(nil), w)
				waiting := []<-chan outcome{h.begin(t.Context(), request("x"))}
				eventually(t, "the first", func() bool { return h.waiters() == 1 })
				for range 2 {
					waiting = append(waiting, h.begin(t.Context(), request("x")))
				}
				eventually(t, "all to wait", func() bool { return h.waiters() == 3 })
				close(gate)
				failed := 0
				for _, done := range waiting {
					if o := <-done; o.err != nil {
						failed++
					}
				}
				if w.count() != tt.through || failed != tt.failed {
					t.Errorf("%d got through, %d failed; want %d, %d", w.count(), failed, tt.through, tt.failed)
				}
			})
		}
	}
}

// Who joins a stream in its midst gets it from the beginning, live; a reader that does not read holds nobody up while it may be kept.
func TestStreamIsShared(t *testing.T) {
	gate := make(chan struct{})
	var script []*ipc.Reply
	for i := range 20 {
		script = append(script, reply(false, i))
	}
	script = append(script, &ipc.Reply{End: true})
	w := &workers{handle: func(context.Context, *ipc.Request) (ipc.Replies, error) {
		return &scripted{replies: script, gate: gate}, nil
	}}
	h := start(t, one(nil), w)
	slow, err := h.handler(t.Context(), request("x"))
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		gate <- struct{}{}
	}
	fast, err := h.handler(t.Context(), request("x"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		var n int
		if r, err := fast.Recv(t.Context()); err != nil || r.Body.Decode(&n) != nil || n != i {
			t.Fatalf("%d, %v", n, err)
		}
	}
	close(gate)
	if got, err := drain(t.Context(), fast); err != nil || len(got) != 16 {
		t.Errorf("%d more replies, %v", len(got), err)
	}
	if got, err := drain(t.Context(), slow); err != nil || len(got) != 21 {
		t.Errorf("the slow one: %d replies, %v", len(got), err)
	}
	if w.count() != 1 {
		t.Errorf("%d got through", w.count())
	}
	h.says(saidHit, request("x"))
}

// What is too large is handed through: everybody gets all of it, nothing is kept, and hardly more is held than somebody has still to take.
func TestTooLargeIsHandedThrough(t *testing.T) {
	const chunks = 100
	chunk := make([]byte, 1<<10)
	var taken atomic.Int32
	w := &workers{handle: func(context.Context, *ipc.Request) (ipc.Replies, error) {
		var script []*ipc.Reply
		for range chunks {
			script = append(script, reply(false, chunk))
		}
		s := answers(append(script, &ipc.Reply{End: true})...)
		return &watchedScript{s, &taken}, nil
	}}
	h := start(t, one(func(a *Action) { a.MaxEntry = 8 << 10 }), w)
	slow, err := h.handler(t.Context(), request("x"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "as much as may be kept", func() bool { return taken.Load() >= 7 })
	fast, err := h.handler(t.Context(), request("x"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan outcome, 1)
	go func() {
		got, err := drain(context.Background(), fast)
		done <- outcome{got, err}
	}()
	got, err := drain(t.Context(), slow)
	if err != nil || len(got) != chunks+1 {
		t.Errorf("%d replies, %v", len(got), err)
	}
	if o := <-done; o.err != nil || len(o.replies) != chunks+1 {
		t.Errorf("the other: %d replies, %v", len(o.replies), o.err)
	}
	if n := h.store.Load().entries.EstimatedSize(); n != 0 {
		t.Errorf("%d entries", n)
	}
	// One that nobody reads stops its worker's stream.
	taken.Store(0)
	idle, err := h.handler(t.Context(), request("y"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "as much as may be kept", func() bool { return taken.Load() >= 7 })
	if n := taken.Load(); n > 9 {
		t.Errorf("%d replies were taken though nobody reads", n)
	}
	idle.Cancel("cancelled")
}

// watchedScript counts what is taken.
type watchedScript struct {
	*scripted
	n *atomic.Int32
}

func (s *watchedScript) Recv(ctx context.Context) (*ipc.Reply, error) {
	s.n.Add(1)
	return s.scripted.Recv(ctx)
}

// Many ask the same few things at random, some give up, workers fail now and then; nobody gets another's answer, and no byte is lost.
func TestFlightsUnderLoad(t *testing.T) {
	var n atomic.Int64
	w := &workers{}
	w.handle = func(_ context.Context, req *ipc.Request) (ipc.Replies, error) {
		i := n.Add(1)
		switch {
		case i%7 == 0:
			return nil, ipc.Errorf(ipc.ResourceExhausted, "queue_full", "no")
		case i%11 == 0:
			return &scripted{err: ipc.Errorf(ipc.Aborted, "worker_lost", "no")}, nil
		}
		return answers(&ipc.Reply{Body: req.Body}, &ipc.Reply{Body: req.Body}, &ipc.Reply{End: true, Body: req.Body}), nil
	}
	h := start(t, one(func(a *Action) { a.MaxEntry = 4 << 10 }), w)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range 400 {
				what := fmt.Sprint(r.IntN(20))
				if r.IntN(8) == 0 {
					what += string(make([]byte, 6<<10)) // too large
				}
				ctx, cancel := context.WithCancel(context.Background())
				req := request(what)
				req.Client.UID = uint32(r.IntN(2))
				if r.IntN(4) == 0 {
					go cancel()
				}
				if r.IntN(20) == 0 {
					h.Clear("p")
				}
				if r.IntN(10) == 0 {
					req = with(req, "cache", refresh)
				}
				got, err := h.all(ctx, req)
				if err == nil && len(got) != 3 {
					t.Errorf("%d replies", len(got))
				}
				for _, reply := range got {
					if string(reply.Body) != string(req.Body) {
						t.Errorf("%q got %q", req.Body, reply.Body)
					}
				}
				cancel()
			}
		})
	}
	wg.Wait()
	eventually(t, "all flights to end", func() bool {
		h.flying.Lock()
		defer h.flying.Unlock()
		return len(h.flights) == 0
	})
}

// A reader of what is handed through makes others wait for so long in all, and is then left behind; alone it takes as long as it likes.
func TestSlowReaderIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chunk := make([]byte, 1<<10)
		gate := make(chan struct{})
		w := &workers{handle: func(context.Context, *ipc.Request) (ipc.Replies, error) {
			var script []*ipc.Reply
			for range 40 {
				script = append(script, reply(false, chunk))
			}
			return &scripted{replies: append(script, &ipc.Reply{End: true}), gate: gate}, nil
		}}
		h := start(t, one(func(a *Action) { a.MaxEntry = 4 << 10 }), w)
		slowly := func(replies ipc.Replies, pause time.Duration) <-chan outcome {
			done := make(chan outcome, 1)
			go func() {
				var o outcome
				for o.err == nil && (len(o.replies) == 0 || !o.replies[len(o.replies)-1].End) {
					var r *ipc.Reply
					<-time.After(pause)
					if r, o.err = replies.Recv(t.Context()); o.err == nil {
						o.replies = append(o.replies, r)
					}
				}
				done <- o
			}()
			return done
		}
		begin := func(req *ipc.Request) ipc.Replies {
			replies, err := h.handler(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			return replies
		}
		open := func() { // for one answer, once all have asked
			for range 41 {
				gate <- struct{}{}
			}
		}
		alone := begin(request("alone"))
		go open()
		if o := <-slowly(alone, time.Minute); o.err != nil || len(o.replies) != 41 {
			t.Errorf("alone: %d replies, %v", len(o.replies), o.err)
		}
		for _, tt := range []struct {
			pause time.Duration
			fails bool
		}{{100 * time.Millisecond, false}, {time.Second, true}, {time.Hour, true}} {
			slow, fast := begin(request("x")), begin(request("x"))
			go open()
			before := time.Now()
			slower, faster := slowly(slow, tt.pause), slowly(fast, 0)
			if o := <-faster; o.err != nil || len(o.replies) != 41 || time.Since(before) > 20*time.Second {
				t.Errorf("beside one that pauses for %v: %d replies, %v, after %v", tt.pause, len(o.replies), o.err, time.Since(before))
			}
			if o := <-slower; (o.err != nil) != tt.fails || tt.fails && ipc.AsError(o.err).Reason != "slow_reader" {
				t.Errorf("that pauses for %v: %d replies, %v", tt.pause, len(o.replies), o.err)
			}
		}
		if n := w.count(); n != 4 {
			t.Errorf("%d got through", n)
		}
	})
}
