package ipc

import (
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/internal/moment"
	"github.com/ringmasterd/ringmaster/internal/traceparent"
)

// Times is what a supervisor notes of a request's way to a worker and back, for whoever handed the request over with it. It does not travel. A nil *Times notes nothing.
//
// The one who answers the request writes while another may look, such as one that no longer waits for it: the methods are for many goroutines.
type Times struct {
	Parent *traceparent.Parent // immutable: the trace that the request is part of, and the span that its tries are below; nil: it carries the trace_id it has

	mu      sync.Mutex
	last    Try    // guarded by mu; its Begin is 0 where there is none
	earlier *[]Try // guarded by mu: those before it; nil: there were none
}

// Try is one attempt to have a request answered by a worker.
type Try struct {
	Span  [8]byte       // what the worker was told to be the parent of its own spans; zero: it was told none
	Begin moment.Moment // it wanted a place in a worker
	Sent  moment.Moment // it had one, and was sent, or its turn came where it had been sent ahead of that; 0: it never was
	First moment.Moment // the first reply, be it the END; 0: none came
	End   moment.Moment // 0: it has not ended
	Pool  string        // whose worker had it, like those below
	Slot  int32
	PID   int32
	Batch int32  // how many requests shared its call; 0: it was one of its own
	Err   *Error // how it ended; nil: well
}

// Wait begins a try, now. What it returns is to be the trace_id of what is sent, unless it is "".
func (t *Times) Wait(now time.Time) string {
	if t == nil {
		return ""
	}
	try := Try{Begin: moment.Of(now)}
	id := ""
	if t.Parent != nil {
		child := *t.Parent
		child.Span = traceparent.NewSpan()
		try.Span, id = child.Span, child.String()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last.Begin != 0 {
		if t.earlier == nil {
			t.earlier = new([]Try)
		}
		*t.earlier = append(*t.earlier, t.last)
	}
	t.last = try
	return id
}

// Send says that the last try is being sent to a process, now.
func (t *Times) Send(now time.Time, pool string, slot, pid, batch int) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	try := &t.last
	try.Sent, try.Pool, try.Slot, try.PID, try.Batch = moment.Of(now), pool, int32(slot), int32(pid), int32(batch)
}

// Turn says that what was sent ahead had to wait for its turn until then.
func (t *Times) Turn(then time.Time) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := moment.Of(then); t.last.End == 0 && t.last.First == 0 && m > t.last.Sent {
		t.last.Sent = m
	}
}

// Reply says that a reply has come to the last try; end, that it was the END.
func (t *Times) Reply(end bool) {
	if t == nil {
		return
	}
	now := moment.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last.First == 0 {
		t.last.First = now
	}
	if end && t.last.End == 0 {
		t.last.End = now
	}
}

// Done says how the last try has ended. A second end does nothing.
func (t *Times) Done(e *Error) {
	if t == nil {
		return
	}
	now := moment.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last.End == 0 {
		t.last.End, t.last.Err = now, e
	}
}

// Last returns the last try so far, if there is one, and those before it, which do not change any more.
func (t *Times) Last() (last Try, earlier []Try, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.earlier != nil {
		earlier = *t.earlier
	}
	return t.last, earlier, t.last.Begin != 0
}
