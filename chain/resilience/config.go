package resilience

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Config says what is done for which pool. A pool that it does not name is left alone.
type Config struct {
	Pools map[string]Pool
}

// Pool is what is done for one pool's requests; the zero value is nothing.
type Pool struct {
	Retry    Retry
	Breaker  Breaker
	Hedge    Hedge
	Fallback []Fallback    // in the order in which they are tried
	Timeout  time.Duration // the pool's own: the deadline of a request that brings none
}

// Enabled reports whether anything is to be done.
func (p *Pool) Enabled() bool {
	return p.Retry.Max > 0 || p.Breaker.Failures > 0 || p.Hedge.Max > 0 || len(p.Fallback) > 0
}

// Retry says how a request is tried again that failed for a reason that may pass. Max 0: not at all.
type Retry struct {
	Max        int           // after the first attempt
	Backoff    time.Duration // before the first of them, doubled before each further one; half of it is chance
	MaxBackoff time.Duration // the most it grows to, and the longest that a pool's own wish (retry_after) is heeded
	Budget     float64       // retries and hedges per request of the pool, 0.2: a fifth
}

// Breaker says when a pool that fails is asked no more for a while. Failures 0: never.
type Breaker struct {
	Failures int           // so many within Window open the circuit; with Rate, so many requests must have ended for the rate to count
	Rate     float64       // share of the requests within Window that have to fail; 0: only their number counts
	Window   time.Duration // how far back is looked
	Open     time.Duration // how long nothing is let through; then come probes
	HalfOpen int           // probes that have to succeed, all of them, to close the circuit
}

// Hedge says when a second attempt is made beside one that is slow. Max 0: never.
type Hedge struct {
	After    time.Duration // into the attempt; 0: Quantile decides
	Quantile float64       // of how long the action's requests took: 0.95
	Max      int           // further attempts for one request
}

// Fallback is what takes the place of an answer. One of Pool, Stale and Reply is set.
type Fallback struct {
	Pool   string        // another one, asked once
	Action string        // there; "": the same
	Stale  time.Duration // an answer to the same request from the cache, at most so old
	Reply  ipc.Body      // always the same
}

// What a part has that is configured without saying more.
var (
	DefaultRetry   = Retry{Max: 3, Backoff: 50 * time.Millisecond, MaxBackoff: 2 * time.Second, Budget: 0.2}
	DefaultBreaker = Breaker{Failures: 5, Window: 30 * time.Second, Open: 10 * time.Second, HalfOpen: 1}
	DefaultHedge   = Hedge{Quantile: 0.95, Max: 1}
)

const (
	maxRetries   = 100
	maxPause     = 10 * time.Minute
	maxWindow    = 24 * time.Hour
	maxProbes    = 1000
	maxHedges    = 8
	maxFallbacks = 16
)

// FieldError is a bad value in a [Config]: which field, the value, and what would be right.
type FieldError struct {
	Pool  string
	Field string // as in ringmaster.yaml, from `resilience` on
	Value any
	Want  string
}

func (e *FieldError) Error() string {
	return fmt.Sprintf("pools.%s.%s: %v: %s", e.Pool, e.Field, e.Value, e.Want)
}

// Validate reports the first field that is wrong, as a [*FieldError]. pools are the names there are.
func (c *Config) Validate(pools []string) error {
	for _, name := range slices.Sorted(maps.Keys(c.Pools)) {
		p := c.Pools[name]
		if field, value, want := p.check(name, pools); want != "" {
			return &FieldError{name, "resilience." + field, value, want}
		}
	}
	return nil
}

// check returns the first field that is wrong, its value, and what would be right; "" if there is none.
func (p *Pool) check(name string, pools []string) (field string, value any, want string) {
	r, b, h := &p.Retry, &p.Breaker, &p.Hedge
	switch {
	case r.Max < 0 || r.Max > maxRetries:
		return "retry.max", r.Max, fmt.Sprintf("use 0 to %d", maxRetries)
	case r.Max > 0 && (r.Backoff <= 0 || r.Backoff > maxPause):
		return "retry.backoff", r.Backoff, fmt.Sprintf("use a duration up to %v, such as 50ms", maxPause)
	case r.Max > 0 && (r.MaxBackoff < r.Backoff || r.MaxBackoff > maxPause):
		return "retry.max_backoff", r.MaxBackoff, fmt.Sprintf("use a duration from backoff (%v) to %v, such as 2s", r.Backoff, maxPause)
	case r.Max > 0 && !(r.Budget > 0 && r.Budget <= 1):
		return "retry.budget", r.Budget, "use a share of the requests from 1% to 100%, such as 20%"
	case b.Failures < 0:
		return "breaker.failures", b.Failures, "use a number of 1 or more, such as 5"
	case b.Failures > 0 && !(b.Rate >= 0 && b.Rate <= 1):
		return "breaker.rate", b.Rate, "use a share of the requests from 1% to 100%, such as 50%"
	case b.Failures > 0 && (b.Window < time.Second || b.Window > maxWindow):
		return "breaker.window", b.Window, fmt.Sprintf("use a duration from 1s to %v, such as 30s", maxWindow)
	case b.Failures > 0 && (b.Open <= 0 || b.Open > maxWindow):
		return "breaker.open", b.Open, fmt.Sprintf("use a duration up to %v, such as 10s", maxWindow)
	case b.Failures > 0 && (b.HalfOpen < 1 || b.HalfOpen > maxProbes):
		return "breaker.half_open", b.HalfOpen, fmt.Sprintf("use 1 to %d", maxProbes)
	case h.Max < 0 || h.Max > maxHedges:
		return "hedge.max", h.Max, fmt.Sprintf("use 0 to %d", maxHedges)
	case h.Max > 0 && h.After <= 0 && !(h.Quantile > 0 && h.Quantile < 1):
		return "hedge.after", h.After, "use a duration such as 200ms, or p95: when the request takes longer than 95 of 100 did"
	case len(p.Fallback) > maxFallbacks:
		return "fallback", len(p.Fallback), fmt.Sprintf("use at most %d", maxFallbacks)
	}
	for i := range p.Fallback {
		if field, value, want = p.Fallback[i].check(name, pools); want != "" {
			return fmt.Sprintf("fallback[%d]", i) + field, value, want
		}
	}
	return "", nil, ""
}

func (f *Fallback) check(pool string, pools []string) (field string, value any, want string) {
	set := 0
	for _, given := range []bool{f.Pool != "", f.Stale != 0, f.Reply != nil} {
		if given {
			set++
		}
	}
	switch {
	case set != 1:
		return "", fmt.Sprintf("%d of pool, stale and reply", set), "give one of them, as in {pool: small}, {stale: 1h} or {reply: {text: sorry}}"
	case f.Pool == pool:
		return ".pool", f.Pool, "this is the pool that failed; name another"
	case f.Pool != "" && !slices.Contains(pools, f.Pool):
		return ".pool", f.Pool, "there is no such pool"
	case f.Pool == "" && f.Action != "":
		return ".action", f.Action, "an action belongs to a pool, as in {pool: small, action: chat}"
	case f.Stale < 0:
		return ".stale", f.Stale, "use a positive duration such as 1h"
	}
	return "", nil, ""
}
