package supervisor

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Reloaded says what a reload changed: names of pools, sorted.
type Reloaded struct {
	Added     []string `json:"added" msgpack:"added"`
	Removed   []string `json:"removed" msgpack:"removed"`
	Changed   []string `json:"changed" msgpack:"changed"`
	Unchanged []string `json:"unchanged" msgpack:"unchanged"`

	// Kept has pools that go on as they were, each with the reason: its new workers do not come up.
	Kept map[string]string `json:"kept,omitempty" msgpack:"kept,omitempty"`
}

// Reload makes the supervisor run what cfg says without losing a request: pools that are new are started, those that are gone are drained and stopped, those that changed
// get the new values, with their workers replaced one by one where a process cannot take them over; the others are left alone. It returns when all that is done. A configuration that is not valid changes nothing and
// is returned as a [*FieldError]. A pool whose new workers do not come up keeps the old ones, or gets them back, and is named in Kept.
//
// MaxMessage, Logger and Executable stay as they are.
func (s *Supervisor) Reload(ctx context.Context, cfg Config) (Reloaded, error) {
	var r Reloaded
	if err := cfg.Validate(); err != nil {
		return r, err
	}
	cfg = cfg.withDefaults()
	if err := s.checkExecutable(cfg.Pools); err != nil {
		return r, err
	}
	select {
	case s.reloading <- struct{}{}:
		defer func() { <-s.reloading }()
	default:
		return r, ipc.Errorf(ipc.Unavailable, "reloading", "another reload is under way; try again when it has ended")
	}
	old := *s.pools.Load()
	pools := map[string]*pool{}
	var begun, gone, changed []*pool
	next := map[*pool]*PoolConfig{}
	for i := range cfg.Pools {
		pc := &cfg.Pools[i]
		switch p := old[pc.Name]; {
		case p == nil:
			p = newPool(s, pc)
			pools[pc.Name] = p
			begun = append(begun, p)
			r.Added = append(r.Added, pc.Name)
		case reflect.DeepEqual(p.config(), pc):
			pools[pc.Name] = p
			r.Unchanged = append(r.Unchanged, pc.Name)
		default:
			pools[pc.Name] = p
			changed = append(changed, p)
			next[p] = pc
		}
	}
	for name, p := range old {
		if pools[name] == nil {
			gone = append(gone, p)
			r.Removed = append(r.Removed, name)
		}
	}
	s.pools.Store(&pools)
	for _, p := range begun {
		for _, sl := range p.all() {
			p.begin(sl)
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, len(changed))
	for i, p := range changed {
		wg.Go(func() { errs[i] = p.reload(ctx, next[p]) })
	}
	drainCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.drainTimeout)
	defer cancel()
	for _, p := range gone {
		wg.Go(func() { p.dissolve(drainCtx) })
	}
	wg.Wait()
	for i, p := range changed {
		if errs[i] == nil {
			r.Changed = append(r.Changed, p.name)
			continue
		}
		if r.Kept == nil {
			r.Kept = map[string]string{}
		}
		r.Kept[p.name] = errs[i].Error()
	}
	for _, list := range [][]string{r.Added, r.Removed, r.Changed, r.Unchanged} {
		slices.Sort(list)
	}
	s.cfg.Logger.Info("reloaded", "added", r.Added, "removed", r.Removed, "changed", r.Changed, "unchanged", r.Unchanged, "kept", slices.Sorted(maps.Keys(r.Kept)))
	return r, nil
}

// reload gives the pool a new configuration, and its workers if they need new processes for it. On an error everything is as before.
func (p *pool) reload(ctx context.Context, cfg *PoolConfig) error {
	if err := p.lockRoll(ctx); err != nil {
		return err
	}
	defer func() { <-p.rolling }()
	old := p.config()
	if !sameProcess(old, cfg) {
		if err := p.roll(ctx, cfg, "reloaded"); err != nil {
			p.log.Warn("the new workers do not come up; the old configuration stays", "error", err)
			p.rollBack(ctx, old)
			return err
		}
	}
	p.resize(cfg)
	return nil
}

// rollBack gives the places that a roll had come to their old configuration again.
func (p *pool) rollBack(ctx context.Context, old *PoolConfig) {
	ctx = context.WithoutCancel(ctx)
	p.mu.Lock()
	slots := slices.Clone(p.slots)
	p.mu.Unlock()
	for _, s := range slots {
		if s.cfg == old || sameProcess(s.cfg, old) {
			continue
		}
		if err := p.replace(ctx, s, old, "reloaded"); err != nil {
			p.log.Error("a worker with the old configuration does not come up either", "slot", s.index, "error", err)
		}
	}
}

// dissolve lets the pool finish what it has and ends its slots.
func (p *pool) dissolve(ctx context.Context) {
	if err := p.drain(ctx); err != nil {
		p.log.Warn("drain ran out of time; requests of a removed pool are cut off", "error", err)
	}
	for _, s := range p.all() {
		s.change(func() {
			s.ask(wantGone, "stopped")
			s.killed = true
		})
	}
	_ = p.await(context.WithoutCancel(ctx), func() (bool, error) {
		return !slices.ContainsFunc(p.slots, func(s *slot) bool { return s.state != stateStopped || s.inc != nil }), nil
	})
}

// sameProcess reports whether a worker started for a would be the same for b.
func sameProcess(a, b *PoolConfig) bool {
	return reflect.DeepEqual(a.process(), b.process())
}

// process returns what of the configuration makes a worker the process that it is.
func (p *PoolConfig) process() PoolConfig {
	c := *p
	c.Workers, c.Balance, c.Weights, c.AffinityWait, c.Queue, c.Timeout, c.StartTimeout = 0, "", nil, 0, 0, 0, 0
	c.HangTimeout, c.Grace, c.Replace, c.Limits, c.Actions = 0, 0, "", Limits{}, nil
	return c
}

// Fingerprint is a digest of what makes the pool's workers the processes that they are: command, environment, devices and the like. It differs between configurations whose workers may answer differently, as far as a configuration tells.
func (p *PoolConfig) Fingerprint() [sha256.Size]byte {
	text, err := json.Marshal(p.process()) // maps in the order of their keys
	if err != nil {
		panic(fmt.Sprintf("a pool's configuration cannot be written down: %v", err)) // its fields are of plain types
	}
	return sha256.Sum256(text)
}
