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
	Warmup      time.Duration // with every answer checked to the last byte; at least two requests of each requester
	Duration    time.Duration
	Check       Check // nil is Echoed

	// Memory, if set, makes the memory in which a requester's payload lies, as an app would write it there itself.
	Memory func(size int) []byte

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

// payload makes a requester's.
func (c *Config) payload(requester int) *Payload {
	if c.Memory == nil {
		return NewPayload(c.Size, requester)
	}
	return payloadIn(c.Memory(c.Size), requester)
}

// Run warms up, measures, and returns when every request has ended. Failed requests and wrong answers are in the result; the error is Begin's, the context's, or of the configuration.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Check == nil {
		cfg.Check = Echoed
	}
	var l loop = &closedLoop{cfg: &cfg}
	if cfg.Rate > 0 {
		l = &openLoop{crew{cfg: &cfg}}
	}
	rs := l.warmUp(ctx)
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
	rs, elapsed, missed := l.measure(ctx)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	result := gather(rs)
	result.Elapsed, result.Missed = elapsed, missed
	result.Compared = warmup.Requests
	result.addFailures(warmup)
	return result, nil
}

// loop is one of the two. Both of its methods return when nothing is under way.
type loop interface {
	warmUp(ctx context.Context) []*requester
	measure(ctx context.Context) (rs []*requester, elapsed time.Duration, missed int)
}

type closedLoop struct {
	cfg *Config
	rs  []*requester
}

func (l *closedLoop) warmUp(ctx context.Context) []*requester {
	for i := range l.cfg.Outstanding {
		l.rs = append(l.rs, newRequester(l.cfg.Calls[i%len(l.cfg.Calls)], l.cfg.payload(i), l.cfg.Check))
	}
	deadline := time.Now().Add(l.cfg.Warmup)
	together(l.rs, func(r *requester) { r.warmUp(ctx, deadline) })
	return l.rs
}

func (l *closedLoop) measure(ctx context.Context) ([]*requester, time.Duration, int) {
	begin := time.Now()
	end := begin.Add(l.cfg.Duration)
	together(l.rs, func(r *requester) { r.repeat(ctx, end) })
	return l.rs, time.Since(begin), 0
}

type openLoop struct{ crew }

// warmUp has one request answered before the pace begins.
func (l *openLoop) warmUp(ctx context.Context) []*requester {
	r := newRequester(l.cfg.Calls[0], l.cfg.payload(0), l.cfg.Check)
	l.rs = []*requester{r}
	r.warmUp(ctx, time.Time{})
	l.paced(ctx, l.cfg.Warmup, true)
	return l.rs
}

func (l *openLoop) measure(ctx context.Context) ([]*requester, time.Duration, int) {
	elapsed, missed := l.paced(ctx, l.cfg.Duration, false)
	return l.rs, elapsed, missed
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
