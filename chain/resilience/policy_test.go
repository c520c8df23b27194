package resilience

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"

	"github.com/ringmasterd/ringmaster/ipc"
)

func failing(code ipc.Code, reason string, after time.Duration) *ipc.Error {
	e := ipc.Errorf(code, reason, "as asked")
	e.RetryAfter = after
	return e
}

func TestWhatAnErrorSays(t *testing.T) {
	for _, w := range []struct {
		code        ipc.Code
		reason      string
		after       time.Duration
		own         bool
		outcome     outcome
		passing     bool
		replaceable bool
	}{
		{ipc.Unavailable, "crash_loop", time.Second, false, bad, true, true},
		{ipc.Unavailable, "no_ready_worker", 0, false, bad, true, true},
		{ipc.Unavailable, "draining", 0, false, neither, false, true},
		{ipc.Unavailable, "circuit_open", time.Second, false, bad, false, true},
		{ipc.Aborted, "worker_lost", 0, false, bad, true, true},
		{ipc.Aborted, "poison_request", time.Minute, false, neither, false, false},
		{ipc.ResourceExhausted, "queue_full", time.Second, false, neither, true, true},
		{ipc.ResourceExhausted, "queue_full", 0, false, neither, false, true},
		{ipc.ResourceExhausted, "would_expire", time.Second, false, neither, false, true},
		{ipc.ResourceExhausted, "memory_full", time.Second, false, neither, false, false},
		{ipc.ResourceExhausted, "too_large", 0, false, neither, false, false},
		{ipc.DeadlineExceeded, "deadline", 0, false, neither, false, true},
		{ipc.DeadlineExceeded, "deadline", 0, true, bad, false, true},
		{ipc.DeadlineExceeded, "hang_timeout", 0, false, bad, false, true},
		{ipc.Internal, "handler", 0, false, bad, false, true},
		{ipc.DataLoss, "protocol", 0, false, bad, false, true},
		{ipc.InvalidArgument, "invalid_argument", 0, false, good, false, false},
		{ipc.NotFound, "unknown_action", 0, false, good, false, false},
		{ipc.Cancelled, "cancelled", 0, false, neither, false, false},
		{ipc.PermissionDenied, "peer", 0, false, neither, false, false},
	} {
		e := failing(w.code, w.reason, w.after)
		if got := judge(e, w.own); got != w.outcome {
			t.Errorf("%v (own deadline: %v) is judged %v, want %v", e, w.own, got, w.outcome)
		}
		if got := passing(e); got != w.passing {
			t.Errorf("%v, retry after %v: passing is %v", e, w.after, got)
		}
		if got := replaceable(e); got != w.replaceable {
			t.Errorf("%v: replaceable is %v", e, got)
		}
	}
}

func TestPause(t *testing.T) {
	r := Retry{Max: 4, Backoff: 50 * time.Millisecond, MaxBackoff: 300 * time.Millisecond}
	const ms = time.Millisecond
	for _, w := range []struct {
		retries     int
		after       time.Duration
		takes, left time.Duration
		jitter      float64
		want        time.Duration
		ok          bool
	}{
		{0, 0, 0, time.Minute, 0, 25 * ms, true},
		{0, 0, 0, time.Minute, 1, 50 * ms, true},
		{1, 0, 0, time.Minute, 0.5, 75 * ms, true},
		{2, 0, 0, time.Minute, 1, 200 * ms, true},
		{3, 0, 0, time.Minute, 1, 300 * ms, true},
		{4, 0, 0, time.Minute, 1, 0, false},              // there were enough
		{0, 200 * ms, 0, time.Minute, 0, 200 * ms, true}, // the pool says when
		{0, 200 * ms, 0, time.Minute, 1, 225 * ms, true}, // and not all come at once
		{0, 301 * ms, 0, time.Minute, 0, 0, false},       // later than we wait
		{0, 0, 0, 50 * ms, 1, 50 * ms, false},            // the deadline
		{0, 0, 100 * ms, 120 * ms, 0, 25 * ms, false},    // it would begin, but not end
		{0, 0, 100 * ms, 126 * ms, 0, 25 * ms, true},     // just
		{63, 0, 0, time.Minute, 0, 0, false},             // no overflow
	} {
		got, ok := r.pause(failing(ipc.Unavailable, "x", w.after), w.retries, w.takes, w.left, w.jitter)
		if got != w.want && ok || ok != w.ok {
			t.Errorf("%+v: got %v, %v", w, got, ok)
		}
	}
	long := Retry{Max: 100, Backoff: time.Minute, MaxBackoff: 10 * time.Minute}
	if got, _ := long.pause(failing(ipc.Unavailable, "x", 0), 89, 0, time.Hour, 1); got != 10*time.Minute {
		t.Errorf("the 90th pause is %v", got)
	}
}

