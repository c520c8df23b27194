package resilience

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// Actions tells what a pool's workers say of an action; false: nothing yet.
type Actions func(pool, action string) (ipc.Action, bool)

// StaleStore has answers of before: the cache. Stale returns one to the same request, whether or not it still counts there, and its age.
type StaleStore interface {
	Stale(ctx context.Context, req *ipc.Request) (*ipc.Reply, time.Duration, bool)
}

// Link is the link. It may be used by many.
type Link struct {
	actions Actions    // immutable
	stale   StaleStore // immutable; nil: there is none
	log     *slog.Logger
	meters  *meters
	pools   atomic.Pointer[map[string]*pool] // what it points to is immutable
	races   sync.WaitGroup                   // attempts that goroutines make
}

// pool is a pool that is cared for: what is to be done, and what is known. What is known outlives a change of what is to be done.
type pool struct {
	cfg     Pool     // immutable
	budget  *budget  // nil: neither retries nor hedges
	breaker *breaker // nil: none
	paces   *paces
}

// New makes the link; it does nothing before [Link.Configure]. stale may be nil.
func New(actions Actions, stale StaleStore, log *slog.Logger) *Link {
	l := &Link{actions: actions, stale: stale, log: log}
	l.meters = newMeters(l)
	l.pools.Store(&map[string]*pool{})
	return l
}

// Configure makes requests that come from now on be treated as cfg says. A pool keeps its circuit's state and its budget unless just that is configured otherwise. Preconditions: cfg is valid; one call at a time.
func (l *Link) Configure(cfg Config) {
	old, pools := *l.pools.Load(), map[string]*pool{}
	for name, pc := range cfg.Pools {
		if !pc.Enabled() {
			continue
		}
		pc.Timeout = cmp.Or(pc.Timeout, time.Minute)
		p, was := &pool{cfg: pc, paces: &paces{}}, old[name]
		if was != nil {
			p.paces = was.paces
		}
		switch share := pc.Retry.Budget; {
		case pc.Retry.Max == 0 && pc.Hedge.Max == 0:
		case was != nil && was.budget != nil && was.cfg.Retry.Budget == share:
			p.budget = was.budget
		case share == 0:
			p.budget = newBudget(DefaultRetry.Budget)
		default:
			p.budget = newBudget(share)
		}
		switch {
		case pc.Breaker.Failures == 0:
		case was != nil && was.breaker != nil && was.cfg.Breaker == pc.Breaker:
			p.breaker = was.breaker
		default:
			p.breaker = newBreaker(name, pc.Breaker, l.log)
		}
		pools[name] = p
	}
	l.pools.Store(&pools)
}

// Link is the [chain.Link]. Background work is left alone: nobody waits for it.
func (l *Link) Link(next chain.Handler) chain.Handler {
	return func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		p := (*l.pools.Load())[req.Pool]
		if p == nil || req.Background {
			return next(ctx, req)
		}
		return l.call(ctx, p, next, req)
	}
}

// Collectors are what the link has counted, for Prometheus.
func (l *Link) Collectors() []prometheus.Collector { return l.meters.collectors() }

// Close waits for the attempts that lost a race. Preconditions: no request is in the chain.
func (l *Link) Close() { l.races.Wait() }

// circuits returns the breakers by pool.
func (l *Link) circuits() map[string]*breaker {
	circuits := map[string]*breaker{}
	for name, p := range maps.All(*l.pools.Load()) {
		if p.breaker != nil {
			circuits[name] = p.breaker
		}
	}
	return circuits
}
