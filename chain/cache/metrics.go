package cache

import "github.com/prometheus/client_golang/prometheus"

// meters are the counters of one action.
type meters struct {
	hits, ahead, stale, misses, coalesced, evictions prometheus.Counter
	issued, refused, used, wasted                    prometheus.Counter
}

// counters are the vectors that they are of. Only names of the configuration become labels.
type counters struct {
	hits                                                  *prometheus.CounterVec // pool, action, kind
	misses, coalesced, evictions                          *prometheus.CounterVec // pool, action
	prefetches, refusedPrefetches, usedPrefetches, wasted *prometheus.CounterVec
}

func newCounters() *counters {
	vec := func(name, help string, more ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ringmaster_" + name, Help: help}, append([]string{"pool", "action"}, more...))
	}
	return &counters{
		hits:      vec("cache_hits_total", "Requests answered from the cache: fresh, prefetched (fresh, and brought by a prefetch), or stale, where there was no other answer.", "kind"),
		misses:    vec("cache_misses_total", "Requests whose answer could have been in the cache and was not."),
		coalesced: vec("cache_coalesced_total", "Requests that shared the answer of one like them that was under way."),
		evictions: vec("cache_evictions_total", "Answers that were dropped for want of room."),

		prefetches:        vec("prefetch_issued_total", "Requests that were asked in advance."),
		refusedPrefetches: vec("prefetch_refused_total", "Requests in advance that found no idle worker, gave way to others, or failed."),
		usedPrefetches:    vec("prefetch_used_total", "Answers had in advance that somebody asked for later."),
		wasted:            vec("prefetch_wasted_total", "Answers had in advance that were dropped before anybody asked."),
	}
}

func (c *counters) of(pool, action string) *meters {
	kind := func(k string) prometheus.Counter { return c.hits.WithLabelValues(pool, action, k) }
	of := func(v *prometheus.CounterVec) prometheus.Counter { return v.WithLabelValues(pool, action) }
	return &meters{
		hits: kind("fresh"), ahead: kind("prefetched"), stale: kind("stale"), misses: of(c.misses), coalesced: of(c.coalesced), evictions: of(c.evictions),
		issued: of(c.prefetches), refused: of(c.refusedPrefetches), used: of(c.usedPrefetches), wasted: of(c.wasted),
	}
}

// Collectors returns what the cache tells Prometheus.
func (c *Cache) Collectors() []prometheus.Collector {
	n := c.counters
	gauge := func(name, help string, value func(*store) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ringmaster_cache_" + name, Help: help}, func() float64 {
			s := c.store.Load()
			if s == nil {
				return 0
			}
			return value(s)
		})
	}
	return []prometheus.Collector{
		n.hits, n.misses, n.coalesced, n.evictions, n.prefetches, n.refusedPrefetches, n.usedPrefetches, n.wasted,
		gauge("bytes", "Memory that answers in the cache take, and those on their way into it.", func(s *store) float64 { return float64(s.room.held.Load()) }),
		gauge("entries", "Answers in the cache.", func(s *store) float64 { return float64(s.entries.EstimatedSize()) }),
	}
}
