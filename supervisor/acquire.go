package supervisor

import (
	"container/list"
	"context"
	"strings"
	"time"

	"github.com/ringmasterd/ringmaster/internal/deadline"
	"github.com/ringmasterd/ringmaster/ipc"
)

// waiter is a request that wants a place.
type waiter struct {
	client ipc.Client
	action string
	cost   time.Duration // what the client is charged for it
	alone  bool          // it is to share its worker with no other request
	yield  func() bool   // of background work, see [ipc.Request]
	idle   bool          // it is background work: it gets a place at once where nobody waits for one, or none
	again  bool          // it was accepted before: it is refused neither for want of room nor because the pool drains, and goes first
	key    uint64        // balance: hash: of the worker that it belongs to; 0: to none
	spill  time.Time     // until when it waits for that one rather than take another; zero: it does not wait
	bound  bool          // set by fairQueue.bind: it waits for that one

	req     *ipc.Request  // asked for its size, where it may go ahead
	now     time.Time     // when it came
	room    *lease        // for the lease that it gets
	granted chan grant    // capacity 1; nil until it has to wait
	element *list.Element // in flow.waiting, or pool.again
	flow    *flow         // nil in pool.again

	gather   *gather       // if it may be run together with others, by which
	since    time.Time     // since when it waits for others
	latest   time.Time     // until when at most; zero: as long as its gather says
	gathered *list.Element // in gather.waiting, if it waits
}

// grant is a lease, or why there will be none.
type grant struct {
	lease *lease
	err   *ipc.Error
}

// acquire takes a place in a worker for w, whose request is req, waiting in the queue if it must. w may be on the stack: what queues is a copy.
func (p *pool) acquire(ctx context.Context, req *ipc.Request, w *waiter) (*lease, error) {
	if deadline.ErrAt(ctx, w.now) != nil {
		return nil, ipc.AsError(context.Cause(ctx))
	}
	p.mu.Lock()
	l, queued, err := p.enter(ctx, w)
	p.mu.Unlock()
	switch {
	case err != nil:
		return nil, err
	case l != nil:
		return l, nil
	}
	req.Waits()
	select {
	case g := <-queued.granted:
		if g.err != nil {
			return nil, g.err
		}
		return g.lease, nil
	case <-ctx.Done():
	}
	return nil, p.giveUp(ctx, queued)
}

// enter gives w a place, or puts a copy of it into the queue if there is none (a nil lease), or refuses it. Preconditions: mu is held.
func (p *pool) enter(ctx context.Context, w *waiter) (l *lease, queued *waiter, err *ipc.Error) {
	if !w.alone {
		w.gather = p.queue.gathers[w.action]
	}
	cfg, hashes := p.config(), p.hashes()
	switch {
	case !hashes:
		w.key = 0
	case cfg.AffinityWait > 0 && cfg.Queue > 0:
		w.spill = spillAt(ctx, time.Now(), cfg.AffinityWait)
	}
	if w.idle {
		l, err = p.takeIdle(w)
		return l, nil, err
	}
	if w.again {
		if err := p.hopeless(); err != nil {
			return nil, nil, err
		}
		q := w.queues()
		q.element = p.again.PushBack(q)
		p.dispatch()
		p.preempt()
		return nil, q, nil
	}
	if err := p.refusal(w.action); err != nil {
		return nil, nil, err
	}
	w.cost = p.pace.cost(w.action)
	if p.waiting() == 0 && (w.gather == nil || p.idle()) {
		if l := p.take(w); l != nil {
			if w.gather != nil {
				p.batched[1]++
			}
			return l, nil, nil
		}
	}
	if hashes && p.queue.len >= cfg.Queue {
		w.spill = time.Time{}
		if l := p.take(w); l != nil { // those in the queue do not want this place
			return l, nil, nil
		}
	}
	if err := p.makeRoom(ctx, w); err != nil {
		return nil, nil, err
	}
	if s := p.line(w.now); s != nil && p.waiting() == 0 && !s.inc.behindItself(w.client, w.now) {
		if l := p.takeAhead(w, s); l != nil {
			return l, nil, nil
		}
	}
	q := w.queues()
	if q.gather != nil {
		deadline, _ := ctx.Deadline()
		if now := time.Now(); q.gather.waiting.Len() == 0 && p.idle() {
			q.gather.join(q, now, now) // only others' requests are being gathered
		} else {
			q.gather.join(q, now, deadline)
		}
	}
	p.queue.push(q, p.pace.quantum())
	if q.alone || hashes || len(p.queue.gathers) > 0 || p.lineForQueue() != nil {
		p.dispatch() // so that a worker is reserved for it; while requests are gathered, or wait for a worker of their choice, there may be a place; and in line there may be one for it that the others in the queue were not to have
	}
	p.preempt()
	return nil, q, nil
}

