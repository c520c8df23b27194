package resilience

import (
	"slices"
	"sync"
	"time"
)

const (
	paceKept    = 128 // durations that are remembered of an action
	paceEnough  = 16  // before anything is concluded from them
	maxPaces    = 256 // actions of a pool that are told apart; workers name them themselves
	paceDefault = 0.5 // what an attempt is expected to take: as long as half of them
)

// paces remember how long a pool's attempts took that succeeded, by action.
type paces struct {
	mu      sync.Mutex
	actions map[string]*pace // guarded by mu
}

// pace is an action's.
type pace struct {
	last [paceKept]time.Duration
	n    int // learned so far
}

func (p *paces) learn(action string, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.actions[action]
	if a == nil {
		if len(p.actions) >= maxPaces {
			return
		}
		if p.actions == nil {
			p.actions = map[string]*pace{}
		}
		a = &pace{}
		p.actions[action] = a
	}
	a.last[a.n%paceKept] = took
	a.n++
}

// quantile returns how long the given share of an action's attempts took at most; false: not enough is known.
func (p *paces) quantile(action string, share float64) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.actions[action]
	if a == nil || a.n < paceEnough {
		return 0, false
	}
	known := a.last
	sorted := known[:min(a.n, paceKept)]
	slices.Sort(sorted)
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)], true
}

// usual is what an attempt is expected to take; 0: nobody knows.
func (p *paces) usual(action string) time.Duration {
	d, _ := p.quantile(action, paceDefault)
	return d
}
