package resilience

import (
	"log/slog"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"

	"github.com/ringmasterd/ringmaster/ipc"
)

// breaker is a pool's circuit: whether requests are let through to it.
//
//	closed ──failures──▶ open ──time──▶ half-open ──probes succeed──▶ closed
//	                      ▲                 │ one fails
//	                      └─────────────────┘
//
// failsafe-go counts and decides. Added here is what its breaker has no word for: a request that began under an earlier state says nothing about this one, and a probe that ended without saying anything (its
// client went away) leaves its place to another. A nil breaker lets everything through.
type breaker struct {
	pool string        // immutable
	open time.Duration // immutable
	log  *slog.Logger

	mu      sync.Mutex
	circuit circuitbreaker.CircuitBreaker[any] // guarded by mu
	state   circuitbreaker.State               // guarded by mu: as seen last
	turn    uint64                             // guarded by mu: how often it has changed
	spare   int                                // guarded by mu: places of probes that said nothing
	opened  uint64                             // guarded by mu: how often the circuit opened
}

// permit is the right to one attempt, given under one state of the circuit.
type permit struct {
	turn  uint64
	probe bool
}

func newBreaker(pool string, cfg Breaker, log *slog.Logger) *breaker {
	b := circuitbreaker.NewBuilder[any]().WithDelay(cfg.Open).WithSuccessThreshold(uint(cfg.HalfOpen))
	if cfg.Rate > 0 {
		b = b.WithFailureRateThreshold(cfg.Rate, uint(cfg.Failures), cfg.Window)
	} else {
		b = b.WithFailureThresholdPeriod(uint(cfg.Failures), cfg.Window)
	}
	return &breaker{pool: pool, open: cfg.Open, log: log, circuit: b.Build()}
}

// admit lets an attempt through, or says when to try again.
func (b *breaker) admit() (permit, *ipc.Error) {
	if b == nil {
		return permit{}, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	ok := b.circuit.TryAcquirePermit()
	b.look()
	half := b.state == circuitbreaker.HalfOpenState
	if !ok && half && b.spare > 0 {
		b.spare--
		ok = true
	}
	if ok {
		return permit{b.turn, half}, nil
	}
	after, says := b.circuit.RemainingDelay(), "its requests have failed too often"
	if half {
		after, says = min(b.open, time.Second), "it is being tried whether it works again"
	}
	err := ipc.Errorf(ipc.Unavailable, "circuit_open", "pool %s is not asked now: %s; try again after retry_after, and see `ringmaster status` and the log", b.pool, says)
	err.RetryAfter = max(after, time.Millisecond)
	return permit{}, err
}

// report tells how an attempt went.
func (b *breaker) report(p permit, o outcome) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.look()
	switch {
	case p.turn != b.turn:
	case o == good:
		b.circuit.RecordSuccess()
	case o == bad:
		b.circuit.RecordFailure()
	case p.probe:
		b.spare++
	}
	b.look()
}

// closed reports whether everything is let through.
func (b *breaker) closed() bool { return b == nil || b.now() == circuitbreaker.ClosedState }

func (b *breaker) now() circuitbreaker.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.circuit.State()
}

// openings returns how often the circuit has opened.
func (b *breaker) openings() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.opened
}

// look notes a change of the state. Preconditions: mu is held.
func (b *breaker) look() {
	s := b.circuit.State()
	if s == b.state {
		return
	}
	b.state, b.spare = s, 0
	b.turn++
	switch s {
	case circuitbreaker.OpenState:
		b.opened++
		b.log.Warn("the pool is not asked for a while: too many of its requests have failed", "pool", b.pool, "open", b.open)
	case circuitbreaker.ClosedState:
		b.log.Info("the pool is asked again: it answers", "pool", b.pool)
	}
}