// queues returns a copy of w for the queue.
func (w *waiter) queues() *waiter {
	q := *w
	q.granted = make(chan grant, 1)
	return &q
}

// takeIdle gives background work a place if a worker has one and nobody else wants it, and refuses it otherwise. Preconditions: mu is held.
func (p *pool) takeIdle(w *waiter) (*lease, *ipc.Error) {
	if err := p.refusal(w.action); err != nil {
		return nil, err
	}
	w.cost = p.pace.cost(w.action)
	if p.waiting() == 0 && p.idle() {
		if l := p.take(w); l != nil {
			p.runErrand(l, w.yield)
			return l, nil
		}
	}
	return nil, noneIdle(p.name)
}

// makeRoom sees that w may queue: that it can begin before its deadline, and that there is room, if need be in the place of a client that has more in the queue. Preconditions: mu is held.
func (p *pool) makeRoom(ctx context.Context, w *waiter) *ipc.Error {
	places, line := p.places(), p.inLine()
	if deadline, ok := ctx.Deadline(); ok && places > 0 {
		ahead := line + p.again.Len() + p.queue.ahead(w.client)
		if left := time.Until(deadline); p.pace.tooLate(left, ahead, places) {
			return wouldExpire(p.name, ahead, p.pace.wait(ahead, places), left, p.pace.retryAfter(line+p.queue.len, places))
		}
	}
	queued := line + p.queue.len
	if queued < p.config().Queue {
		return nil
	}
	err := queueFull(p.name, queued, p.pace.retryAfter(queued, max(1, places)))
	most := p.queue.surplus(w.client, p.lined())
	if most == nil {
		return err
	}
	p.queue.remove(most)
	most.granted <- grant{err: err}
	return nil
}

// giveUp takes w out of the queue at the end of its context, and returns the error.
func (p *pool) giveUp(ctx context.Context, w *waiter) error {
	if late := p.leave(w); late != nil {
		late.unused(false)
	}
	err := ipc.AsError(context.Cause(ctx))
	if err.Code == ipc.DeadlineExceeded {
		p.mu.Lock()
		defer p.mu.Unlock()
		err = ipc.Errorf(ipc.DeadlineExceeded, "deadline", "the deadline passed while the request waited for a worker: pool %s is %s, %d requests wait", p.name, p.state(), p.waiting())
	}
	return err
}

// leave takes w out of the queue, or returns the lease that it was given meanwhile.
func (p *pool) leave(w *waiter) *lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case g := <-w.granted:
		return g.lease
	default:
	}
	if w.flow != nil {
		p.queue.remove(w)
	} else {
		p.again.Remove(w.element)
	}
	p.dispatch() // it may have been what others waited for
	p.broadcast()
	return nil
}

// waiting counts the requests without a place. Preconditions: mu is held.
func (p *pool) waiting() int { return p.again.Len() + p.queue.len }

// refusal says why the pool takes no new request for action now, or nil. Preconditions: mu is held.
func (p *pool) refusal(action string) *ipc.Error {
	if p.draining {
		return ipc.Errorf(ipc.Unavailable, "draining", "pool %s is draining and takes no new requests; `ringmaster restart %s` brings it back", p.name, p.name)
	}
	if p.actions != nil {
		if _, ok := p.actions[action]; !ok {
			return ipc.Errorf(ipc.NotFound, "unknown_action", "pool %s has no action %q; it has %s", p.name, action, strings.Join(p.actionNames(), ", "))
		}
	}
	return p.hopeless()
}

