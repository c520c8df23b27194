package auth

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/ringmasterd/ringmaster/ipc"
)

// fullPause is after which it makes sense to ask again where too many requests are in flight.
const fullPause = 100 * time.Millisecond

// limits counts what one subject does in one role. What the limits are the role says, which a reload may change.
type limits struct {
	inFlight atomic.Int64
	rate     *rate.Limiter // requests, by their weight
	cost     *rate.Limiter // bytes; it may be in debt
}

// refusal is a limit that leaves no room, and when there will be some.
type refusal struct {
	limit string // its key: rate, in_flight, cost; "": there is room
	wait  time.Duration
}

// take makes room for a request, or says which limit has none; then nothing is taken.
func (l *limits) take(r *role, weight int, req *ipc.Request, now time.Time) refusal {
	if r.InFlight > 0 && l.inFlight.Add(1) > int64(r.InFlight) {
		l.inFlight.Add(-1)
		return refusal{"in_flight", fullPause}
	}
	if tokens := l.tokens(r, now); tokens <= 0 {
		l.leave(r)
		return refusal{"cost", pause(1-tokens, l.cost.Limit())}
	}
	if r.Rate > 0 && !l.rate.AllowN(now, weight) {
		l.leave(r)
		return refusal{"rate", pause(float64(weight)-l.rate.TokensAt(now), l.rate.Limit())}
	}
	if r.Cost > 0 {
		l.charge(bytesOf(req), now)
	}
	return refusal{}
}

// tokens is how many bytes there are to spend; without a limit, some.
func (l *limits) tokens(r *role, now time.Time) float64 {
	if r.Cost == 0 {
		return 1
	}
	return l.cost.TokensAt(now)
}

// charge takes bytes, more than there are if need be: a request larger than a second's worth must get through, and what it owes is waited for by the next one.
func (l *limits) charge(n int64, now time.Time) {
	for burst := int64(l.cost.Burst()); n > 0 && burst > 0; n -= burst {
		l.cost.ReserveN(now, int(min(n, burst)))
	}
}

// leave ends what take counted as in flight.
func (l *limits) leave(r *role) {
	if r.InFlight > 0 {
		l.inFlight.Add(-1)
	}
}

// pause is how long it takes until so many are there, in whole milliseconds.
func pause(missing float64, limit rate.Limit) time.Duration {
	seconds := missing / float64(limit)
	if !(seconds < 3600) {
		return time.Hour
	}
	return time.Duration(max(1, math.Ceil(seconds*1000)) * float64(time.Millisecond))
}

// bytesOf is what a request weighs: its body and its tensors, wherever their bytes are.
func bytesOf(req *ipc.Request) int64 {
	n := uint64(len(req.Body))
	for i := range req.Tensors {
		t := &req.Tensors[i]
		size := uint64(len(t.Data))
		if t.Data == nil {
			size = ipc.ItemSize(t.DType)
			for _, dim := range t.Shape {
				size *= min(dim, math.MaxInt32)
			}
		}
		n += size
	}
	return int64(min(n, math.MaxInt32))
}

// idleLimits is from how many subjects on those are forgotten that have used nothing up.
const idleLimits = 4096

// counts has the limits of all subjects, and outlives policies.
type counts struct {
	mu      sync.Mutex
	by      map[countKey]*limits // guarded by mu
	sweepAt int                  // guarded by mu: how many there may be before the idle ones are forgotten
}

type countKey struct{ subject, role string }

func newCounts() *counts { return &counts{by: map[countKey]*limits{}, sweepAt: idleLimits} }

// of returns the limits of a subject in a role, which now are as the role says.
func (c *counts) of(subject string, r *role) *limits {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := countKey{subject, r.name}
	l := c.by[key]
	if l == nil {
		c.sweep()
		l = &limits{rate: rate.NewLimiter(rate.Limit(r.Rate), r.burst()), cost: rate.NewLimiter(rate.Limit(r.Cost), int(r.Cost))}
		c.by[key] = l
	}
	l.set(r)
	return l
}

// set makes the limits what a role says. What is used up stays so.
func (l *limits) set(r *role) {
	if l.rate.Limit() != rate.Limit(r.Rate) || l.rate.Burst() != r.burst() {
		l.rate.SetLimit(rate.Limit(r.Rate))
		l.rate.SetBurst(r.burst())
	}
	if l.cost.Limit() != rate.Limit(r.Cost) {
		l.cost.SetLimit(rate.Limit(r.Cost))
		l.cost.SetBurst(int(r.Cost))
	}
}

// sweep forgets subjects of which nothing is to be remembered, when there are many: control groups come and go. One that still has a connection is counted anew by its next one. Preconditions: mu is held.
func (c *counts) sweep() {
	if len(c.by) < c.sweepAt {
		return
	}
	now := time.Now()
	for key, l := range c.by {
		if l.inFlight.Load() == 0 && l.rate.TokensAt(now) >= float64(l.rate.Burst()) && l.cost.TokensAt(now) >= float64(l.cost.Burst()) {
			delete(c.by, key)
		}
	}
	c.sweepAt = max(idleLimits, 2*len(c.by))
}
