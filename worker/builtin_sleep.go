package worker

import (
	"context"
	"time"
)

// sleep waits for body.seconds, or until it is cancelled.
func sleep(ctx context.Context, req *Request) (*Reply, error) {
	a := parseArgs(req, `{"seconds": 0.5}`)
	seconds := a.number("seconds", 0, 86400)
	if a.err != nil {
		return nil, a.err
	}
	if err := pause(ctx, time.Duration(seconds*float64(time.Second))); err != nil {
		return nil, err
	}
	return &Reply{Body: map[string]float64{"seconds": seconds}}, nil
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
