package resilience

import (
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// pause returns how long to wait before another retry after error e and so many retries, and false if it had better not be made: there were enough, the pool asks for more patience than there is, or the deadline would
// pass first. takes is what an attempt is expected to take, jitter is in [0, 1).
func (r Retry) pause(e *ipc.Error, retries int, takes, left time.Duration, jitter float64) (time.Duration, bool) {
	if retries >= r.Max || e.RetryAfter > r.MaxBackoff {
		return 0, false
	}
	grown := r.MaxBackoff
	if shift := retries; shift < 32 && r.Backoff<<shift>>shift == r.Backoff {
		grown = min(r.Backoff<<shift, r.MaxBackoff)
	}
	spread := time.Duration(float64(grown) / 2 * jitter)
	wait := max(grown/2, e.RetryAfter) + spread
	return wait, wait+takes < left
}
