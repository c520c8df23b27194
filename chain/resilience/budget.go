package resilience

import (
	"sync"
	"time"
)

const (
	mostSaved  = 10   // attempts that a pool's budget holds at most
	quietSaved = 3    // that it holds where there are few requests: it grows to that by itself
	quietEvery = 0.25 // attempts a second by which it does
)

// budget bounds the attempts that a pool gets beyond its requests. Each request pays a share of one in, each retry or hedge takes one out. A pool that is asked rarely has a few anyway.
type budget struct {
	share float64 // immutable

	mu    sync.Mutex
	saved float64   // guarded by mu: attempts
	at    time.Time // guarded by mu: when it was looked at last
}

func newBudget(share float64) *budget { return &budget{share: share, saved: quietSaved} }

// earn counts a request.
func (b *budget) earn(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.grow(now)
	b.saved = min(b.saved+b.share, mostSaved)
}

// spend takes one attempt out, if there is one.
func (b *budget) spend(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.grow(now)
	if b.saved < 1 {
		return false
	}
	b.saved--
	return true
}

// grow adds what has come with time. Preconditions: mu is held.
func (b *budget) grow(now time.Time) {
	if passed := now.Sub(b.at).Seconds(); !b.at.IsZero() && passed > 0 && b.saved < quietSaved {
		b.saved = min(b.saved+quietEvery*passed, quietSaved)
	}
	b.at = now
}
