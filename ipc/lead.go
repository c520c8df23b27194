package ipc

import (
	"errors"
	"sync"
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
const overdue = 5 * time.Millisecond

// errPassed ends a goroutine's reading: another one reads on.
var errPassed = errors.New("ipc: the reading has been passed on")

// leading is which request's handler runs on the goroutine that reads.
type leading struct {
	request  atomic.Pointer[Responder] // nil: none
	requests atomic.Uint64             // there were so far
	before   uint64                    // the lookout's: what requests was
}

// lead handles a request on the goroutine that has read it. The error is errPassed if that reads no more.
func (s *server) lead(req *Request, w *Responder) error {
	l := &s.leading
	l.request.Store(w)
	l.requests.Add(1)
	s.cfg.Crew.lookout.wake()
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

// look passes the reading on if a handler has run since the last look, and reports whether there were requests.
func (s *server) look() bool {
	l := &s.leading
	w, requests := l.request.Load(), l.requests.Load()
	if w != nil && requests == l.before { // it has led since the last look
		s.pass(w)
	}
	busy := w != nil || requests != l.before
	l.before = requests
	return busy
}

// lookout looks at all connections of a crew, as long as there are requests on any. A timer for each would be an expense for each of their requests where there are many connections with little to do.
type lookout struct {
	looking atomic.Bool // look will be called

	mu      sync.Mutex
	timer   *time.Timer          // immutable once somebody has joined; calls look
	servers map[*server]struct{} // guarded by mu
}

func (l *lookout) join(s *server) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.servers == nil {
		l.servers = map[*server]struct{}{}
		l.timer = time.AfterFunc(time.Hour, l.look)
		l.timer.Stop()
	}
	l.servers[s] = struct{}{}
}

func (l *lookout) leave(s *server) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.servers, s)
	if len(l.servers) == 0 {
		l.timer.Stop()
		l.looking.Store(false)
	}
}

// wake sees that somebody looks, now that there is a request. Preconditions: whose it is has joined.
func (l *lookout) wake() {
	if !l.looking.Load() && !l.looking.Swap(true) {
		l.timer.Reset(overdue)
	}
}

func (l *lookout) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	busy := false
	for s := range l.servers {
		busy = s.look() || busy
	}
	if !busy {
		l.looking.Store(false)
		for s := range l.servers { // whoever came meanwhile took this look for the next one
			busy = busy || s.leading.requests.Load() != s.leading.before
		}
		if !busy || l.looking.Swap(true) {
			return
		}
	}
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
