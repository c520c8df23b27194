package ipc

import (
	"context"
	"time"
)

// How a request gets into a ring that may be full, while its caller waits no longer than its context lasts. The ring is never left with half a message in it: one that has begun is sent to its end, whoever still waits for that.
//
//	TrySend ──sent──▶ under way
//	   └─ no room ──▶ SendIf, on a goroutine ──sent──▶ under way, while StartContext waits; where that has left, the peer is told to cancel
//	                     └─ ctx ended first ─────────▶ never sent; the call ends

// prompt is a [Transport] that knows whether a message has to wait.
type prompt interface {
	// TrySend is Send where that takes no waiting; false without an error: it might, and nothing was sent. While b goes on, its end is when the peer is woken; nil: at once.
	TrySend(b *burst, parts ...[]byte) (end uint64, sent bool, err error)
	// SendIf is Send, unless wanted says no when it is this message's turn: then nothing is sent, and the error is [shm.ErrUnwanted].
	SendIf(wanted func() bool, parts ...[]byte) (end uint64, err error)
}

// launch sends a call's request req, which e has encoded, as StartContext does. It frees e, and says sending.Done.
func (c *Caller) launch(ctx context.Context, req *Request, call *Call, e *encoder) (*Call, error) {
	parts, _ := e.message()
	if p, ok := c.t.(prompt); ok {
		end, sent, err := p.TrySend(req.burst(), parts...)
		switch {
		case sent, err != nil:
			req.settle()
			defer c.sending.Done()
			e.free()
			return c.launched(call, end, err)
		case ctx.Done() != nil:
			req.Waits()
			return c.launchLater(ctx, p, call, e)
		}
	}
	req.Waits()
	defer c.sending.Done()
	end, err := c.t.Send(parts...)
	e.free()
	return c.launched(call, end, err)
}

// launched records what has become of a request that was to be sent.
func (c *Caller) launched(call *Call, end uint64, err error) (*Call, error) {
	if err != nil {
		c.mu.Lock()
		_, open := c.open[call.id]
		delete(c.open, call.id)
		c.mu.Unlock()
		if !open { // the peer guessed the id and ended the call before it was sent: so it has ended, done and all
			return call, nil
		}
		return nil, err
	}
	call.end = end // Close, which reads it, waits for sending
	call.sent.Store(true)
	return call, nil
}

// launchLater sends a request once there is room for it, if that is before ctx ends.
func (c *Caller) launchLater(ctx context.Context, p prompt, call *Call, e *encoder) (*Call, error) {
	outcome := make(chan error, 1)
	go c.awaitRoom(p, call, e, outcome)
	select {
	case err := <-outcome:
		return started(call, err)
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case err := <-outcome:
		return started(call, err)
	default:
	}
	why := AsError(context.Cause(ctx))
	call.left, call.finished = true, true
	call.forget()
	call.abandoned, call.reason = time.Now(), why.Reason
	return call, why
}

func started(call *Call, err error) (*Call, error) {
	if err != nil {
		return nil, err
	}
	return call, nil
}

// awaitRoom is launchLater's goroutine, which Close waits for. The outcome is Start's, unless that has left: then the call is told its end here, or the peer to cancel it.
func (c *Caller) awaitRoom(p prompt, call *Call, e *encoder, outcome chan<- error) {
	defer c.sending.Done()
	parts, _ := e.message()
	end, err := p.SendIf(func() bool { return !c.hasLeft(call) }, parts...)
	e.free()
	_, err = c.launched(call, end, err)
	c.mu.Lock()
	left, reason := call.left, call.reason
	if !left {
		outcome <- err // fits
	}
	c.mu.Unlock()
	switch {
	case !left:
	case err == nil:
		_ = send(c.t, func(e *encoder) { e.cancel(Cancel{ID: call.id, Reason: reason}) })
	case call.done != nil:
		call.done.Ended(Errorf(Cancelled, "cancelled", "the request was not sent, for its caller left before there was room (%v)", err))
	}
}

// hasLeft reports whether Start has returned before the request was sent.
func (c *Caller) hasLeft(call *Call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return call.left
}

// post sends a message that nobody waits for: at once if there is room, else from a goroutine, which Close waits for.
func (c *Caller) post(encode func(*encoder)) {
	c.mu.Lock()
	if c.closed != nil {
		c.mu.Unlock()
		return
	}
	c.sending.Add(1)
	c.mu.Unlock()
	p, ok := c.t.(prompt)
	if !ok {
		defer c.sending.Done()
		_ = send(c.t, encode)
		return
	}
	e := newEncoder()
	encode(e)
	parts, _ := e.message()
	if _, sent, err := p.TrySend(nil, parts...); sent || err != nil {
		e.free()
		c.sending.Done()
		return
	}
	go func() {
		defer c.sending.Done()
		defer e.free()
		_, _ = c.t.Send(parts...)
	}()
}
