package load

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// Call makes one request and returns what was answered. Any number of goroutines call it at a time. The answer is read before the next call of the same goroutine, and not after.
type Call func(ctx context.Context, payload []byte) ([]byte, error)

// Config says what [Run] does. Calls, Size, Outstanding and Duration must be set.
type Config struct {
	Calls       []Call // one for each connection; the requesters share them evenly
	Size        int    // bytes of payload
	Outstanding int    // requests under way at a time; in an open loop the most that there may be
	Rate        float64
	Warmup      time.Duration // in a closed loop, each requester at least twice, with every answer checked to the last byte
	Duration    time.Duration
	Check       Check // nil is Echoed

	// Begin, if set, is called between the warm-up and the measurement, when nothing is under way.
	Begin func() error
}

// Validate names what is wrong.
func (c *Config) Validate() error {
	switch {
	case len(c.Calls) == 0:
		return errors.New("load: there is no connection")
	case c.Size < MinSize:
		return fmt.Errorf("load: the size is %d bytes; use %d or more, so that each request can be told from the others", c.Size, MinSize)
	case c.Outstanding < 1:
		return fmt.Errorf("load: %d requests outstanding; use 1 or more", c.Outstanding)
	case c.Rate < 0 || c.Rate > 1e6:
		return fmt.Errorf("load: a rate of %v requests a second; use up to a million, or 0 for a closed loop", c.Rate)
	case c.Duration <= 0:
		return fmt.Errorf("load: the duration is %v; use a positive one", c.Duration)
	}
	return nil
}

// Run warms up, measures, and returns when every request has ended. Failed requests and wrong answers are in the result; the error is Begin's, the context's, or of the configuration.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Check == nil {
		cfg.Check = Echoed
	}
	rs := make([]*requester, cfg.Outstanding)
	for i := range rs {
		rs[i] = newRequester(cfg.Calls[i%len(cfg.Calls)], NewPayload(cfg.Size, i), cfg.Check)
	}
	warm := rs
	if cfg.Rate > 0 { // the bound of an open loop is not its load
		warm = rs[:min(len(rs), max(8, len(cfg.Calls)))]
	}
	deadline := time.Now().Add(cfg.Warmup)
	together(warm, func(r *requester) { r.warmUp(ctx, deadline) })
	warmup := gather(rs)
	for _, r := range rs {
		r.result = newResult()
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	runtime.GC() // the warm-up's garbage is not the measurement's
	if cfg.Begin != nil {
		if err := cfg.Begin(); err != nil {
			return nil, err
		}
	}

	begin := time.Now()
	var missed int
	if cfg.Rate > 0 {
		missed = paced(ctx, rs, begin, cfg.Rate, cfg.Duration)
	} else {
		end := begin.Add(cfg.Duration)
		together(rs, func(r *requester) { r.repeat(ctx, end) })
	}
	elapsed := time.Since(begin)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	result := gather(rs)
	result.Elapsed, result.Missed = elapsed, missed
	result.Compared = warmup.Requests
	result.addFailures(warmup)
	return result, nil
}

// together runs f for all requesters at once.
func together(rs []*requester, f func(*requester)) {
	var wg sync.WaitGroup
	for _, r := range rs {
		wg.Go(func() { f(r) })
	}
	wg.Wait()
}

func gather(rs []*requester) *Result {
	all := newResult()
	for _, r := range rs {
		all.Requests += r.result.Requests
		all.Latency.Merge(r.result.Latency)
		all.addFailures(r.result)
	}
	return all
}
