package supervisor

import (
	"slices"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// A worker of one thread sleeps when it has answered, and has to be woken for the next request, which costs more than a small one takes. So where there is one worker, and requests are short, it is sent more while it has one in hand: ahead. They wait
// in line, in the worker's ring, as they would in the queue, and are there when the worker looks. One is enough where requests take longer than it takes to send the next; of very short ones as many are sent as the worker is through with in lineTime.
//
//	queue ──the worker has one in hand, and there is room in line──▶ in line: sent, not read ──those before it have ended──▶ in hand: read
//	                                                            └─ the worker dies: unread, another process gets it, nobody blames it
//
// What is in line has no place of the worker's: whoever asks whether there is one, or whether the worker is idle, finds it as if the request were in the queue. It counts as there, too, where the queue's length matters. Where there are several workers
// another one might be idle before this one is.

const (
	briefHold = time.Millisecond       // requests that take less than this, on average, are sent ahead
	longHold  = 2 * time.Millisecond   // once they take more, no longer: a mean that wavers is not to change it all the time
	lineTime  = 500 * time.Microsecond // about what the requests in line take together, if there is more than one
	mostLine  = 8                      // requests in line
	mostAhead = 64 << 10               // bytes of a request that goes ahead: a cancel has to find room behind all of them, and is to be read soon
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

// lineLength is how many requests may wait in line behind one that is in hand.
func (p *pace) lineLength() int {
	if !p.brief {
		return 0
	}
	return int(min(max(1, lineTime/max(1, p.hold)), mostLine))
}

// lineLength is how many requests may wait in line in a process now: while clients take turns, one. Each has its next request behind what is in line when its last was answered: the longer the line, the more those get whose many requests fill it. now may be a
// moment ago.
func (inc *incarnation) lineLength(pace *pace, now time.Time) int {
	n := min(inc.ahead, pace.lineLength())
	if now.Sub(inc.changed) < company {
		return min(n, 1)
	}
	return n
}

// lineForQueue returns the slot whose process may be sent a request of the queue ahead now, or nil. Preconditions: mu is held.
func (p *pool) lineForQueue() *slot {
	s := p.line(time.Time{})
	if s != nil && p.queue.only(s.inc.last) && s.inc.behindItself(s.inc.last, s.inc.lastEnd) {
		return nil
	}
	return s
}

// takeAhead leases w the room in line at s, which is what line says, if it may have it. Preconditions: mu is held, there is no place for w.
func (p *pool) takeAhead(w *waiter, s *slot) *lease {
	if s == nil || !w.goesAhead() || len(s.inc.line) > 0 && s.inc.closes(w) {
		return nil // what has a place in line and is not sent yet would stand behind what closes it
	}
	l := p.lease(w, s)
	l.after = s.inc.ended + uint64(s.inc.inFlight) - 1
	s.inc.line = append(s.inc.line, w.client)
	return l
}

// line returns the slot whose process may be sent a request ahead now, or nil. now may be a moment ago; zero: when the last request ended. Preconditions: mu is held.
func (p *pool) line(now time.Time) *slot {
	if !p.pace.brief || len(p.slots) != 1 || p.again.Len() > 0 || p.queue.gathering() || p.hashes() {
		return nil
	}
	s := p.slots[0]
	if !s.accepting || s == p.reserved || s.places() != 1 {
		return nil
	}
	inc := s.inc
	if inc.ahead == 0 || inc.probing || inc.alone || inc.closed || inc.inFlight == 0 || inc.inFlight != inc.taken {
		return nil
	}
	if now.IsZero() {
		now = inc.lastEnd
	}
	if inc.taken > inc.lineLength(&p.pace, now) {
		return nil
	}
	return s
}

// leftLine says that a request has ended: the first in line is in hand now, unless it was in line itself, and has not been sent. Preconditions: mu is held.
func (inc *incarnation) leftLine(l *lease) {
	i := 0
	if l.after > inc.ended {
		i = slices.Index(inc.line, l.client)
	}
	inc.ended++
	if i >= 0 && i < len(inc.line) {
		inc.line = slices.Delete(inc.line, i, i+1)
	}
}

// lined are the clients of the requests that wait in line. Preconditions: mu is held.
func (p *pool) lined() []ipc.Client {
	if len(p.slots) != 1 || p.inLine() == 0 {
		return nil
	}
	return p.slots[0].inc.line
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
	if l.inc.ahead > 0 && l.batch == nil && l.inc.lastEnd.After(l.at) {
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
	case l.after > l.inc.ended:
		return now
	}
	return l.turn()
}
