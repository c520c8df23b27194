package load

import (
	"context"
	"errors"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// pauseAfterFailure is how long a requester waits after a failed request, if the error does not say.
const pauseAfterFailure = time.Millisecond

// requester sends one request after the other. It belongs to one goroutine at a time.
type requester struct {
	call    Call
	payload *Payload
	check   Check
	result  *Result
}

func newRequester(call Call, p *Payload, check Check) *requester {
	return &requester{call: call, payload: p, check: check, result: newResult()}
}

// warmUp makes requests until the deadline, and at least two.
func (r *requester) warmUp(ctx context.Context, deadline time.Time) {
	for n := 0; (n < 2 || time.Now().Before(deadline)) && ctx.Err() == nil; n++ {
		r.once(ctx, time.Now(), true)
	}
}

// repeat makes requests until the deadline, and at least one: a machine so busy that the goroutine starts late must not make a measurement of nothing.
func (r *requester) repeat(ctx context.Context, deadline time.Time) {
	for now := time.Now(); ctx.Err() == nil; {
		now = r.once(ctx, now, false)
		if !now.Before(deadline) {
			return
		}
	}
}

// once makes a request whose time began at begin, and returns the time at which it could make the next.
func (r *requester) once(ctx context.Context, begin time.Time, whole bool) time.Time {
	r.payload.Stamp()
	answer, err := r.call(ctx, r.payload.Bytes)
	now := time.Now()
	switch {
	case err == nil:
		err = r.check(r.payload, answer, whole)
		if err != nil {
			r.result.Wrong++
			r.result.wrong(err)
			return now
		}
		r.result.Requests++
		r.result.record(now.Sub(begin))
		if whole {
			return time.Now()
		}
		return now
	case ctx.Err() != nil:
		return now // it was interrupted, and says nothing
	}
	r.result.fail(err)
	pause(ctx, err)
	return time.Now()
}

// pause waits after a failure for as long as the error asks.
func pause(ctx context.Context, err error) {
	d := pauseAfterFailure
	var e *ipc.Error
	if errors.As(err, &e) && e.RetryAfter > 0 {
		d = e.RetryAfter
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
