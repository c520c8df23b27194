package supervisor

import (
	"container/list"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// pool gives requests to workers: at once if one is free, else through a bounded queue, first in first out.
//
//	acquire ──▶ a slot is free? ──yes──▶ lease ──▶ … ──▶ release ──▶ dispatch the queue's head
//	                 └─no──▶ queue (bounded; left on deadline or cancel)
//
// A lease is one place in one worker, taken from the moment the request is sent until the worker has ended it (not until its caller lost interest).
type pool struct {
	cfg   PoolConfig // immutable, with defaults
	log   *slog.Logger
	slots []*slot // immutable

	mu       sync.Mutex
	balancer *balancer             // guarded by mu
	load     []int                 // guarded by mu; scratch for pick
	queue    list.List             // guarded by mu; of *waiter
	draining bool                  // guarded by mu: no request is accepted
	actions  map[string]ipc.Action // guarded by mu; what the workers said they can do; nil before the first hello
	hold     time.Duration         // guarded by mu; running mean of how long a lease is held
	changed  chan struct{}         // guarded by mu; closed and replaced when a slot's state or a count that waiters watch changes
}

type waiter struct {
	granted chan grant // capacity 1
	element *list.Element
}

// grant is a lease, or why there will be none.
type grant struct {
	lease *lease
	err   *ipc.Error
}

// lease is the right to send one request to one worker.
type lease struct {
	pool *pool
	slot *slot
	inc  *incarnation
	at   time.Time
}

func newPool(cfg PoolConfig, log *slog.Logger) *pool {
	return &pool{
		cfg: cfg, log: log,
		balancer: newBalancer(cfg.Balance, cfg.Workers, cfg.Weights),
		load:     make([]int, cfg.Workers),
		changed:  make(chan struct{}),
	}
}

// acquire takes a place in a worker that can run action, waiting in the queue if it must. A request that was accepted before, and comes again because its worker died before reading it, is
// not refused for want of room or because the pool drains, and goes to the queue's head.
func (p *pool) acquire(ctx context.Context, action string, again bool) (*lease, error) {
	if ctx.Err() != nil {
		return nil, ipc.AsError(context.Cause(ctx))
	}
	p.mu.Lock()
	refusal := p.hopeless()
	if !again {
		refusal = p.refusal(action)
	}
	if refusal != nil {
		p.mu.Unlock()
		return nil, refusal
	}
	if p.queue.Len() == 0 {
		if l := p.take(); l != nil {
			p.mu.Unlock()
			return l, nil
		}
	}
	if p.queue.Len() >= p.cfg.Queue && !again {
		err := ipc.Errorf(ipc.ResourceExhausted, "queue_full",
			"pool %s: %d requests are waiting already, the most its queue takes; try again after retry_after, or raise `queue` or `workers`", p.cfg.Name, p.queue.Len())
		err.RetryAfter = p.retryAfter()
		p.mu.Unlock()
		return nil, err
	}
	w := &waiter{granted: make(chan grant, 1)}
	if again {
		w.element = p.queue.PushFront(w)
	} else {
		w.element = p.queue.PushBack(w)
	}
	p.mu.Unlock()

	select {
	case g := <-w.granted:
		if g.err != nil {
			return nil, g.err
		}
		return g.lease, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case g := <-w.granted: // while we were giving up
		if g.lease != nil {
			p.giveBack(g.lease)
		}
	default:
		p.queue.Remove(w.element)
		p.broadcast()
	}
	err := ipc.AsError(context.Cause(ctx))
	if err.Code == ipc.DeadlineExceeded {
		err = ipc.Errorf(ipc.DeadlineExceeded, "deadline", "the deadline passed while the request waited for a worker: pool %s is %s, %d requests wait", p.cfg.Name, p.state(), p.queue.Len())
	}
	return nil, err
}

// refusal says why the pool takes no new request for action now, or nil. Preconditions: mu is held.
func (p *pool) refusal(action string) *ipc.Error {
	if p.draining {
		return ipc.Errorf(ipc.Unavailable, "draining", "pool %s is draining and takes no new requests; `ringmaster restart %s` brings it back", p.cfg.Name, p.cfg.Name)
	}
	if p.actions != nil {
		if _, ok := p.actions[action]; !ok {
			return ipc.Errorf(ipc.NotFound, "unknown_action", "pool %s has no action %q; it has %s", p.cfg.Name, action, strings.Join(p.actionNames(), ", "))
		}
	}
	return p.hopeless()
}

// hopeless is the error of a pool none of whose workers will be ready soon. Preconditions: mu is held.
func (p *pool) hopeless() *ipc.Error {
	var last *Exit
	for _, s := range p.slots {
		if !s.state.givenUp() {
			return nil
		}
		if s.lastExit != nil {
			last = s.lastExit
		}
	}
	if p.draining {
		return ipc.Errorf(ipc.Unavailable, "draining", "pool %s was stopped before it came to this request", p.cfg.Name)
	}
	if last == nil || !slices.ContainsFunc(p.slots, func(s *slot) bool { return s.state == stateFailed }) {
		return ipc.Errorf(ipc.Unavailable, "no_ready_worker", "pool %s has no worker: they were stopped; `ringmaster restart %s` starts them", p.cfg.Name, p.cfg.Name)
	}
	err := ipc.Errorf(ipc.Unavailable, "crash_loop", "pool %s has no worker that stays up: %s; see `ringmaster status` and the log", p.cfg.Name, last.describe())
	err.RetryAfter = p.slots[0].sup.backoffMax
	return err
}

// take leases a place if one is free. Preconditions: mu is held.
func (p *pool) take() *lease {
	for i, s := range p.slots {
		p.load[i] = -1
		if s.accepting && s.inc.inFlight < p.cfg.Concurrency {
			p.load[i] = s.inc.inFlight
		}
	}
	i := p.balancer.pick(p.load)
	if i < 0 {
		return nil
	}
	s := p.slots[i]
	s.inc.inFlight++
	return &lease{pool: p, slot: s, inc: s.inc, at: time.Now()}
}

// release gives the place back once the worker has ended the request.
func (l *lease) release() {
	p := l.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	l.inc.served++
	l.slot.served++
	p.hold += (time.Since(l.at) - p.hold) / 8
	p.giveBack(l)
}

// unused gives the place back of a request that was never sent; gone says that the process cannot be sent any.
func (l *lease) unused(gone bool) {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	if gone && l.slot.inc == l.inc {
		l.slot.accepting = false // its slot's goroutine is about to notice
	}
	l.pool.giveBack(l)
}

// giveBack frees a place and gives it to the queue's head. Preconditions: mu is held.
func (p *pool) giveBack(l *lease) {
	l.inc.inFlight--
	p.dispatch()
	if p.draining || l.inc.inFlight == 0 && !l.slot.accepting {
		p.broadcast()
	}
}

// dispatch gives free places to waiters. Preconditions: mu is held.
func (p *pool) dispatch() {
	for p.queue.Len() > 0 {
		l := p.take()
		if l == nil {
			return
		}
		w := p.queue.Remove(p.queue.Front()).(*waiter)
		w.granted <- grant{lease: l}
	}
}

// refuseWaiters ends the wait of all who queue. Preconditions: mu is held.
func (p *pool) refuseWaiters(err *ipc.Error) {
	for p.queue.Len() > 0 {
		p.queue.Remove(p.queue.Front()).(*waiter).granted <- grant{err: err}
	}
	p.broadcast()
}

// retryAfter estimates how long the queue takes to move on by a tenth. Preconditions: mu is held.
func (p *pool) retryAfter() time.Duration {
	places := p.cfg.Workers * p.cfg.Concurrency
	return min(max(p.hold*time.Duration(p.queue.Len())/time.Duration(10*places), 10*time.Millisecond), 10*time.Second)
}

// broadcast wakes whoever waits for a change. Preconditions: mu is held.
func (p *pool) broadcast() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// await waits until ok returns true; ok is called with mu held, after each change.
func (p *pool) await(ctx context.Context, ok func() (bool, error)) error {
	for {
		p.mu.Lock()
		done, err := ok()
		changed := p.changed
		p.mu.Unlock()
		if done || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ipc.AsError(context.Cause(ctx))
		}
	}
}

