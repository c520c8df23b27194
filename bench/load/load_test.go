package load

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/ringmasterd/ringmaster/ipc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func echo(_ context.Context, p []byte) ([]byte, error) { return bytes.Clone(p), nil }

// after makes a call take so long, in the bubble's time.
func after(d time.Duration) Call {
	return func(ctx context.Context, p []byte) ([]byte, error) {
		<-time.After(d)
		return echo(ctx, p)
	}
}

func TestWrongAnswersAreNoticed(t *testing.T) {
	edit := func(at int) func([]byte) []byte {
		return func(p []byte) []byte { p[at] ^= 1; return p }
	}
	for name, c := range map[string]struct {
		reply     func([]byte) []byte
		onlyWhole bool // a look at the ends does not see it
	}{
		"short":           {reply: func(p []byte) []byte { return p[:len(p)-1] }},
		"empty":           {reply: func([]byte) []byte { return nil }},
		"first byte":      {reply: edit(0)},
		"last byte":       {reply: edit(63)},
		"in the middle":   {reply: edit(32), onlyWhole: true},
		"somebody else's": {reply: func([]byte) []byte { return NewPayload(64, 7).Bytes }},
		"the last request's": {reply: func(p []byte) []byte {
			last := &Payload{Bytes: p, serial: binary.LittleEndian.Uint64(p) - 2}
			last.Stamp()
			return last.Bytes
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRequester(func(_ context.Context, p []byte) ([]byte, error) { return c.reply(bytes.Clone(p)), nil }, NewPayload(64, 0), Echoed)
			r.once(t.Context(), time.Now(), true)
			if r.result.Wrong != 1 || r.result.Requests != 0 || !errors.Is(r.result.First, ErrWrong) {
				t.Errorf("with a look at every byte: %+v", r.result)
			}
			r.once(t.Context(), time.Now(), false)
			if wrong := r.result.Wrong == 2; wrong == c.onlyWhole {
				t.Errorf("with a look at the ends it is wrong: %v", wrong)
			}
		})
	}
}

func TestNoTwoRequestsAreAlike(t *testing.T) {
	seen := map[string]bool{}
	for requester := range 3 {
		p := NewPayload(MinSize, requester)
		for range 100 {
			p.Stamp()
			if seen[string(p.Bytes)] {
				t.Fatalf("requester %d sends %x again", requester, p.Bytes)
			}
			seen[string(p.Bytes)] = true
		}
	}
}

func TestClosedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		call := func(ctx context.Context, p []byte) ([]byte, error) {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			return after(time.Millisecond)(ctx, p)
		}
		var begun time.Time
		start := time.Now()
		r, err := Run(t.Context(), Config{
			Calls: []Call{call, call}, Size: 64, Outstanding: 8, Warmup: 10 * time.Millisecond, Duration: time.Second,
			Begin: func() error { begun = time.Now(); return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		if r.Requests != 8000 || r.Compared != 80 || r.PerSecond() != 8000 || most.Load() != 8 || begun.Sub(start) != 10*time.Millisecond {
			t.Errorf("%d requests, %d compared, %v/s, %d at a time, begun after %v", r.Requests, r.Compared, r.PerSecond(), most.Load(), begun.Sub(start))
		}
		if p50 := r.Quantile(50); p50 < 990 || p50 > 1010 {
			t.Errorf("the median of a millisecond is %v µs", p50)
		}
	})
}

// A server that stands still for half the time makes half of the requests late, not one.
func TestOpenLoopOmitsNoWait(t *testing.T) {
	var first atomic.Bool
	stall := 200 * time.Millisecond
	call := func(ctx context.Context, p []byte) ([]byte, error) {
		if first.CompareAndSwap(false, true) {
			select {
			case <-time.After(stall):
			case <-ctx.Done():
			}
		}
		return echo(ctx, p)
	}
	c := crew{cfg: &Config{Calls: []Call{call}, Size: 64, Outstanding: 1, Rate: 1000, Check: Echoed}}
	_, missed := c.paced(t.Context(), 2*stall, false)
	r := c.rs[0].result
	if n := int64(missed) + int64(r.Requests); n != 400 || r.Latency.TotalCount() != n {
		t.Errorf("%d sent, %d missed, %d recorded; want 400 in all", r.Requests, missed, r.Latency.TotalCount())
	}
	if p40 := r.Quantile(60); p40 < 20_000 {
		t.Errorf("two of five requests waited 20 ms and more, but the 60th percentile is %v µs", p40)
	}
}

