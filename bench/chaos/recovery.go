package chaos

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// recoveries measures how long a slot is away: from the SIGKILL of its process to the next answer that comes from another process in it.
type recoveries struct {
	mu      sync.Mutex
	waiting map[place]death            // guarded by mu
	took    map[string][]time.Duration // guarded by mu; by pool
}

type place struct{ pool, slot string }

type death struct {
	pid int
	at  time.Time
}

func newRecoveries() *recoveries {
	return &recoveries{waiting: map[place]death{}, took: map[string][]time.Duration{}}
}

// killed is called right before the signal is sent.
func (r *recoveries) killed(pool, slot string, pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting[place{pool, slot}] = death{pid, time.Now()}
}

// answered is called for each right answer.
func (r *recoveries) answered(pool, slot string, pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := place{pool, slot}
	d, ok := r.waiting[at]
	if !ok || d.pid == pid {
		return
	}
	delete(r.waiting, at)
	r.took[pool] = append(r.took[pool], time.Since(d.at))
}

// Recovery sums up a pool's recoveries.
type Recovery struct {
	Pool  string  `json:"pool"`
	Count int     `json:"count"`
	P50MS float64 `json:"p50_ms"`
	P99MS float64 `json:"p99_ms"`
	MaxMS float64 `json:"max_ms"`
}

func (r *recoveries) summary() []Recovery {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Recovery
	for pool, took := range r.took {
		slices.Sort(took)
		at := func(q float64) float64 { return milliseconds(took[int(q*float64(len(took)-1)+0.5)]) }
		all = append(all, Recovery{pool, len(took), at(0.5), at(0.99), at(1)})
	}
	slices.SortFunc(all, func(a, b Recovery) int { return strings.Compare(a.Pool, b.Pool) })
	return all
}
