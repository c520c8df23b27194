package ipc

import (
	"errors"
	"sync/atomic"
	"time"
)

// To hand a request to another goroutine, and to wake that, is most of what a small request costs in a process. So the goroutine that has read one may handle it, too, and then read on (leader and followers; Schmidt and others,
// Pattern-Oriented Software Architecture 2, 2000). It must not keep those waiting that come after:
//
//	read ──▶ handle ──returned──▶ read on
//	            │
//	            └─ is about to wait (Request.Waits), or takes too long: another goroutine reads on, and this one is the request's alone

// overdue is how long a handler keeps a connection's reader, at the least, before another goroutine reads on; at the most it is twice that.
const overdue = 2 * time.Millisecond

// errPassed ends a goroutine's reading: another one reads on.
var errPassed = errors.New("ipc: the reading has been passed on")

// leading is which request's handler runs on the goroutine that reads.
type leading struct {
	request  atomic.Pointer[Responder] // nil: none
	requests atomic.Uint64             // there were so far

	looking atomic.Bool // look will be called
	timer   *time.Timer // calls look
	before  uint64      // look's: what requests was
}

// lead handles a request on the goroutine that has read it. The error is errPassed if that reads no more.
func (s *server) lead(req *Request, w *Responder) error {
	l := &s.leading
	l.request.Store(w)
	l.requests.Add(1)
	if !l.looking.Swap(true) {
		l.timer.Reset(overdue)
	}
	returned := false
	defer func() {
		if !returned { // runtime.Goexit
			s.pass(w)
		}
	}()
	s.handle(req, w)
	returned = true
	if !l.request.CompareAndSwap(w, nil) {
		return errPassed
	}
	return nil
}

// pass has another goroutine read on, if w's handler runs on the one that reads.
func (s *server) pass(w *Responder) {
	if s.leading.request.CompareAndSwap(w, nil) {
		s.burst.flush()
		s.cfg.Crew.handle(job{s: s})
	}
}

// look passes the reading on if a handler has run since the last look. It looks again as long as there are requests.
func (s *server) look() {
	l := &s.leading
	w, requests := l.request.Load(), l.requests.Load()
	if w != nil && requests == l.before { // it has led since the last look
		s.pass(w)
	}
	if w == nil && requests == l.before {
		l.looking.Store(false)
		if l.requests.Load() == requests || l.looking.Swap(true) { // else one came that took this look for the next one
			return
		}
	}
	l.before = requests
	l.timer.Reset(overdue)
}

// burst is that of the goroutine that has read the request, as long as that leads it; else nil.
func (r *Request) burst() *burst {
	if r.responder == nil {
		return nil
	}
	return r.responder.burst()
}

func (w *Responder) burst() *burst {
	if w.s.leading.request.Load() != w {
		return nil
	}
	return &w.s.burst
}

// settle is called after something may have been put: the reading may have been passed on meanwhile.
func (r *Request) settle() {
	if r.responder != nil {
		r.responder.settle()
	}
}

func (w *Responder) settle() {
	if w.s.leading.request.Load() != w {
		w.s.burst.flush()
	}
}

// Waits says that whoever calls it, with the request in hand, is about to wait for something or may take its time. It may be called any number of times, by anyone who has the request or a copy.
func (r *Request) Waits() {
	if w := r.responder; w != nil {
		w.s.pass(w)
	}
}
