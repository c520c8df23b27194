package supervisor

import (
	"time"

	"github.com/ringmasterd/ringmaster/internal/arena"
	"github.com/ringmasterd/ringmaster/ipc"
)

// lease is the right to send one request to one worker: a place there, or a part of one that is a batch's, taken from before the request is sent until the worker has ended it (not until its caller lost interest).
type lease struct {
	pool   *pool
	slot   *slot
	inc    *incarnation
	at     time.Time
	client ipc.Client
	action string
	cost   time.Duration // what the client was charged
	alone  bool          // no other request is given to the worker meanwhile
	after  uint64        // how many requests the worker will have ended when its turn comes, if it is sent ahead; 0: it is not
	batch  *batch        // whose place it is; nil: its own
	member int           // of the batch: which
	errand *errand       // it is for background work; nil: it is not
	arenas *arena.Use    // what the worker may read and write of arenas meanwhile; nil: nothing

	began     time.Time // when its turn came in the worker; set before it is told that the worker has ended it
	abandoned uint64    // guarded by pool.mu: digest of the request, if its caller has lost interest; 0 otherwise
}

// take leases a place if one is free; alone, one in a worker that has nothing else to do. Preconditions: mu is held.
func (p *pool) take(w *waiter) *lease {
	p.weigh(w.alone)
	i := p.balancer.choose(p.load, w.key, w.key != 0 && w.spills(time.Now()))
	if i < 0 {
		return nil
	}
	return p.lease(w, p.slots[i])
}

// lease gives w a part of what the slot's process may have. Preconditions: mu is held.
func (p *pool) lease(w *waiter, s *slot) *lease {
	s.inc.inFlight++
	s.inc.taken++
	s.rouse()
	s.inc.alone = w.alone
	if w.alone {
		p.reserved = nil
	}
	at := w.now
	if w.granted != nil { // it had to wait
		at = time.Now()
	}
	if w.client != s.inc.last {
		s.inc.changed = at
	}
	s.inc.closed, s.inc.last = s.inc.ahead > 0 && s.inc.closes(w), w.client
	l := w.room
	*l = lease{pool: p, slot: s, inc: s.inc, at: at, client: w.client, action: w.action, cost: w.cost, alone: w.alone}
	return l
}

// weigh fills in load for a request, which may be one that runs alone. Preconditions: mu is held.
func (p *pool) weigh(alone bool) {
	for i, s := range p.slots {
		p.load[i] = busy
		switch {
		case !s.accepting:
			p.load[i] = gone
		case s.inc.alone, alone && s.inc.inFlight > 0, !alone && s == p.reserved:
		case s.inc.taken < s.places():
			p.load[i] = s.inc.taken
		}
	}
}

// reserve picks the worker that a request which has to run alone waits for: the one with the least to do gets nothing new meanwhile. Preconditions: mu is held.
func (p *pool) reserve() {
	if p.reserved != nil && p.reserved.accepting {
		return
	}
	p.reserved = nil
	for _, s := range p.slots {
		if s.accepting && (p.reserved == nil || s.inc.inFlight < p.reserved.inc.inFlight) {
			p.reserved = s
		}
	}
}

// Ended gives the place back once the worker has ended the request, or has died with it: then lost says how the call ended.
func (l *lease) Ended(lost *ipc.Error) {
	l.release(lost)
	l.arenas.Return()
}

func (l *lease) release(lost *ipc.Error) {
	p, now := l.pool, time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if lost == nil {
		l.began = l.turn()
		took := now.Sub(l.began)
		l.inc.served++
		l.inc.probing = false
		l.inc.lastEnd = now
		l.slot.place.served++
		if g := p.queue.gathers[l.action]; g != nil {
			g.took = running(g.took, took)
		}
		if l.batch != nil {
			took /= time.Duration(l.batch.size) // its part
		}
		p.pace.learn(l.action, took)
		p.queue.spent(l.client, l.cost, took)
		if l.abandoned != 0 && p.suspects.any() {
			p.suspects.clear(l.abandoned)
		}
	} else if l.abandoned != 0 && lost == l.inc.lost.Load() && l.inc.blame {
		p.suspects.died(l.abandoned, l.inc.serial, now)
	}
	p.giveBack(l)
}

// abandon says that nobody waits for the request any more, though its worker may still run it. If that worker dies of it, the digest will be remembered.
func (l *lease) abandon(digest uint64) {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	l.abandoned = digest
}

// sent says that the request was sent, and under which id.
func (l *lease) sent(id uint64) {
	if l.batch != nil {
		l.batch.settle(l.member, id)
	}
	if l.errand != nil && id != 0 {
		l.pool.sentErrand(l, id)
	}
}

// unused gives the place back of a request that was never sent; gone says that the process cannot be sent any.
func (l *lease) unused(gone bool) {
	l.pool.mu.Lock()
	if gone && l.slot.inc == l.inc {
		l.slot.accepting = false // its slot's goroutine is about to notice
	}
	l.pool.giveBack(l)
	l.pool.mu.Unlock()
	l.sent(0)
	l.arenas.Return()
}

// giveBack frees a place, unless others of a batch have a part in it, and gives it to whose turn it is. Preconditions: mu is held.
func (p *pool) giveBack(l *lease) {
	l.inc.inFlight--
	l.inc.leftLine(l)
	l.inc.alone = l.inc.alone && !l.alone
	if l.errand != nil {
		delete(p.errands, l)
	}
	if l.batch != nil {
		l.batch.open--
	}
	if l.batch == nil || l.batch.open == 0 {
		l.inc.taken--
		p.dispatch()
	}
	if p.draining || l.inc.inFlight == 0 && !l.slot.accepting {
		p.broadcast()
	}
}
