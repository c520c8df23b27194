package deadline

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func begin(parent context.Context, t *testing.T, due time.Time) *Context {
	t.Helper()
	c := new(Context)
	c.Begin(parent, due)
	t.Cleanup(func() { c.Cancel(context.Canceled) })
	return c
}

func ended(c context.Context, t *testing.T, want error) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("it has not ended")
	}
	if err := c.Err(); !errors.Is(err, want) {
		t.Errorf("it ended with %v, not %v", err, want)
	}
}

func TestItEnds(t *testing.T) {
	cause := errors.New("the cause")
	for _, tt := range []struct {
		name  string
		due   time.Duration // 0: none
		end   func(c *Context, parent context.CancelCauseFunc)
		want  error
		cause error
	}{
		{"by itself", time.Hour, func(c *Context, _ context.CancelCauseFunc) { c.Cancel(context.Canceled) }, context.Canceled, context.Canceled},
		{"once only", 0, func(c *Context, _ context.CancelCauseFunc) {
			c.Cancel(context.DeadlineExceeded)
			c.Cancel(context.Canceled)
		}, context.DeadlineExceeded, context.DeadlineExceeded},
		{"with its parent", time.Hour, func(_ *Context, parent context.CancelCauseFunc) { parent(cause) }, context.Canceled, cause},
		{"with its time", time.Millisecond, func(*Context, context.CancelCauseFunc) {}, context.DeadlineExceeded, context.DeadlineExceeded},
		{"with a time long past", -time.Hour, func(*Context, context.CancelCauseFunc) {}, context.DeadlineExceeded, context.DeadlineExceeded},
	} {
		for _, asked := range []string{"before", "after", "by a child", "by a callback", "never"} {
			t.Run(tt.name+", asked "+asked, func(t *testing.T) {
				parent, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				var due time.Time
				if tt.due != 0 {
					due = time.Now().Add(tt.due)
				}
				c := begin(parent, t, due)
				if got, ok := c.Deadline(); ok == due.IsZero() || !got.Equal(due) {
					t.Errorf("the deadline is %v, %v", got, ok)
				}
				called := make(chan struct{})
				var child context.Context
				switch asked {
				case "before":
					c.Done()
				case "by a child":
					var stop context.CancelFunc
					child, stop = context.WithCancel(c)
					defer stop()
				case "by a callback":
					c.AfterFunc(func() { close(called) })
				}
				tt.end(c, cancel)
				switch asked {
				case "by a child":
					ended(child, t, tt.want)
				case "by a callback":
					<-called
				case "never":
					for deadline := time.Now().Add(10 * time.Second); c.Err() == nil && time.Now().Before(deadline); {
					}
				}
				ended(c, t, tt.want)
				if got := context.Cause(c); !errors.Is(got, tt.cause) {
					t.Errorf("the cause is %v, not %v", got, tt.cause)
				}
			})
		}
	}
}

func TestTheEarlierDeadlineCounts(t *testing.T) {
	soon, late := time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	parent, cancel := context.WithDeadline(t.Context(), soon)
	defer cancel()
	for _, due := range []time.Time{late, {}} {
		if d, ok := begin(parent, t, due).Deadline(); !ok || !d.Equal(soon) {
			t.Errorf("%v, %v; the parent's is earlier", d, ok)
		}
	}
	if d, _ := begin(begin(t.Context(), t, late), t, soon).Deadline(); !d.Equal(soon) {
		t.Errorf("%v; its own is earlier", d)
	}
}

func TestStoppedCallbacksAreNotCalled(t *testing.T) {
	c := begin(t.Context(), t, time.Time{})
	var calls sync.WaitGroup
	calls.Add(2)
	c.AfterFunc(calls.Done)
	stop := c.AfterFunc(func() { t.Error("it was stopped") })
	c.AfterFunc(calls.Done)
	if !stop() || stop() {
		t.Error("stop prevents the call, once")
	}
	c.Cancel(context.Canceled)
	calls.Wait()
	called := make(chan struct{})
	if c.AfterFunc(func() { close(called) })() {
		t.Error("what has begun cannot be stopped")
	}
	<-called
}

// Those who end it, ask it and hang on to it may come at the same time.
func TestConcurrentUse(t *testing.T) {
	for range 200 {
		parent, cancel := context.WithCancel(t.Context())
		c := begin(parent, t, time.Now().Add(time.Millisecond))
		var all sync.WaitGroup
		all.Go(cancel)
		all.Go(func() { c.Cancel(context.Canceled) })
		all.Go(func() { <-c.Done() })
		all.Go(func() { _ = c.Err() })
		all.Go(func() {
			child, stop := context.WithCancel(c)
			defer stop()
			<-child.Done()
		})
		grandchildren := make([]*Context, 4)
		for i := range grandchildren {
			grandchildren[i] = begin(c, t, time.Time{})
			all.Go(func() { <-grandchildren[i].Done() })
			all.Go(func() {
				if i%2 == 0 {
					grandchildren[i].Cancel(context.Canceled)
				}
			})
		}
		all.Wait()
	}
}

// One that is owned waits for its owner; its children hear of the end through it.
func TestOwned(t *testing.T) {
	parent, cancel := context.WithCancel(t.Context())
	c := new(Context)
	c.Owned()
	c.Begin(parent, time.Time{})
	child, done := begin(c, t, time.Now().Add(time.Hour)), make(chan struct{})
	child.AfterFunc(func() { close(done) })
	cancel()
	if c.watched != nil && c.watched.stop != nil {
		t.Error("it looks at its parent itself")
	}
	c.Cancel(parent.Err())
	<-done
	ended(child, t, context.Canceled)
}

// What time it is may be told: to a parent, too, and to a context of another kind.
func TestErrAt(t *testing.T) {
	due := time.Now().Add(time.Hour)
	parent := begin(t.Context(), t, due)
	child := begin(parent, t, time.Time{})
	if err := ErrAt(child, due.Add(-1)); err != nil {
		t.Errorf("before: %v", err)
	}
	if err := ErrAt(child, due); err != context.DeadlineExceeded {
		t.Errorf("then: %v", err)
	}
	ended(child, t, context.DeadlineExceeded)
	ended(parent, t, context.DeadlineExceeded)
	other, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ErrAt(other, due); err != context.Canceled {
		t.Errorf("of another kind: %v", err)
	}
}

// Values are the parent's.
func TestValues(t *testing.T) {
	type key struct{}
	if got := begin(context.WithValue(t.Context(), key{}, 7), t, time.Time{}).Value(key{}); got != 7 {
		t.Errorf("%v", got)
	}
}

func BenchmarkUnasked(b *testing.B) {
	due := time.Now().Add(time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		var c Context
		c.Begin(b.Context(), due)
		c.Cancel(context.Canceled)
	}
}