func TestBudgetIsAShareOfTheRequests(t *testing.T) {
	now := time.Now()
	b := newBudget(0.2)
	spent := 0
	for range 1000 {
		b.earn(now)
		for range 3 {
			if b.spend(now) {
				spent++
			}
		}
	}
	if spent < 200 || spent > 200+quietSaved {
		t.Errorf("1000 requests, of which a fifth may be tried again, were tried again %d times", spent)
	}
	for range 1000 {
		b.earn(now)
	}
	if b.saved != mostSaved {
		t.Errorf("after a long good time %v attempts are saved, the most is %d", b.saved, mostSaved)
	}
	for b.spend(now) {
	}
	if now = now.Add(4 * time.Second); !b.spend(now) || b.spend(now) {
		t.Error("a quiet pool has one attempt more after 4 s")
	}
	if now = now.Add(time.Hour); !b.spend(now) || b.saved != quietSaved-1 {
		t.Errorf("a quiet pool has %v left of %d", b.saved, quietSaved)
	}
}

func TestPaces(t *testing.T) {
	var p paces
	for i := range paceEnough {
		if _, ok := p.quantile("a", 0.5); ok {
			t.Fatalf("something is concluded from %d requests", i)
		}
		p.learn("a", time.Duration(i+1)*time.Second)
	}
	if got, ok := p.quantile("a", 0.95); !ok || got != 16*time.Second {
		t.Errorf("p95 is %v, %v", got, ok)
	}
	if got := p.usual("a"); got != 9*time.Second {
		t.Errorf("usual is %v", got)
	}
	for range paceKept {
		p.learn("a", time.Second)
	}
	if got, _ := p.quantile("a", 0.99); got != time.Second {
		t.Errorf("what was long ago is remembered: %v", got)
	}
	for range 2 * maxPaces {
		p.learn(time.Now().String(), time.Second)
	}
	if len(p.actions) > maxPaces {
		t.Errorf("%d actions are remembered", len(p.actions))
	}
}

// in runs a test in a bubble of its own time.
func in(t *testing.T, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// pass lets the bubble's time pass.
func pass(d time.Duration) { <-time.After(d) }

func TestBreaker(t *testing.T) {
	in(t, func(t *testing.T) {
		b := newBreaker("p", Breaker{Failures: 3, Window: 10 * time.Second, Open: 5 * time.Second, HalfOpen: 2}, slog.New(slog.DiscardHandler))
		admit := func() permit {
			t.Helper()
			p, err := b.admit()
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		refused := func(after time.Duration) {
			t.Helper()
			_, err := b.admit()
			if err == nil || err.Code != ipc.Unavailable || err.Reason != "circuit_open" || err.RetryAfter != after {
				t.Fatalf("got %v, want circuit_open for %v", err, after)
			}
		}
		late := admit()
		b.report(admit(), bad)
		b.report(admit(), bad)
		pass(11 * time.Second) // out of the window
		b.report(admit(), bad)
		b.report(admit(), neither)
		b.report(admit(), bad)
		admit()
		b.report(admit(), bad)
		refused(5 * time.Second)
		pass(3 * time.Second)
		refused(2 * time.Second)
		pass(2 * time.Second)
		one, two := admit(), admit() // the probes
		refused(time.Second)
		b.report(late, bad) // of before: says nothing
		b.report(two, neither)
		two = admit() // its place
		refused(time.Second)
		b.report(one, good)
		if b.now() != circuitbreaker.HalfOpenState {
			t.Errorf("one probe of two has succeeded, and the circuit is %v", b.now())
		}
		b.report(two, bad)
		refused(5 * time.Second)
		pass(5 * time.Second)
		b.report(admit(), good)
		b.report(admit(), good)
		if !b.closed() || b.openings() != 2 {
			t.Errorf("the circuit is %v and has opened %d times", b.now(), b.openings())
		}
	})
}

func TestBreakerByRate(t *testing.T) {
	in(t, func(t *testing.T) {
		b := newBreaker("p", Breaker{Failures: 10, Rate: 0.5, Window: 10 * time.Second, Open: time.Second, HalfOpen: 1}, slog.New(slog.DiscardHandler))
		for i := range 100 {
			p, err := b.admit()
			if err != nil {
				t.Fatalf("after %d requests of which a third failed: %v", i, err)
			}
			b.report(p, []outcome{good, good, bad}[i%3])
		}
		opened := false
		for range 100 {
			p, err := b.admit()
			opened = opened || err != nil
			b.report(p, bad)
		}
		if !opened {
			t.Error("three of four fail, and the circuit is closed")
		}
	})
}