// Preconditions: mu is held.
func (p *pool) actionNames() []string { return slices.Sorted(maps.Keys(p.actions)) }

// waitReady waits until a worker can take requests; it gives up when every slot has.
func (p *pool) waitReady(ctx context.Context) error {
	return p.await(ctx, func() (bool, error) {
		for _, s := range p.slots {
			if s.accepting {
				return true, nil
			}
		}
		if err := p.hopeless(); err != nil {
			return false, err
		}
		return false, nil
	})
}

// drain refuses new requests, waits until queued and running ones have ended, and stops the workers.
func (p *pool) drain(ctx context.Context) error {
	p.mu.Lock()
	p.draining = true
	if err := p.hopeless(); err != nil {
		p.refuseWaiters(err)
	}
	p.broadcast()
	p.mu.Unlock()
	err := p.await(ctx, func() (bool, error) {
		return p.queue.Len() == 0 && p.inFlight() == 0, nil
	})
	if err != nil {
		return err
	}
	for _, s := range p.slots {
		s.want(func(s *slot) { s.stopped = true })
	}
	return p.await(ctx, func() (bool, error) {
		for _, s := range p.slots {
			if s.state != stateStopped {
				return false, nil
			}
		}
		return true, nil
	})
}

// restart replaces the workers one after the other, each once the one before it is ready; a drained pool comes back.
func (p *pool) restart(ctx context.Context) error {
	p.mu.Lock()
	p.draining = false
	p.mu.Unlock()
	for _, s := range p.slots {
		var generation int
		s.want(func(s *slot) {
			s.stopped = false
			s.wanted++
			generation = s.wanted
		})
		err := p.await(ctx, func() (bool, error) {
			switch {
			case s.wanted != generation: // a later restart has taken over
				return true, nil
			case s.state == stateReady && s.generation == generation:
				return true, nil
			case s.state == stateFailed && s.generation == generation:
				return false, ipc.Errorf(ipc.Unavailable, "crash_loop", "pool %s: worker %d does not come up: %s", p.cfg.Name, s.index, s.lastExit.describe())
			}
			return false, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// inFlight counts the requests that workers have. Preconditions: mu is held.
func (p *pool) inFlight() int {
	n := 0
	for _, s := range p.slots {
		if s.inc != nil {
			n += s.inc.inFlight
		}
	}
	return n
}

// health makes a frame's round trip through a ready worker, whichever answers first.
func (p *pool) health(ctx context.Context) PoolHealth {
	h := PoolHealth{Name: p.cfg.Name}
	var ready []*incarnation
	why := ""
	p.mu.Lock()
	for _, s := range p.slots {
		if s.accepting {
			ready = append(ready, s.inc)
		}
		if (s.state == stateBackoff || s.state == stateFailed) && s.lastExit != nil {
			why = "; a worker ended: " + s.lastExit.describe()
		}
	}
	state := p.state()
	p.mu.Unlock()
	if len(ready) == 0 {
		h.Error = "no worker is ready: the pool is " + state + why
		return h
	}
	ctx, cancel := context.WithCancel(ctx) // one answer will do
	defer cancel()
	begin := time.Now()
	answers := make(chan error, len(ready))
	for _, inc := range ready {
		go func() { answers <- inc.caller.Ping(ctx) }()
	}
	var err error
	for range ready {
		select {
		case err = <-answers:
		case <-ctx.Done(): // a ping may be stuck behind a full ring, whatever its context says
			err = ipc.AsError(context.Cause(ctx))
		}
		if err == nil {
			h.OK = true
			h.RoundMS = float64(time.Since(begin).Microseconds()) / 1e3
			return h
		}
	}
	if died(err) {
		h.Error = "no ready worker answered: it died meanwhile"
		return h
	}
	h.Error = "no ready worker answered: " + err.Error()
	return h
}

// state sums the slots up. Preconditions: mu is held.
func (p *pool) state() string {
	best := stateStopped
	for _, s := range p.slots {
		if s.state.better(best) {
			best = s.state
		}
	}
	switch {
	case best == stateStopped && p.draining:
		return "drained"
	case p.draining:
		return "draining"
	case best == stateStarting:
		return "loading"
	}
	return best.String()
}

func (p *pool) status() PoolStatus {
	p.mu.Lock()
	st := PoolStatus{Name: p.cfg.Name, State: p.state(), Queued: p.queue.Len(), InFlight: p.inFlight(), Actions: p.actionNames()}
	for _, s := range p.slots {
		st.Workers = append(st.Workers, s.status())
	}
	p.mu.Unlock()
	for i := range st.Workers {
		measure(&st.Workers[i]) // reads /proc: not under the lock
	}
	return st
}
