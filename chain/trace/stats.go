package trace

import (
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	slowAfter   = 100         // requests in a minute, before any counts as slow
	slowRefresh = time.Second // how often it is found out what is slow
)

// stats count what pools do. Only pools of whom a worker has had a request are counted: others may be a client's invention.
type stats struct {
	mu    sync.RWMutex
	pools map[string]*poolStats // guarded by mu
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
	s.mu.RLock()
	p := s.pools[pool]
	s.mu.RUnlock()
	if p == nil {
		if !reached {
			return false
		}
		s.mu.Lock()
		if p = s.pools[pool]; p == nil {
			p = &poolStats{}
			s.pools[pool] = p
		}
		s.mu.Unlock()
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
	s.mu.RLock()
	names := slices.Sorted(maps.Keys(s.pools))
	pools := make([]*poolStats, len(names))
	for i, n := range names {
		pools[i] = s.pools[n]
	}
	s.mu.RUnlock()
	list := make([]PoolRates, len(names))
	for i, p := range pools {
		p.mu.Lock()
		list[i] = PoolRates{names[i], p.window.rates(10*time.Second, now), p.window.rates(time.Minute, now)}
		p.mu.Unlock()
	}
	return list
}
