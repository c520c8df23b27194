// Package moment has times as one number. What is noted of every request needs no calendar: a [time.Time] is three times as large, and time.Now reads two clocks.
package moment

import "time"

// Moment is a time by the monotonic clock, in nanoseconds since this process began. 0 is no time at all.
type Moment int64

// epoch lies before everything that happens, so that no moment is 0.
var epoch = time.Now().Add(-time.Second)

// Now is the current time.
func Now() Moment { return Moment(time.Since(epoch)) }

// Of is a time that time.Now has returned, or one computed of such.
func Of(t time.Time) Moment { return Moment(t.Sub(epoch)) }

// Sub is how much later m is than n.
func (m Moment) Sub(n Moment) time.Duration { return time.Duration(m - n) }
