package cache

import (
	"context"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Stale returns an answer to req that is in the cache, also one that is older than its ttl and not older than ttl and stale together, and its age; false: there is none that req's client may have, or it is a stream. It is for whoever
// has no other answer: the link behind this one, whose workers fail. The reply has the headers `cache: stale` and `age`, and is not kept again; it is the caller's, but not what its body and tensors refer to.
//
// ctx is the request's: it says who asks. req may have been changed in what does not count for the answer (ID, Timeout, Credit, TraceID, the headers cache and priority). It costs a digest of the request, so it is for failures only.
func (c *Cache) Stale(ctx context.Context, req *ipc.Request) (*ipc.Reply, time.Duration, bool) {
	s := c.settings.Load()
	if s == nil {
		return nil, 0, false
	}
	p := s.pools[req.Pool]
	if p == nil {
		return nil, 0, false
	}
	a := p.actions[req.Action]
	if a == nil || a.TTL == 0 || req.NamesArenas() || !here(req.Tensors) || req.Headers["cache"] == bypass {
		return nil, 0, false
	}
	e, age := s.store.find(c.key(ctx, req, p, a), a.life())
	if e == nil || len(e.replies) != 1 {
		return nil, 0, false
	}
	a.meters.stale.Inc()
	return handed(e.replies[0], saidStale, age), age, true
}
