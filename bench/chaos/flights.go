package chaos

import (
	"sync"
	"time"
)

// flights knows which requests of this process are under way, so that no request is harmed twice: a pool is left alone until those that were under way at the last fault have ended.
type flights struct {
	mu   sync.Mutex
	open map[string]map[id]time.Time // guarded by mu; by pool: since when
}

func newFlights() *flights { return &flights{open: map[string]map[id]time.Time{}} }

func (f *flights) begin(pool string, n id) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open[pool] == nil {
		f.open[pool] = map[id]time.Time{}
	}
	f.open[pool][n] = time.Now()
}

func (f *flights) end(pool string, n id) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open[pool], n)
}

// landed reports whether all requests to pool have ended that began before t.
func (f *flights) landed(pool string, t time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, begun := range f.open[pool] {
		if begun.Before(t) {
			return false
		}
	}
	return true
}
