package supervisor

import (
	"math"
	"time"
)

// backoff decides how long a slot waits before it starts its next process. Failures are counted with exponential decay (as in suture v4), so that a worker that
// crashes once a day restarts at once each time, while one that crashes at every start waits longer and longer. A process that answered a request before it died has not failed altogether: it halves the count.
// backoff is a pure function of its state and the time.
type backoff struct {
	first, max time.Duration // immutable

	failures float64   // decayed count
	at       time.Time // when failures was right
	inRow    int       // processes in a row that died before they had answered a request
}

const (
	backoffFirst    = 50 * time.Millisecond
	backoffMax      = 30 * time.Second
	backoffHalfLife = 30 * time.Second // of the failure count
	failedAfter     = 5                // processes in a row that answered nothing: the slot is failed, and tried again every backoffMax
)

// fail records a process's death and returns the wait before the next start. worked says that it had answered a request; jitter in [0, 1) spreads slots that died together over a fifth of the wait.
func (b *backoff) fail(now time.Time, worked bool, jitter float64) time.Duration {
	if !b.at.IsZero() {
		b.failures *= math.Exp2(-float64(now.Sub(b.at)) / float64(backoffHalfLife))
	}
	if worked {
		b.failures /= 2
		b.inRow = 0
	} else {
		b.inRow++
	}
	b.failures++
	b.at = now
	wait := min(float64(b.max), float64(b.first)*math.Exp2(b.failures-1))
	if b.failed() {
		wait = float64(b.max)
	}
	return time.Duration(wait * (1 - jitter/5))
}

// failed reports whether the slot has given up for the time being.
func (b *backoff) failed() bool { return b.inRow >= failedAfter }
