package cache

import (
	"context"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Stale returns an answer to req that is in the cache, also one that is older than its ttl and not older than ttl and stale together, and its age; false: there is none that req's client may have. It is for whoever has
// no other answer: the link behind this one, whose workers fail. The replies are a stream's, or one END; the first has the headers `cache: stale` and `age`. They need not be taken to the end, and are not kept again.
//
// ctx is the request's: it says who asks. req may be changed in what does not count for the answer (ID, Timeout, Credit, TraceID, the headers cache and priority). It costs a digest of the request, so it is for failures only.
func (c *Cache) Stale(ctx context.Context, req *ipc.Request) (ipc.Replies, time.Duration, bool) {
	s := c.settings.Load()
	if s == nil {
		return nil, 0, false
	}
	p := s.pools[req.Pool]
	if p == nil {
		return nil, 0, false
	}
	a := p.actions[req.Action]
	if wish := req.Headers["cache"]; a == nil || a.TTL == 0 || !plain(req.Tensors) || wish == bypass {
		return nil, 0, false
	}
	e, age := s.store.find(c.key(ctx, req, p, a), a.life())
	if e == nil {
		return nil, 0, false
	}
	a.meters.stale.Inc()
	return &replay{cache: c, req: req, entry: e, said: saidStale, age: age, parent: ctx}, age, true
}
