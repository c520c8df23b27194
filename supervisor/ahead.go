package supervisor

import (
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// A worker of one thread sleeps when it has answered, and has to be woken for the next request, which costs more than a small one takes. So where there is one worker, and requests are short, it is sent one more while it has one in hand: ahead. That waits
// in line, in the worker's ring, as it would in the queue, and is there when the worker looks.
//
//	queue ──the worker has one in hand, and none in line──▶ in line: sent, not read ──the one before it has ended──▶ in hand: read
//	                                                            └─ the worker dies: unread, another process gets it, nobody blames it
//
// What is in line has no place of the worker's: whoever asks whether there is one, or whether the worker is idle, finds it as if the request were in the queue. It counts as there, too, where the queue's length matters. Where there are several workers
// another one might be idle before this one is.

const (
	briefHold = time.Millisecond     // requests that take less than this, on average, are sent ahead
	longHold  = 2 * time.Millisecond // once they take more, no longer: a mean that wavers is not to change it all the time
	mostAhead = 64 << 10             // bytes of a request that goes ahead: a cancel has to find room behind it, and is to be read soon
)

// goesAhead reports whether a request is one that may wait in line.
func (w *waiter) goesAhead() bool { return !w.alone && !w.idle && !w.again && small(w.req) }

// small reports whether a request takes little room in a ring.
func small(req *ipc.Request) bool {
	n := len(req.Body) + len(req.Context) + len(req.TraceID)
	for i := range req.Tensors {
		t := &req.Tensors[i]
		n += len(t.Name) + len(t.DType) + 8*len(t.Shape) + len(t.Data)
	}
	for i := range req.Outputs {
		n += len(req.Outputs[i].Name)
	}
	for k, v := range req.Headers {
		n += len(k) + len(v)
	}
	return n <= mostAhead
}

// company is how long it is remembered that a worker has had requests of two clients in turn.
const company = 5 * time.Millisecond

// behindItself reports whether a client that sends a request would stand in line behind a request of its own while another asks, too: the other's next request, which comes when its last was answered, would find the line taken, and wait for both. now may be a
// moment ago.
func (inc *incarnation) behindItself(c ipc.Client, now time.Time) bool {
	return c == inc.last && now.Sub(inc.changed) < company
}

// lineForQueue returns the slot whose process may be sent a request of the queue ahead now, or nil. Preconditions: mu is held.
func (p *pool) lineForQueue() *slot {
	s := p.line()
	if s != nil && p.queue.only(s.inc.last) && s.inc.behindItself(s.inc.last, s.inc.lastEnd) {
		return nil
	}
	return s
}

// takeAhead leases w the room in line at s, which is what line says, if it may have it. Preconditions: mu is held, there is no place for w.
func (p *pool) takeAhead(w *waiter, s *slot) *lease {
	if s == nil || !w.goesAhead() {
		return nil
	}
	l := p.lease(w, s)
	l.ahead = true
	return l
}

// line returns the slot whose process may be sent a request ahead now, or nil. Preconditions: mu is held.
func (p *pool) line() *slot {
	if !p.pace.brief || len(p.slots) != 1 || p.again.Len() > 0 || p.queue.gathering() || p.hashes() {
		return nil
	}
	s := p.slots[0]
	if !s.accepting || s == p.reserved || s.places() != 1 {
		return nil
	}
	if inc := s.inc; !inc.ahead || inc.probing || inc.alone || inc.closed || inc.inFlight != 1 {
		return nil
	}
	return s
}

// lined is the client of the request that waits in line, nil if none does. Preconditions: mu is held.
func (p *pool) lined() *ipc.Client {
	if len(p.slots) != 1 || p.inLine() == 0 {
		return nil
	}
	return &p.slots[0].inc.last
}

// inLine counts the requests that wait in line. Preconditions: mu is held.
func (p *pool) inLine() int {
	n := 0
	for _, s := range p.slots {
		if s.accepting {
			n += max(0, s.inc.taken-s.places())
		}
	}
	return n
}

// closes reports whether nothing is to wait behind a request: background work gives way to what waits in the queue, and a stream takes as long as its reader.
func (inc *incarnation) closes(w *waiter) bool { return w.idle || inc.actions[w.action].Stream }

// turn is when it was the turn of the request that ends now: that of one that was in line came at the end of the one before it. Which one that was only the ring knows: of two that are given at once to a worker that has nothing either may be sent first. Preconditions: mu is held.
func (l *lease) turn() time.Time {
	if l.inc.ahead && l.batch == nil && l.inc.lastEnd.After(l.at) {
		return l.inc.lastEnd
	}
	return l.at
}

// turned tells a request's times when its turn came: at its first reply, or its end, which may find it in line. ended: the END has been received.
func (a *answer) turned(ended bool) {
	l := a.lease
	if a.req.Times == nil {
		return
	}
	var began time.Time
	if ended {
		began = l.began
	} else {
		began = l.turnBy(time.Now())
	}
	if began.After(l.at) {
		a.req.Times.Turn(began)
	}
}

// turnBy is when it was the turn of a request that its worker may not have ended by now; now, if it still waits in line.
func (l *lease) turnBy(now time.Time) time.Time {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	switch {
	case !l.began.IsZero():
		return l.began
	case l.ahead && !l.inc.lastEnd.After(l.at):
		return now
	}
	return l.turn()
}
