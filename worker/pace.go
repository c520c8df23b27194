package worker

import (
	"sync/atomic"
	"time"
)

// quick is how long an action takes at the most, on average, to be run by the goroutine that has read its request: about what it costs to hand it to another one. One that takes longer would keep others waiting that could run at the same time.
const quick = 3 * time.Microsecond

// pace is what is known of how long an action takes.
type pace struct {
	mean atomic.Int64 // in nanoseconds, exponentially weighted by 1/8; 0: not known yet. Of two that learn at a time one may be forgotten
}

func (p *pace) learn(took time.Duration) {
	mean := p.mean.Load()
	if mean == 0 {
		p.mean.Store(max(1, int64(took)))
		return
	}
	p.mean.Store(max(1, mean+(int64(took)-mean)/8))
}

func (p *pace) quick() bool {
	mean := p.mean.Load()
	return mean > 0 && mean <= int64(quick)
}
