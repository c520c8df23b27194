package supervisor

import "github.com/ringmasterd/ringmaster/ipc"

// preempted is the reason for which a worker is told to cancel background work.
const preempted = "preempted"

// errand is background work that a worker has. It gives way to whoever has to wait while it runs: the worker is told to cancel it. One that does not listen may finish it, and is not taken to hang: nobody is held up longer than by a request of somebody's.
type errand struct {
	yield func() bool
	id    uint64 // guarded by pool.mu: of its call; 0: it is not sent yet
}

// runErrand notes that a lease is for background work. Preconditions: mu is held.
func (p *pool) runErrand(l *lease, yield func() bool) {
	l.errand = &errand{yield: yield}
	if p.errands == nil {
		p.errands = map[*lease]struct{}{}
	}
	p.errands[l] = struct{}{}
}

// sentErrand says under which id background work was sent; somebody may have come meanwhile who waits.
func (p *pool) sentErrand(l *lease, id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.errand.id = id
	p.preempt()
}

// preempt has one worker cancel its background work if a request has to wait. Preconditions: mu is held.
func (p *pool) preempt() {
	if len(p.errands) == 0 || p.waiting() == 0 || p.free() {
		return
	}
	for l := range p.errands {
		if l.errand.id == 0 || !l.slot.accepting || l.slot.inc != l.inc {
			continue // it is about to be sent; or about to go, and so is the process
		}
		delete(p.errands, l)
		if l.errand.yield == nil || l.errand.yield() {
			inc, id := l.inc, l.errand.id
			inc.run.Go(func() { inc.caller.Recall(id, preempted) }) // the ring may be full; its closing ends that
			return
		}
	}
}

// recalled reports whether the worker was told to cancel a call, and owes its end.
func recalled(c ipc.OpenCall) bool { return c.Reason != "" && c.Reason != preempted }
