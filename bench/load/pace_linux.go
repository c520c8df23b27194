package load

import (
	"context"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// crew are the requesters of an open loop. There are as many as were ever busy at a time, up to the bound: a bound is not a load, and a payload each would be much memory for nothing.
type crew struct {
	cfg *Config
	rs  []*requester // appended to by pace only
}

// paced makes a request due every 1/rate s and has the requesters, whoever is free, send it. When the time is up, those that are due and were not sent, because all requesters were waiting, are
// missed: each counts with the time that it has waited until then, which is less than it would have taken.
func (c *crew) paced(ctx context.Context, d time.Duration, whole bool) (elapsed time.Duration, missed int) {
	begin := time.Now()
	p := pacer{begin: begin, rate: c.cfg.Rate, length: d, due: make(chan time.Time)}
	var all sync.WaitGroup
	work := func(r *requester) {
		for at := range p.due {
			r.once(ctx, at, whole)
		}
	}
	for _, r := range c.rs {
		all.Go(func() { work(r) })
	}
	all.Go(func() {
		defer close(p.due)
		p.run(ctx, func() {
			if n := len(c.rs); n < c.cfg.Outstanding {
				r := &requester{call: c.cfg.Calls[n%len(c.cfg.Calls)], check: c.cfg.Check, result: newResult()}
				c.rs = append(c.rs, r)
				all.Go(func() {
					r.payload = c.cfg.payload(n)
					work(r)
				})
			}
		})
	})
	all.Wait()
	elapsed = time.Since(begin)
	if len(c.rs) > 0 {
		for _, wait := range p.missed {
			c.rs[0].result.record(wait)
		}
	}
	return elapsed, len(p.missed)
}

// pacer keeps the time. Its goroutine does nothing else, and sleeps in the kernel: Go's own timers are late by up to a millisecond.
type pacer struct {
	begin  time.Time
	rate   float64
	length time.Duration
	due    chan time.Time
	missed []time.Duration // how long each of them had waited at the end
}

// at is when the i-th request is due.
func (p *pacer) at(i int) time.Time {
	return p.begin.Add(time.Duration(float64(i) / p.rate * float64(time.Second)))
}

// run says of each request that it is due, when it is. It calls busy when nobody is free to take it.
func (p *pacer) run(ctx context.Context, busy func()) {
	runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine, and its timer slack with it
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	end := p.begin.Add(p.length)
	over := time.NewTimer(time.Until(end))
	defer over.Stop()
	total := int(p.rate * p.length.Seconds())
	for i := range total {
		at := p.at(i)
		sleepUntil(at)
		select {
		case p.due <- at:
			continue
		default:
			busy()
		}
		select {
		case p.due <- at:
			continue
		case <-ctx.Done():
		case <-over.C:
			for ; i < total; i++ {
				p.missed = append(p.missed, max(0, end.Sub(p.at(i))))
			}
		}
		return
	}
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
