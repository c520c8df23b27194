package trace

import (
	"sync/atomic"
	"time"

	"github.com/ringmasterd/ringmaster/internal/moment"
)

// reread is how often the calendar is looked at: for so long it may go unnoticed that the machine's clock was set.
const reread = time.Second

// clock has the calendar's times of moments that have just been, without a look at the calendar for each. The zero value is ready.
type clock struct{ last atomic.Pointer[time.Time] }

// of returns the time of a moment.
func (c *clock) of(m moment.Moment) time.Time {
	last := c.last.Load()
	if last == nil || m.Sub(moment.Of(*last)) > reread {
		now := time.Now()
		last = &now
		c.last.Store(last)
	}
	return last.Add(m.Sub(moment.Of(*last)))
}