// hopeless is the error of a pool none of whose workers will be ready soon: its circuit is open. It closes by itself once a process that is tried is ready and has answered one request. Preconditions: mu is held.
func (p *pool) hopeless() *ipc.Error {
	for _, list := range [][]*slot{p.slots, p.extra} {
		for _, s := range list {
			if !s.givenUp() {
				return nil
			}
		}
	}
	if p.draining {
		return ipc.Errorf(ipc.Unavailable, "draining", "pool %s was stopped before it came to this request", p.name)
	}
	var last *Exit
	var next time.Time
	for _, s := range p.slots {
		if s.tripped && s.place.lastExit != nil {
			last = s.place.lastExit
			if next.IsZero() || s.next.Before(next) {
				next = s.next
			}
		}
	}
	if last == nil {
		return ipc.Errorf(ipc.Unavailable, "no_ready_worker", "pool %s has no worker: they were stopped; `ringmaster restart %s` starts them", p.name, p.name)
	}
	err := ipc.Errorf(ipc.Unavailable, "crash_loop", "pool %s has no worker that stays up: %s; see `ringmaster status` and the log", p.name, last.describe())
	err.RetryAfter = max(time.Until(next), minCrashRetry)
	err.Details = map[string]string{"cause": last.Cause, "detail": last.Detail, "stderr": strings.Join(last.Stderr, "\n")}
	return err
}

// minCrashRetry is the least to wait for a worker that is being tried again.
const minCrashRetry = time.Second

// dispatch gives free places to waiters: first to those that come again. Preconditions: mu is held.
func (p *pool) dispatch() { p.wakeAt(p.dispatchDue()) }

// dispatchDue is dispatch's inner half; it returns when those are due that were left waiting for company though there is a place.
func (p *pool) dispatchDue() (due time.Time) {
	alone := false // somebody waits for a worker of his own
	var next *list.Element
	for e := p.again.Front(); e != nil; e = next {
		next = e.Next()
		w := e.Value.(*waiter)
		l := p.take(w)
		switch {
		case l != nil:
			p.again.Remove(e)
			p.grant(w, l)
			next = p.again.Front() // others may have gone with it
		case w.alone:
			alone = true
			p.reserve()
		default:
			return due // there is no place for anybody
		}
	}
	if !alone {
		p.reserved = nil
	}
	for p.queue.len > 0 && (p.free() || p.lineForQueue() != nil) {
		due = p.waits(time.Now())
		w := p.queue.pop(p.pace.quantum())
		if w == nil {
			return due
		}
		l := p.take(w)
		if l == nil {
			l = p.takeAhead(w, p.line(time.Time{}))
		}
		if l != nil {
			p.grant(w, l)
			continue
		}
		w.element, w.flow = p.again.PushBack(w), nil // it had its turn: it waits for a worker of its own if it is to run alone, else it is none that goes ahead
		if w.alone {
			p.reserve()
		}
	}
	return time.Time{}
}

// waits finds out which requests in the queue are not to be given a place yet though there is one, and returns when that changes; zero: by itself it does not. Preconditions: mu is held.
func (p *pool) waits(now time.Time) (next time.Time) {
	if len(p.queue.gathers) > 0 {
		next = p.queue.look(now)
	}
	if !p.hashes() {
		return next
	}
	if len(p.queue.gathers) == 0 {
		p.queue.held = 0
	}
	p.weigh(false)
	if spill := p.queue.bind(p.load, now); next.IsZero() || !spill.IsZero() && spill.Before(next) {
		next = spill
	}
	return next
}

// free reports whether an ordinary request would find a place. Preconditions: mu is held.
func (p *pool) free() bool {
	for _, s := range p.slots {
		if s.accepting && s != p.reserved && !s.inc.alone && s.inc.taken < s.places() {
			return true
		}
	}
	return false
}

// refuseWaiters ends the wait of all who queue. Preconditions: mu is held.
func (p *pool) refuseWaiters(err *ipc.Error) {
	for e := p.again.Front(); e != nil; e = p.again.Front() {
		p.again.Remove(e).(*waiter).granted <- grant{err: err}
	}
	for _, g := range p.queue.gathers {
		g.waits = false
	}
	p.queue.unbind()
	for w := p.queue.pop(minCost); w != nil; w = p.queue.pop(minCost) {
		w.granted <- grant{err: err}
	}
	p.reserved = nil
	p.wakeAt(time.Time{})
	p.broadcast()
}
