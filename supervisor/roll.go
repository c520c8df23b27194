package supervisor

import (
	"context"
	"slices"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// A roll replaces a pool's workers one after the other; no request is lost by it. Each place gets a new slot:
//
//	start-first   place: old ────────────────── old ─┐ swap ┌─ new        nobody waits, but for a while there are both
//	              extra:     new, until ready ───────┘      └─ old, until it has finished what it has
//	stop-first    place: old, until it has finished ─▶ new, until ready   requests wait in the queue, or go to other workers
//
// With start-first a new process that does not come up changes nothing: the old one stays.

// failedStarts is how many processes of a new slot may die before they answered anything until a roll gives up on it.
const failedStarts = 2

// startsFirst reports whether two processes may be there at a time. On a device the second one's model may find no room.
func (p *pool) startsFirst(cfg *PoolConfig, index int) bool {
	switch cfg.Replace {
	case StartFirst:
		return true
	case StopFirst:
		return false
	}
	devices, _ := visibleDevices(cfg.Devices, index, p.sup.devices)
	return devices == ""
}

// lockRoll makes the caller the only one who replaces workers of the pool; unlock with <-p.rolling.
func (p *pool) lockRoll(ctx context.Context) error {
	select {
	case p.rolling <- struct{}{}:
		return nil
	default:
	}
	select {
	case p.rolling <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ipc.AsError(context.Cause(ctx))
	}
}

// roll gives every place a new slot with cfg; why is the cause of the old processes' exit. On an error the places that it has come to have the new one, the others the old. Preconditions: lockRoll.
func (p *pool) roll(ctx context.Context, cfg *PoolConfig, why string) error {
	p.mu.Lock()
	olds := slices.Clone(p.slots)
	p.mu.Unlock()
	for _, old := range olds {
		if err := p.replace(ctx, old, cfg, why); err != nil {
			return err
		}
	}
	return nil
}

// replace gives old's place to a new slot with cfg, and returns when that one is ready and old is gone. Preconditions: lockRoll.
func (p *pool) replace(ctx context.Context, old *slot, cfg *PoolConfig, why string) error {
	next := newSlot(p, cfg, old.index, old.place)
	if !p.startsFirst(cfg, old.index) {
		old.change(func() {
			old.heir = next
			old.ask(wantGone, why)
		})
		return p.awaitReady(ctx, next)
	}
	p.mu.Lock()
	if p.draining {
		p.mu.Unlock()
		return errDrained(p)
	}
	p.extra = append(p.extra, next)
	p.mu.Unlock()
	p.begin(next)
	if err := p.awaitReady(ctx, next); err != nil {
		next.wish(wantGone, "stopped")
		return err
	}
	if !p.swap(old, next, why) {
		next.wish(wantGone, "stopped")
		return errDrained(p)
	}
	return p.await(ctx, func() (bool, error) { return !slices.Contains(p.extra, old), nil })
}

// awaitReady waits until a new slot's process is ready.
func (p *pool) awaitReady(ctx context.Context, s *slot) error {
	return p.await(ctx, func() (bool, error) {
		switch {
		case s.state == stateReady:
			return true, nil
		case s.failures >= failedStarts, s.tripped:
			err := ipc.Errorf(ipc.Unavailable, "crash_loop", "pool %s: worker %d does not come up: %s", p.name, s.index, s.place.lastExit.describe())
			return false, err
		case s.want != wantProcess, p.draining:
			return false, errDrained(p)
		}
		return false, nil
	})
}

func errDrained(p *pool) error {
	return ipc.Errorf(ipc.Unavailable, "draining", "pool %s was drained meanwhile", p.name)
}

// swap gives old's place to next, which is ready, and lets old finish. false: next died meanwhile, or the pool drains.
func (p *pool) swap(old, next *slot, why string) bool {
	p.mu.Lock()
	i := slices.Index(p.slots, old)
	if i < 0 || next.state != stateReady || p.draining {
		p.mu.Unlock()
		return false
	}
	p.slots[i] = next
	p.extra = slices.DeleteFunc(p.extra, func(s *slot) bool { return s == next })
	p.extra = append(p.extra, old)
	next.accepting, old.accepting = true, false
	old.ask(wantGone, why)
	p.dispatch()
	p.broadcast()
	p.mu.Unlock()
	old.nudge()
	return true
}

// left is called by a slot that is gone: its heir takes its place.
func (p *pool) left(s *slot) {
	p.mu.Lock()
	s.state, s.accepting = stateStopped, false
	heir := s.heir
	if i := slices.Index(p.slots, s); i >= 0 && heir != nil {
		p.slots[i] = heir
		if p.draining {
			heir.ask(wantNone, "stopped")
		}
	}
	p.extra = slices.DeleteFunc(p.extra, func(e *slot) bool { return e == s })
	if err := p.hopeless(); err != nil {
		p.refuseWaiters(err)
	}
	p.broadcast()
	p.mu.Unlock()
	if heir != nil {
		p.begin(heir)
	}
}

// begin starts a slot's goroutine, unless the supervisor has ended.
func (p *pool) begin(s *slot) {
	if !p.sup.launch(func(end context.Context) { s.run(end) }) {
		p.mu.Lock()
		s.state = stateStopped
		p.broadcast()
		p.mu.Unlock()
	}
}

// restart replaces the workers one after the other; a drained pool comes back.
func (p *pool) restart(ctx context.Context) error {
	p.mu.Lock()
	p.draining = false
	p.mu.Unlock()
	if err := p.lockRoll(ctx); err != nil {
		return err
	}
	defer func() { <-p.rolling }()
	return p.roll(ctx, p.config(), "restarted")
}

// A worker whose replacement did not come up is left alone for a while before the next one is tried.
const recycleRetry = time.Minute

// recycle has a slot replaced that has reached a limit, on a goroutine of its own, one of the pool at a time.
func (p *pool) recycle(s *slot, inc *incarnation, limit string) {
	now := time.Now()
	p.mu.Lock()
	due := s.recycling.IsZero() || now.Sub(s.recycling) > recycleRetry
	if due {
		s.recycling = now
	}
	p.mu.Unlock()
	if !due {
		return
	}
	p.sup.launch(func(end context.Context) {
		if p.lockRoll(end) != nil {
			return
		}
		defer func() { <-p.rolling }()
		p.mu.Lock()
		cfg, stays := p.config(), slices.Contains(p.slots, s) && s.want == wantProcess && s.inc == inc
		p.mu.Unlock()
		if !stays {
			return // it is replaced already
		}
		inc.log.Info("worker is recycled", "limit", limit)
		if err := p.replace(end, s, cfg, "recycled"); err != nil && end.Err() == nil {
			inc.log.Warn("the replacement of a worker that has reached a limit does not come up", "limit", limit, "error", err, "next_try_in", recycleRetry)
		}
	})
}

// resize gives the pool as many places as cfg says, with new slots at the end. Preconditions: lockRoll.
func (p *pool) resize(cfg *PoolConfig) {
	var added, removed []*slot
	p.mu.Lock()
	for i := len(p.slots); i < cfg.Workers; i++ {
		s := newSlot(p, cfg, i, &place{})
		if p.draining {
			s.want, s.why = wantNone, "stopped"
		}
		added = append(added, s)
	}
	if len(p.slots) > cfg.Workers {
		removed = slices.Clone(p.slots[cfg.Workers:])
		p.slots = slices.Clone(p.slots[:cfg.Workers])
		p.extra = append(p.extra, removed...)
	}
	p.slots = append(p.slots, added...)
	p.adopt(cfg)
	for _, s := range removed {
		s.accepting = false
		s.ask(wantGone, "reloaded")
	}
	p.dispatch() // what is gathered may be due now
	p.broadcast()
	p.mu.Unlock()
	for _, s := range removed {
		s.nudge()
	}
	for _, s := range added {
		p.begin(s)
	}
}
