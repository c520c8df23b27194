package supervisor

import (
	"container/list"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// pool gives requests to workers: at once if one is free, else through a bounded queue that is fair between clients.
//
//	acquire ──▶ a slot is free? ──yes──▶ lease ──▶ … ──▶ release ──▶ dispatch: who comes again first, then whose turn it is
//	                 └─no──▶ queue (bounded; left on deadline or cancel, or for a client with less in it)
//
// The pool outlives its slots: a roll (roll.go) puts others in their places, a reload changes cfg.
type pool struct {
	name string // immutable
	sup  *Supervisor
	log  *slog.Logger

	cfg      atomic.Pointer[PoolConfig] // written with mu held; what it points to is immutable, with defaults
	rolling  chan struct{}              // capacity 1: held by whoever replaces workers
	suspects suspects

	mu       sync.Mutex
	slots    []*slot               // guarded by mu; one for each place
	extra    []*slot               // guarded by mu; those that are to take a place, or have left it and not ended yet
	balancer *balancer             // guarded by mu
	load     []int                 // guarded by mu; scratch for pick
	queue    fairQueue             // guarded by mu
	again    list.List             // guarded by mu; of *waiter: requests that were accepted before and go first
	timer    *time.Timer           // guarded by mu; calls dispatch at alarm
	alarm    time.Time             // guarded by mu; when requests that are being gathered are due; zero: there are none, or there is no place for them
	reserved *slot                 // guarded by mu; gets no request but one that runs alone; nil: there is none that waits
	draining bool                  // guarded by mu: no request is accepted
	errands  map[*lease]struct{}   // guarded by mu; the background work that may be given up; nil before the first
	actions  map[string]ipc.Action // guarded by mu; what the workers said they can do; nil before the first hello
	pace     pace                  // guarded by mu
	exits    map[string]uint64     // guarded by mu; how many processes have ended, by cause
	batched  map[int]uint64        // guarded by mu; how often a call of an action whose requests are gathered had so many
	changed  chan struct{}         // guarded by mu; closed and replaced when a slot's state or a count that waiters watch changes
}

func newPool(sup *Supervisor, cfg *PoolConfig) *pool {
	p := &pool{name: cfg.Name, sup: sup, log: sup.cfg.Logger.With("pool", cfg.Name), rolling: make(chan struct{}, 1), changed: make(chan struct{}), exits: map[string]uint64{}, batched: map[int]uint64{}}
	for i := range cfg.Workers {
		p.slots = append(p.slots, newSlot(p, cfg, i, &place{}))
	}
	p.adopt(cfg)
	return p
}

// adopt takes over what can change while processes run. Preconditions: mu is held, or nobody else knows the pool yet.
func (p *pool) adopt(cfg *PoolConfig) {
	p.cfg.Store(cfg)
	for _, s := range p.slots {
		s.rouse()
	}
	p.balancer = newBalancer(cfg.Balance, len(p.slots), cfg.Weights)
	p.load = make([]int, len(p.slots))
	if cfg.Balance != Hash {
		p.queue.unbind()
	}
	p.gatherings()
}

// config returns what the pool is to be now.
func (p *pool) config() *PoolConfig { return p.cfg.Load() }

// places is how many requests the workers that are ready can have at a time. Preconditions: mu is held.
func (p *pool) places() int {
	n := 0
	for _, s := range p.slots {
		if s.accepting {
			n += s.places()
		}
	}
	return n
}

// hashes reports whether requests have workers that they belong to.
func (p *pool) hashes() bool { return p.config().Balance == Hash }

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

// signatures are the actions' that have one; nil: none has. Preconditions: mu is held.
func (p *pool) signatures() map[string]ipc.Signature {
	var all map[string]ipc.Signature
	for name, a := range p.actions {
		if a.Signature == nil {
			continue
		}
		if all == nil {
			all = map[string]ipc.Signature{}
		}
		all[name] = *a.Signature
	}
	return all
}

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
		return p.waiting() == 0 && p.inFlight() == 0, nil
	})
	if err != nil {
		return err
	}
	for _, s := range p.all() {
		s.wish(wantNone, "stopped")
	}
	return p.await(ctx, func() (bool, error) {
		for _, s := range p.slots {
			if s.state != stateStopped {
				return false, nil
			}
		}
		return len(p.extra) == 0, nil
	})
}

// all returns every slot, those in a place first.
func (p *pool) all() []*slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Concat(p.slots, p.extra)
}

// inFlight counts the requests that workers have. Preconditions: mu is held.
func (p *pool) inFlight() int {
	n := 0
	for _, list := range [][]*slot{p.slots, p.extra} {
		for _, s := range list {
			if s.inc != nil {
				n += s.inc.inFlight
			}
		}
	}
	return n
}

// health makes a frame's round trip through a ready worker, whichever answers first.
func (p *pool) health(ctx context.Context) PoolHealth {
	h := PoolHealth{Name: p.name}
	var ready []*incarnation
	why := ""
	p.mu.Lock()
	for _, s := range p.slots {
		if s.accepting {
			ready = append(ready, s.inc)
		}
		if (s.state == stateBackoff || s.state == stateFailed) && s.place.lastExit != nil {
			why = "; a worker ended: " + s.place.lastExit.describe()
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
	st := PoolStatus{Name: p.name, State: p.state(), Queued: p.waiting(), InFlight: p.inFlight(), Actions: p.actionNames(), Exits: maps.Clone(p.exits), Batches: maps.Clone(p.batched), Signatures: p.signatures()}
	for _, list := range [][]*slot{p.slots, p.extra} {
		for _, s := range list {
			st.Workers = append(st.Workers, s.status())
		}
	}
	p.mu.Unlock()
	for i := range st.Workers {
		measure(&st.Workers[i]) // reads /proc: not under the lock
		if pid := st.Workers[i].PID; pid != 0 {
			st.Workers[i].VRAMBytes = p.sup.vram.of(pid)
		}
	}
	return st
}

// idempotent reports whether an action may run a second time.
func (p *pool) idempotent(action string) bool {
	known, _ := p.action(action)
	return known.Idempotent
}

// action returns what the workers say of an action; false: there is none, or no worker has said anything yet.
func (p *pool) action(name string) (ipc.Action, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.actions[name]
	return a, ok
}
