package cache

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/chain/trace"
	"github.com/ringmasterd/ringmaster/ipc"
)

// Cache is the link of the call chain that answers from memory.
type Cache struct {
	identity Identity // immutable
	clock    clock    // immutable
	counters *counters

	settings atomic.Pointer[settings] // nil: there is nothing to do. What it points to is immutable
	store    atomic.Pointer[store]    // set once, when it is first needed
	ahead    prefetcher

	mu     sync.Mutex
	cfg    Config            // guarded by mu
	epochs map[string]uint64 // guarded by mu; how often each pool was cleared
	all    uint64            // guarded by mu; how often all were

	flying  sync.Mutex
	flights map[Key]*flight // guarded by flying; those that others may join
	work    sync.WaitGroup  // flights and prefetches
}

// settings are a [Config] made ready for requests.
type settings struct {
	pools map[string]*pool
	learn bool
	store *store
}

type pool struct {
	version Key
	timeout time.Duration
	actions map[string]*action
}

// action is what is done about an action.
type action struct {
	Action
	pool, name string
	then       []follow
	meters     *meters
}

// life is how long an answer is kept.
func (a *action) life() time.Duration { return a.TTL + a.Stale }

// Options change how a [Cache] works. The zero value is the usual.
type Options struct {
	Identity Identity // who asks; nil: the user, as the kernel tells
	Clock    clock    // nil: the machine's
}

// New makes a cache. The error is a [*FieldError].
func New(cfg Config, opts Options) (*Cache, error) {
	c := &Cache{identity: opts.Identity, clock: opts.Clock, counters: newCounters(), flights: map[Key]*flight{}, epochs: map[string]uint64{}}
	if c.identity == nil {
		c.identity = byUser
	}
	c.ahead.init()
	if err := c.Configure(cfg); err != nil {
		return nil, err
	}
	return c, nil
}

// Configure makes the cache do what cfg says from now on; entries that are still good stay. The error is a [*FieldError], and changes nothing.
func (c *Cache) Configure(cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	cfg = cfg.withDefaults()
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.cfg
	c.cfg = cfg
	c.apply()
	if !cfg.Prefetch.Learn {
		c.ahead.forget()
	}
	if s := c.store.Load(); s != nil {
		s.resize(cfg.MaxBytes)
		for name, p := range old.Pools {
			if now, there := cfg.Pools[name]; !there || now.Version != p.Version {
				s.drop(name)
			}
		}
	}
	return nil
}

// apply makes settings of cfg. Preconditions: mu is held.
func (c *Cache) apply() {
	if !c.cfg.enabled() {
		c.settings.Store(nil)
		return
	}
	if c.store.Load() == nil {
		c.store.Store(newStore(c.cfg.MaxBytes, c.clock))
	}
	s := &settings{pools: map[string]*pool{}, learn: c.cfg.Prefetch.Learn, store: c.store.Load()}
	for name, pc := range c.cfg.Pools {
		p := &pool{version: version(pc.Version, c.all+c.epochs[name]), timeout: pc.Timeout, actions: map[string]*action{}}
		if p.timeout == 0 {
			p.timeout = defaultTimeout
		}
		for an, ac := range pc.Actions {
			a := &action{Action: ac, pool: name, name: an, meters: c.counters.of(name, an)}
			if a.MaxEntry == 0 {
				a.MaxEntry = min(defaultMaxEntry, c.cfg.MaxBytes/entryShare)
			}
			for _, f := range ac.Then {
				a.then = append(a.then, follow{pool: f.Pool, action: f.Action, body: f.Body})
			}
			p.actions[an] = a
		}
		s.pools[name] = p
	}
	c.ahead.configure(c.cfg.Prefetch)
	c.settings.Store(s)
}

// Clear drops what is cached of a pool, "" for every pool, and returns how many answers that were. What is under way now is not kept either.
func (c *Cache) Clear(pool string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if pool == "" {
		c.all++
	} else {
		c.epochs[pool]++
	}
	c.apply()
	c.ahead.forget()
	if s := c.store.Load(); s != nil {
		return s.drop(pool)
	}
	return 0
}

// Close ends what the cache has begun. Preconditions: no request is in the chain.
func (c *Cache) Close() {
	c.ahead.close()
	c.work.Wait()
	if s := c.store.Load(); s != nil {
		s.close()
	}
}

// Link is the [chain.Link].
func (c *Cache) Link(next chain.Handler) chain.Handler {
	c.ahead.next = next
	return func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		s := c.settings.Load()
		if s == nil {
			return next(ctx, req)
		}
		p := s.pools[req.Pool]
		if p == nil {
			return next(ctx, req)
		}
		a := p.actions[req.Action]
		if a == nil || !plain(req) {
			return next(ctx, req)
		}
		ctx, span := trace.Start(ctx, "cache")
		replies, err := c.answer(&question{ctx: ctx, req: req, next: next, settings: s, pool: p, action: a})
		if span.On() {
			span.Set("ringmaster.cache", whence(replies))
		}
		span.End(err)
		return replies, err
	}
}

// whence is what a trace tells of where an answer is from.
func whence(replies ipc.Replies) string {
	switch r := replies.(type) {
	case *replay:
		return r.said
	case *waiter:
		if !r.leads {
			return saidCoalesced
		}
		return saidMiss
	}
	return "none"
}
