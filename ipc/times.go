package ipc

import (
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/internal/traceparent"
)

// Times is what a supervisor notes of a request's way to a worker and back, for whoever handed the request over with it. It does not travel. A nil *Times notes nothing.
//
// The one who answers the request writes while another may look, such as one that no longer waits for it: the methods are for many goroutines.
type Times struct {
	Parent traceparent.Parent // immutable: the trace that the request is part of, and the span that its tries are below; zero: it carries the trace_id it has

	mu    sync.Mutex
	tries []Try  // guarded by mu
	first [1]Try // guarded by mu: what tries begins with
}

// Try is one attempt to have a request answered by a worker.
type Try struct {
	Span  [8]byte   // what the worker was told to be the parent of its own spans
	Begin time.Time // it wanted a place in a worker
	Sent  time.Time // it had one, and was sent; zero: it never was
	First time.Time // the first reply, be it the END; zero: none came
	End   time.Time // zero: it has not ended
	Pool  string    // whose worker had it, like those below
	Slot  int
	PID   int
	Batch int    // how many requests shared its call; 0: it was one of its own
	Err   *Error // how it ended; nil: well
}

// Wait begins a try. What it returns is to be the trace_id of what is sent, unless it is "".
func (t *Times) Wait() string {
	if t == nil {
		return ""
	}
	try := Try{Begin: time.Now()}
	id := ""
	if t.Parent.Valid() {
		child := t.Parent
		child.Span = traceparent.NewSpan()
		try.Span, id = child.Span, child.String()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tries == nil {
		t.tries = t.first[:0]
	}
	t.tries = append(t.tries, try)
	return id
}

// Send says to which process the last try has been sent.
func (t *Times) Send(pool string, slot, pid, batch int) {
	t.last(func(try *Try, now time.Time) {
		try.Sent, try.Pool, try.Slot, try.PID, try.Batch = now, pool, slot, pid, batch
	})
}

// Reply says that a reply has come to the last try.
func (t *Times) Reply() {
	t.last(func(try *Try, now time.Time) {
		if try.First.IsZero() {
			try.First = now
		}
	})
}

// Done says how the last try has ended. A second end does nothing.
func (t *Times) Done(e *Error) {
	t.last(func(try *Try, now time.Time) {
		if try.End.IsZero() {
			try.End, try.Err = now, e
		}
	})
}

func (t *Times) last(change func(*Try, time.Time)) {
	if t == nil {
		return
	}
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.tries); n > 0 {
		change(&t.tries[n-1], now)
	}
}

// Tries appends what has been noted so far to list.
func (t *Times) Tries(list []Try) []Try {
	if t == nil {
		return list
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return append(list, t.tries...)
}
