package config

import (
	"fmt"
	"maps"

	"github.com/ringmasterd/ringmaster/chain/cache"
)

// The keys about the cache, by the object they are in.
var (
	cacheFields = fields[cache.Config]{
		"max_bytes": func(d *decoder, v value, c *cache.Config) {
			var n uint64
			if d.size(v, &n) && d.positive(v, n) {
				c.MaxBytes = int64(n)
			}
		},
	}
	prefetchFields = fields[cache.Prefetch]{
		"learn":       func(d *decoder, v value, p *cache.Prefetch) { d.boolean(v, &p.Learn) },
		"concurrency": func(d *decoder, v value, p *cache.Prefetch) { d.integer(v, &p.Concurrency, 1) },
	}
	cachedFields = fields[cache.Action]{
		"ttl":   func(d *decoder, v value, a *cache.Action) { d.duration(v, &a.TTL, 1, "10m") },
		"stale": func(d *decoder, v value, a *cache.Action) { d.duration(v, &a.Stale, 0, "1h") },
		"max_entry": func(d *decoder, v value, a *cache.Action) {
			var n uint64
			if d.size(v, &n) && d.positive(v, n) {
				a.MaxEntry = int64(n)
			}
		},
		"shared": func(d *decoder, v value, a *cache.Action) { d.boolean(v, &a.Shared) },
	}
	followFields = fields[cache.Follow]{
		"pool":   func(d *decoder, v value, f *cache.Follow) { d.text(v, &f.Pool, "a pool's name") },
		"action": func(d *decoder, v value, f *cache.Follow) { d.text(v, &f.Action, "an action's name") },
		"body":   func(d *decoder, v value, f *cache.Follow) { f.Body, _ = d.tree(v) },
	}
)

// then reads the requests that follow one for an action.
func (d *decoder) then(v value, a *action) {
	const want = "a list of requests, as in [{pool: embed, action: embed, body: $reply}]"
	list, ok := d.list(v, want)
	if !ok {
		return
	}
	for _, e := range list {
		var f cache.Follow
		before := len(d.errs)
		object(d, e, followFields, &f, "pool, action and body")
		if len(d.errs) == before && (f.Pool == "" || f.Action == "") {
			d.fail(e, "(none)", "name the pool and the action, as in {pool: embed, action: embed, body: $reply}")
		}
		a.cache.Then = append(a.cache.Then, f)
	}
}

// gatherCache adds to the cache's configuration what a pool says.
func (p *pool) gatherCache(c *cache.Config) {
	actions := maps.Clone(p.cached)
	maps.DeleteFunc(actions, func(_ string, a cache.Action) bool { return a.TTL == 0 && len(a.Then) == 0 })
	if len(actions) == 0 {
		return
	}
	if c.Pools == nil {
		c.Pools = map[string]cache.Pool{}
	}
	c.Pools[p.Name] = cache.Pool{Version: fmt.Sprintf("%x %s", p.Fingerprint(), p.version), Timeout: p.Timeout, Actions: actions}
}