// What is never sent counts with the time it has waited.
func TestOpenLoopCountsWhatItMissed(t *testing.T) {
	release := make(chan struct{})
	call := func(ctx context.Context, p []byte) ([]byte, error) {
		<-release
		return echo(ctx, p)
	}
	c := crew{cfg: &Config{Calls: []Call{call}, Size: 64, Outstanding: 1, Rate: 100, Check: Echoed}}
	time.AfterFunc(300*time.Millisecond, func() { close(release) })
	_, missed := c.paced(t.Context(), 50*time.Millisecond, true)
	rs := c.rs
	if missed != 4 || rs[0].result.Requests != 1 || rs[0].result.Latency.TotalCount() != 5 {
		t.Errorf("missed %d, sent %d", missed, rs[0].result.Requests)
	}
	if most := rs[0].result.Max(); most < 55_000 {
		t.Errorf("the longest is %v µs", most)
	}
}

// The bound of an open loop is not a load: there are as many requesters as are needed.
func TestOpenLoopGrowsToWhatIsNeeded(t *testing.T) {
	c := crew{cfg: &Config{Calls: []Call{after(10 * time.Millisecond)}, Size: 64, Outstanding: 1000, Rate: 1000, Check: Echoed}}
	_, missed := c.paced(t.Context(), 200*time.Millisecond, true)
	if n := gather(c.rs).Requests; n != 200 || missed != 0 || len(c.rs) < 5 || len(c.rs) > 200 {
		t.Errorf("%d requests, %d missed, %d requesters", n, missed, len(c.rs))
	}
}

func TestFailuresAreCountedByReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		call := func(ctx context.Context, p []byte) ([]byte, error) {
			switch n++; n % 4 {
			case 1:
				return nil, &ipc.Error{Code: ipc.ResourceExhausted, Reason: "queue_full", RetryAfter: 10 * time.Millisecond}
			case 2:
				return nil, errors.New("something")
			}
			return after(time.Millisecond)(ctx, p)
		}
		start := time.Now()
		r, err := Run(t.Context(), Config{Calls: []Call{call}, Size: 64, Outstanding: 1, Duration: 130 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		// The warm-up is two requests that fail, then every four take 13 ms.
		if r.Errors["RESOURCE_EXHAUSTED/queue_full"] != 11 || r.Errors["other"] != 11 || r.Requests != 20 || r.Failed() != 22 || r.First == nil {
			t.Errorf("after %v: %+v", time.Since(start), r)
		}
	})
}

func TestAnInterruptedRunSaysSo(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	call := func(ctx context.Context, _ []byte) ([]byte, error) {
		cancel(cause)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for _, rate := range []float64{0, 100} {
		if _, err := Run(ctx, Config{Calls: []Call{call}, Size: 64, Outstanding: 2, Rate: rate, Duration: time.Hour}); !errors.Is(err, cause) {
			t.Errorf("rate %v: %v", rate, err)
		}
	}
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	good := Config{Calls: []Call{echo}, Size: 64, Outstanding: 1, Duration: time.Second}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no connection":        func(c *Config) { c.Calls = nil },
		"8 bytes":              func(c *Config) { c.Size = 8 },
		"0 requests":           func(c *Config) { c.Outstanding = 0 },
		"a rate of -1":         func(c *Config) { c.Rate = -1 },
		"the duration is 0s":   func(c *Config) { c.Duration = 0 },
		"a rate of 2e+06 requ": func(c *Config) { c.Rate = 2e6 },
	} {
		c := good
		spoil(&c)
		if _, err := Run(t.Context(), c); err == nil || !bytes.Contains([]byte(err.Error()), []byte(name)) {
			t.Errorf("%v, want %q", err, name)
		}
	}
}
