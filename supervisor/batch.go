package supervisor

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// batch is one call that answers several requests: they share one place in one worker.
//
//	dispatch ──▶ a lease for each member ──▶ each sends its own request, held ──▶ the last one to do so says which are the call
//
// Beyond that each stays a request of its own, with its own deadline, cancellation, END and second try: a member that is not sent after all, since its caller has gone meanwhile, is not missed.
type batch struct {
	inc    *incarnation
	number uint64 // no other batch has it
	size   int
	open   int // guarded by pool.mu: members whose lease has not been given back

	mu      sync.Mutex
	missing int      // guarded by mu: members of whom it is not known yet whether they are sent
	ids     []uint64 // guarded by mu: theirs, 0 for one that is not sent
}

// members is how many requests share the call; 0 for no batch.
func (b *batch) members() int {
	if b == nil {
		return 0
	}
	return b.size
}

// batches counts batches.
var batches atomic.Uint64

// settle says that the i'th member was sent under this id, or with 0 that it never will be. The last one to say so lets the worker begin.
func (b *batch) settle(i int, id uint64) {
	b.mu.Lock()
	b.ids[i] = id
	b.missing--
	complete := b.missing == 0
	b.mu.Unlock()
	if !complete {
		return
	}
	if ids := slices.DeleteFunc(b.ids, func(id uint64) bool { return id == 0 }); len(ids) > 0 {
		b.inc.caller.Batch(ids)
	}
}

// grant gives a lease to the waiter that it is for, and shares it with those that can go with him. Preconditions: mu is held, neither is in a queue any more.
func (p *pool) grant(w *waiter, l *lease) {
	others := p.companions(w, l.inc)
	n := 1 + len(others)
	if w.gather != nil {
		p.batched[n]++
	}
	if n > 1 {
		l.batch = &batch{inc: l.inc, number: batches.Add(1), size: n, open: n, missing: n, ids: make([]uint64, n)}
		for i, o := range others {
			l.inc.inFlight++
			*o.room = lease{pool: p, slot: l.slot, inc: l.inc, at: l.at, client: o.client, action: o.action, cost: o.cost, batch: l.batch, member: i + 1}
			o.granted <- grant{lease: o.room}
		}
	}
	w.granted <- grant{lease: l}
}

// companions takes those out of the queues that go with w to the same call. Preconditions: mu is held.
func (p *pool) companions(w *waiter, inc *incarnation) []*waiter {
	g := w.gather
	if g == nil || g.max < 2 || inc.probing || !together(inc.actions[w.action]) {
		return nil
	}
	var others []*waiter
	for e := p.again.Front(); e != nil && len(others) < g.max-1; {
		o := e.Value.(*waiter)
		this := e
		e = e.Next()
		if o.gather == g {
			p.again.Remove(this)
			others = append(others, o)
		}
	}
	return append(others, p.queue.company(g, g.max-1-len(others), p.pace.quantum())...)
}

// together reports whether a worker may be given several requests for an action as one call.
func together(a ipc.Action) bool { return a.Batchable && !a.Stream }

// gatherings takes over for which actions requests are gathered, and how many: what the configuration says of those that the workers can run so. Before the first hello all of them are taken to be such. Preconditions: mu is
// held, or nobody else knows the pool yet.
func (p *pool) gatherings() {
	cfg := p.cfg.Load()
	for _, g := range p.queue.gathers {
		g.max = 1 // unless it is named again: whoever waits goes
	}
	for name, a := range cfg.Actions {
		if a.Batch.Max == 0 {
			continue
		}
		known, ok := p.actions[name]
		switch {
		case p.actions == nil || together(known):
			if p.queue.gathers == nil {
				p.queue.gathers = map[string]*gather{}
			}
			g := p.queue.gathers[name]
			if g == nil {
				g = &gather{}
				p.queue.gathers[name] = g
			}
			g.max, g.delay = min(a.Batch.Max, max(1, cfg.Queue)), a.Batch.Delay
		case !ok:
			p.log.Warn("requests are not gathered into batches: the workers have no such action", "action", name, "actions", p.actionNames())
		case known.Stream:
			p.log.Warn("requests are not gathered into batches: the action streams; only actions that give one answer can be", "action", name)
		default:
			p.log.Warn("requests are not gathered into batches: the worker's action takes one at a time; say @rm.action(…, batch=True), or set worker.Action.Batch", "action", name)
		}
	}
}

// idle reports whether a worker that takes requests has nothing to do. Preconditions: mu is held.
func (p *pool) idle() bool {
	for _, s := range p.slots {
		if s.accepting && s != p.reserved && s.inc.inFlight == 0 {
			return true
		}
	}
	return false
}

// wakeAt sees that dispatch is called when requests that are being gathered are due; zero: none are. Preconditions: mu is held.
func (p *pool) wakeAt(due time.Time) {
	switch {
	case due.Equal(p.alarm):
		return
	case due.IsZero():
		p.timer.Stop()
	case p.timer == nil:
		p.timer = time.AfterFunc(time.Until(due), p.wake)
	default:
		p.timer.Reset(time.Until(due))
	}
	p.alarm = due
}

// wake is what the timer does.
func (p *pool) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alarm = time.Time{}
	p.dispatch()
}
