package trace

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	slowAfter   = 100         // requests in a minute, before any counts as slow
	slowRefresh = time.Second // how often it is found out what is slow
)

// stats count what pools do. Only pools of whom a worker has had a request are counted: others may be a client's invention.
type stats struct {
	growing sync.Mutex                            // held by whoever adds a pool
	pools   atomic.Pointer[map[string]*poolStats] // what it points to is immutable
}

// poolStats are one pool's.
type poolStats struct {
	mu      sync.Mutex
	window  window        // guarded by mu
	slow    time.Duration // guarded by mu: what took longer is slow; 0: nothing is
	refresh time.Time     // guarded by mu: when slow is found out again
}

// add counts a request that has ended, and reports whether it was slow: slower than 99 of a hundred of its pool's in the last minute. reached says that a worker had it.
func (s *stats) add(pool string, took time.Duration, reached, failed bool, now time.Time) (slow bool) {
	p := (*s.pools.Load())[pool]
	if p == nil {
		if !reached {
			return false
		}
		p = s.grow(pool)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.window.add(took, failed, now)
	if now.After(p.refresh) {
		p.refresh = now.Add(slowRefresh)
		p.slow = slowest(p.window.rates(time.Minute, now))
	}
	return p.slow > 0 && took > p.slow
}

// grow adds a pool, unless it is there.
func (s *stats) grow(pool string) *poolStats {
	s.growing.Lock()
	defer s.growing.Unlock()
	old := *s.pools.Load()
	if p := old[pool]; p != nil {
		return p
	}
	pools := maps.Clone(old)
	p := &poolStats{}
	pools[pool] = p
	s.pools.Store(&pools)
	return p
}

// slowest is how long a request may take that does not count as slow; 0: as long as it likes.
func slowest(r Rates) time.Duration {
	if r.Requests < slowAfter {
		return 0
	}
	return time.Duration(r.P99MS * float64(time.Millisecond))
}

// PoolRates are what one pool did of late.
type PoolRates struct {
	Name       string `json:"name" msgpack:"name"`
	TenSeconds Rates  `json:"last_10s" msgpack:"last_10s"`
	Minute     Rates  `json:"last_1m" msgpack:"last_1m"`
}

// rates returns every pool's, in order of name.
func (s *stats) rates(now time.Time) []PoolRates {
	pools := *s.pools.Load()
	names := slices.Sorted(maps.Keys(pools))
	list := make([]PoolRates, len(names))
	for i, name := range names {
		p := pools[name]
		p.mu.Lock()
		list[i] = PoolRates{name, p.window.rates(10*time.Second, now), p.window.rates(time.Minute, now)}
		p.mu.Unlock()
	}
	return list
}
