package supervisor

import (
	"fmt"
	"math"
	"time"
)

// usage is what a worker process has used up, as far as its limits are concerned.
type usage struct {
	age      time.Duration
	requests uint64
	idle     time.Duration // since it ended its last request; 0: it has none behind it, or has one
	rss      uint64        // bytes; 0: not measured
	vram     uint64        // bytes; 0: not measured
}

// reached says which limit a process has reached, if any.
func (l Limits) reached(u usage) string {
	switch {
	case l.Lifetime > 0 && u.age > l.Lifetime:
		return "lifetime"
	case l.Requests > 0 && u.requests >= l.Requests:
		return "requests"
	case l.Idle > 0 && u.idle > l.Idle:
		return "idle"
	case l.RSS > 0 && u.rss > l.RSS:
		return fmt.Sprintf("rss (%d bytes)", u.rss)
	case l.VRAM > 0 && u.vram > l.VRAM:
		return fmt.Sprintf("vram (%d bytes)", u.vram)
	}
	return ""
}

// jittered shortens the limits by up to a tenth, but never to none; r is in [0, 1).
func (l Limits) jittered(r float64) Limits {
	less := func(x uint64) uint64 { return uint64(math.Ceil(float64(x) * (1 - r/10))) }
	return Limits{
		RSS: less(l.RSS), VRAM: less(l.VRAM), Requests: less(l.Requests),
		Lifetime: time.Duration(less(uint64(l.Lifetime))), Idle: time.Duration(less(uint64(l.Idle))),
	}
}

// overLimit says which limit the process has reached, if any. One that goes anyway, or has not been ready, has none.
func (l *life) overLimit(now time.Time) string {
	if l.retiring != "" || l.cut || !l.wasReady {
		return ""
	}
	p := l.slot.pool
	p.mu.Lock()
	lim := p.config().Limits.jittered(l.jitter)
	u := usage{age: now.Sub(l.inc.started), requests: l.inc.served}
	if l.inc.inFlight == 0 && l.inc.served > 0 {
		u.idle = now.Sub(l.inc.lastEnd)
	}
	p.mu.Unlock()
	if lim.RSS > 0 {
		u.rss = residentBytes(l.inc.proc.pid)
	}
	if lim.VRAM > 0 {
		u.vram = p.sup.vram.of(l.inc.proc.pid)
	}
	return lim.reached(u)
}
