package gateway

import (
	"sync/atomic"

	"github.com/ringmasterd/ringmaster/internal/budget"
)

// MemoryGauge tells how much of [Config].Memory the requests and waiting replies of a running server take. The zero value tells of none.
type MemoryGauge struct {
	budget atomic.Pointer[budget.Budget]
}

// of has the gauge tell of b. A nil gauge does not.
func (g *MemoryGauge) of(b *budget.Budget) {
	if g != nil {
		g.budget.Store(b)
	}
}

// Read returns the bytes that are taken, and how many may be; 0, 0 where no server runs.
func (g *MemoryGauge) Read() (used, limit int64) {
	b := g.budget.Load()
	if b == nil {
		return 0, 0
	}
	return b.Used(), b.Size()
}
