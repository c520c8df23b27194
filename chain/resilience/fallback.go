package resilience

import (
	"fmt"
	"maps"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// replace puts the next of the pool's fallbacks that can be had in the place of the answer. ran: a worker may have begun the request.
//
// Another pool is asked once: its circuit is heeded, and its own retries and fallbacks are not used, so that pools that stand in for each other end somewhere.
func (a *answer) replace(ran bool) bool {
	for a.fallback < len(a.pool.cfg.Fallback) {
		f := &a.pool.cfg.Fallback[a.fallback]
		a.fallback++
		switch {
		case f.Pool != "" && a.repeatable(ran) && a.other(f):
			a.stead(fmt.Sprintf("pool=%s", f.Pool), "pool")
			return true
		case f.Stale > 0 && a.older(f.Stale):
			return true
		case f.Reply != nil:
			a.instead = &ipc.Reply{End: true, Body: f.Reply}
			a.stead("reply=fixed", "reply")
			return true
		}
	}
	return false
}

// other asks another pool, if there is time.
func (a *answer) other(f *Fallback) bool {
	req := a.req
	req.Pool, req.Timeout = f.Pool, time.Until(a.deadline)
	if f.Action != "" {
		req.Action = f.Action
	}
	if req.Timeout <= 0 {
		return false
	}
	try, fail := a.send(a.ctx, (*a.link.pools.Load())[f.Pool], &req, false)
	if fail != nil {
		return false
	}
	a.now = try
	return true
}

// older takes an answer of before from the cache.
func (a *answer) older(most time.Duration) bool {
	if a.link.stale == nil || a.req.NamesArenas() {
		return false
	}
	reply, age, ok := a.link.stale.Stale(a.ctx, &a.req)
	if !ok || age > most {
		return false
	}
	mine := *reply // the cache keeps its own
	mine.End, mine.Headers = true, maps.Clone(reply.Headers)
	a.instead = &mine
	a.stead(fmt.Sprintf("stale=%v", age.Round(time.Millisecond)), "stale")
	return true
}

// stead notes what takes the answer's place.
func (a *answer) stead(what, by string) {
	a.degraded, a.by = fmt.Sprintf("%s; reason=%s", what, a.failed.Reason), by
}
