package load

import (
	"context"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// paced makes a request due every 1/rate s and has the requesters, whoever is free, send it. When the time is up, those that are due and were not sent, because all requesters were waiting, are
// missed: each counts with the time that it has waited until then, which is less than it would have taken.
func paced(ctx context.Context, rs []*requester, begin time.Time, rate float64, d time.Duration) (missed int) {
	due := make(chan time.Time)
	late := make(chan []time.Duration, 1)
	go pace(ctx, begin, rate, d, due, late)
	together(rs, func(r *requester) {
		for at := range due {
			r.once(ctx, at, false)
		}
	})
	waits := <-late
	for _, wait := range waits {
		rs[0].result.record(wait)
	}
	return len(waits)
}

// pace sends the times at which requests are due, each when it has come. It does nothing else, and sleeps in the kernel: Go's own timers are late by up to a millisecond.
func pace(ctx context.Context, begin time.Time, rate float64, d time.Duration, due chan<- time.Time, late chan<- []time.Duration) {
	runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine, and its timer slack with it
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	var waits []time.Duration
	over := time.NewTimer(time.Until(begin.Add(d)))
	defer over.Stop()
	total := int(rate * d.Seconds())
	for i := range total {
		at := begin.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		sleepUntil(at)
		select {
		case due <- at:
			continue
		case <-ctx.Done():
		case <-over.C:
			end := begin.Add(d)
			for ; i < total; i++ {
				waits = append(waits, max(0, end.Sub(begin.Add(time.Duration(float64(i)/rate*float64(time.Second))))))
			}
		}
		break
	}
	close(due)
	late <- waits
}

// sleepUntil sleeps in the kernel.
func sleepUntil(at time.Time) {
	for {
		left := time.Until(at)
		if left <= 0 {
			return
		}
		t := unix.NsecToTimespec(left.Nanoseconds())
		if err := unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &t, nil); err != nil && err != unix.EINTR {
			return
		}
	}
}
