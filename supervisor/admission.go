package supervisor

import (
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// learnedEnough is how many requests a pool must have ended before it refuses one for what it has learned from them.
const learnedEnough = 16

// pace is what a pool has learned about how long requests take.
type pace struct {
	ended   uint64                   // requests
	hold    time.Duration            // running mean of how long a request occupies its place
	actions map[string]time.Duration // the same for each action
	brief   bool                     // requests have lately been so short that they are sent ahead
}

// learn takes in one more request.
func (p *pace) learn(action string, took time.Duration) {
	p.ended++
	p.hold = running(p.hold, took)
	switch {
	case p.hold > longHold:
		p.brief = false
	case p.hold < briefHold && p.ended >= learnedEnough:
		p.brief = true
	}
	if p.actions == nil {
		p.actions = map[string]time.Duration{}
	}
	if mean, known := p.actions[action]; known || len(p.actions) < maxPaces {
		p.actions[action] = running(mean, took)
	}
}

// maxPaces bounds the actions that are told apart. A worker names its own; this is against one that lies.
const maxPaces = 256

// running is an exponentially weighted mean with a weight of 1/8, as TCP's for the round trip (RFC 6298).
func running(mean, x time.Duration) time.Duration {
	if mean == 0 {
		return x
	}
	return mean + (x-mean)/8
}

// cost is what a request for action is expected to take.
func (p *pace) cost(action string) time.Duration {
	if mean, known := p.actions[action]; known {
		return mean
	}
	return p.hold
}

// quantum is what a client gets for a turn: an average request.
func (p *pace) quantum() time.Duration { return max(minCost, p.hold) }

// wait estimates how long a request waits that has so many ahead of it, in workers that take so many at a time.
func (p *pace) wait(ahead, places int) time.Duration {
	return p.hold * time.Duration(ahead+1) / time.Duration(places)
}

// tooLate says whether a request that has to begin within left cannot: so many are ahead of it. Before enough is known it may always wait.
func (p *pace) tooLate(left time.Duration, ahead, places int) bool {
	return p.ended >= learnedEnough && p.wait(ahead, places) > left
}

// retryAfter is when to try again what found no room among queued requests: when about a tenth of them has been served.
func (p *pace) retryAfter(queued, places int) time.Duration {
	return min(max(p.hold*time.Duration(queued)/time.Duration(10*places), 10*time.Millisecond), 10*time.Second)
}

func queueFull(pool string, queued int, retry time.Duration) *ipc.Error {
	err := ipc.Errorf(ipc.ResourceExhausted, "queue_full",
		"pool %s: %d requests are waiting already, the most its queue takes; try again after retry_after, or raise `queue` or `workers`", pool, queued)
	err.RetryAfter = retry
	return err
}

func wouldExpire(pool string, ahead int, wait, left, retry time.Duration) *ipc.Error {
	err := ipc.Errorf(ipc.ResourceExhausted, "would_expire",
		"pool %s: about %d requests go first, which takes %v, but the request's deadline is in %v; try again after retry_after, or give it more time", pool, ahead, wait.Round(time.Millisecond), left.Round(time.Millisecond))
	err.RetryAfter = retry
	return err
}

func noneIdle(pool string) *ipc.Error {
	return ipc.Errorf(ipc.ResourceExhausted, "busy", "pool %s has no idle worker, and this is background work, which does not wait for one", pool)
}
