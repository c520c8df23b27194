package ipc

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Caller asks: it multiplexes any number of calls over one [Transport]. Its owner runs [Caller.Run] on one goroutine; calls may be started by many.
//
// Every call that was started ends exactly once: with the peer's END, or by [Caller.Close].
type Caller struct {
	t      Transport
	events Events // immutable

	mu     sync.Mutex
	nextID uint64           // guarded by mu
	open   map[uint64]*Call // guarded by mu; nil once closed
	leased map[uint64]*Call // guarded by mu; ended for their requester, but the peer still uses the arena memory that they named
	asked  map[uint64]chan<- attached
	pings  map[uint64]chan<- struct{}
	closed *Error // guarded by mu; why, once closed

	expiry *time.Timer // guarded by mu; runs expire at earliest, or is nil
	next   time.Time   // guarded by mu: earliest; zero: nothing is due

	burst burst // of Run

	sending sync.WaitGroup // whoever sends, Run apart, and Starts until they know whether they have sent; added to under mu
}

// Events tell a Caller's owner what the peer says outside of calls. They are called on Run's goroutine and must not block. Any may be nil.
type Events struct {
	Hello func(*Hello)
	Drain func()
	Reply func() // a reply frame came: the peer makes progress
}

// NewCaller makes a Caller; it does nothing until Run.
func NewCaller(t Transport, events Events) *Caller {
	return &Caller{t: t, events: events, open: map[uint64]*Call{}, leased: map[uint64]*Call{}, asked: map[uint64]chan<- attached{}, pings: map[uint64]chan<- struct{}{}}
}

// replyOverhead is what a reply that waits takes beside its message, in bytes.
const replyOverhead = 512

// maxWindow is the most credit that a call has, whatever its requester is ready to take: so many replies may wait in this process for one that does not take them.
const maxWindow = 1024

// Start sends a request and returns its call; req.ID is set, req.Credit limited to 1024 (and to less for the beginning where a client is charged for the replies, see window), and the rest of req may be
// reused. done, if not nil, is called once, on some other goroutine or this one, when the peer has finished with the request and with what it names of arenas (which may be long after the caller lost interest): with nil if the peer has
// ended it, else with what [Caller.Close] ended it with. It must not block. An error means that nothing was sent and done is not called.
func (c *Caller) Start(req *Request, done func(*Error)) (*Call, error) {
	if done == nil {
		return c.StartContext(context.Background(), req, nil, new(Call))
	}
	return c.StartContext(context.Background(), req, endFunc(done), new(Call))
}

// Ender hears how a call has ended on its peer's side: see [Caller.Start].
type Ender interface{ Ended(*Error) }

// Reuser is an [Ender] whose call was released by its requester: see [Call.Release]. Reuse is called once, after Ended, when nobody has the call any more, so that its memory may be another one's. It is not called
// for a call that ended in any other way than with an END that the requester has been given.
type Reuser interface {
	Ender
	Reuse()
}

type endFunc func(*Error)

func (f endFunc) Ended(e *Error) { f(e) }

// StartContext is Start for a requester that does not wait for room in a ring for longer than ctx lasts. If ctx ends first, the error comes with the call, which is abandoned: done will be called, and what req refers to must not
// change before that. If ctx has a deadline, which is then the request's, Recv says so when it has passed, whatever the context it is given. call is room for the call, which is the
// one that is returned; it may be part of what asks.
//
// Preconditions: call is the zero value.
func (c *Caller) StartContext(ctx context.Context, req *Request, done Ender, call *Call) (*Call, error) {
	for i := range req.Tensors {
		if err := req.Tensors[i].Validate(); err != nil {
			return nil, err
		}
	}
	most := min(max(1, req.Credit), maxWindow)
	call.caller, call.queue, call.charge, call.window, call.done = c, newQueue(most), req.charge, newWindow(most, req.charge != nil), done
	call.granted = uint64(call.window.size)
	call.slots = req.Outputs
	if req.Held {
		call.batch = req.Batch
	}
	c.mu.Lock()
	if c.closed != nil {
		err := c.closed
		c.mu.Unlock()
		return nil, err
	}
	due, limited := ctx.Deadline()
	if limited {
		call.due = due
	} else if req.Timeout > 0 {
		call.due = time.Now().Add(req.Timeout)
	}
	c.nextID++
	call.id = c.nextID
	c.open[call.id] = call
	if limited {
		c.expect(call.due)
	}
	c.sending.Add(1)
	c.mu.Unlock()

	req.ID, req.Credit = call.id, call.window.size
	e := newEncoder()
	e.request(req)
	return c.launch(ctx, req, call, e)
}

// expect sees that somebody looks when a request's time is up. A timer for each would cost more than the rest of a small request's bookkeeping; since most have the same timeout, the one that is there is nearly always early enough. Preconditions: mu is
// held.
func (c *Caller) expect(due time.Time) {
	if due.IsZero() || !c.next.IsZero() && !due.Before(c.next) {
		return
	}
	c.next = due
	if left := time.Until(due); c.expiry == nil {
		c.expiry = time.AfterFunc(left, c.expire)
	} else {
		c.expiry.Reset(left)
	}
}

// expire tells those whose time is up.
func (c *Caller) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.next = time.Time{}
	for _, call := range c.open {
		switch {
		case call.due.IsZero() || call.expired || !call.abandoned.IsZero():
		case call.due.After(now):
			if c.next.IsZero() || call.due.Before(c.next) {
				c.next = call.due
			}
		default:
			call.expired = true
			call.arrive(arrival{})
		}
	}
	if !c.next.IsZero() {
		c.expiry.Reset(c.next.Sub(now))
	}
}

// grant gives the peer credit for n more replies.
func (c *Caller) grant(call *Call, n uint32) error {
	c.mu.Lock()
	call.granted += uint64(n)
	c.mu.Unlock()
	return c.send(func(e *encoder) { e.credit(Credit{ID: call.id, N: n}) })
}

// AppendOpen appends a description of every open call to list, in no order.
func (c *Caller) AppendOpen(list []OpenCall) []OpenCall {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, call := range c.open {
		o := OpenCall{ID: call.id, Sent: call.sent.Load(), Due: call.due, Abandoned: call.abandoned, Reason: call.reason, Replies: call.received, Held: call.received >= call.granted, Batch: call.batch}
		if o.Sent {
			o.End = call.end
		}
		list = append(list, o)
	}
	return list
}

// Recall tells the peer to cancel a call that its caller still waits for. It does nothing if the call has ended.
func (c *Caller) Recall(id uint64, reason string) {
	c.mu.Lock()
	call := c.open[id]
	if call != nil {
		call.reason = reason
	}
	c.mu.Unlock()
	if call != nil {
		_ = c.send(func(e *encoder) { e.cancel(Cancel{ID: id, Reason: reason}) })
	}
}

// send sends one message, unless Close was called.
func (c *Caller) send(encode func(*encoder)) error {
	c.mu.Lock()
	if c.closed != nil {
		err := c.closed
		c.mu.Unlock()
		return err
	}
	c.sending.Add(1)
	c.mu.Unlock()
	defer c.sending.Done()
	return send(c.t, encode)
}

// Ping makes a round trip to the peer.
func (c *Caller) Ping(ctx context.Context) error {
	answered := make(chan struct{})
	c.mu.Lock()
	if c.closed != nil {
		err := c.closed
		c.mu.Unlock()
		return err
	}
	c.nextID++
	id := c.nextID
	c.pings[id] = answered
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.pings, id)
		c.mu.Unlock()
	}()
	if err := c.send(func(e *encoder) { e.ping(Ping{ID: id}) }); err != nil {
		return err
	}
	select {
	case <-answered:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.closed != nil { // Close answers every ping
			return c.closed
		}
		return nil
	case <-ctx.Done():
		return AsError(context.Cause(ctx))
	}
}

// Batch has the peer run held requests, which have been sent, as one call. It does not wait for room to say so.
func (c *Caller) Batch(ids []uint64) {
	c.post(func(e *encoder) { e.batch(&Batch{IDs: ids}) })
}

// Drain asks the peer to finish what it has and go; Stop to go at once.
func (c *Caller) Drain() error { return c.send(func(e *encoder) { e.signal(KindDrain) }) }

// Stop asks the peer to go at once.
func (c *Caller) Stop() error { return c.send(func(e *encoder) { e.signal(KindStop) }) }

// Run receives until the transport ends or the peer breaks the protocol, and returns why. It leaves the calls that are still open to [Caller.Close].
func (c *Caller) Run() error {
	c.burst.follow(c.t)
	defer c.burst.flush()
	var messages decoder
	for {
		b, err := c.t.Recv()
		if err != nil {
			var skipped *SkippedError
			if errors.As(err, &skipped) {
				return protocolErrorf("%v", skipped.Why.Message)
			}
			return err
		}
		c.burst.received(c.t)
		m, err := messages.decode(b)
		if err != nil {
			return protocolErrorf("%v", err)
		}
		r, ok := m.(*Reply)
		if ok {
			if err := c.deliver(r, len(b)); err != nil {
				return err
			}
			continue
		}
		c.burst.flush() // what follows may take waiting
		switch m := m.(type) {
		case *Hello:
			if c.events.Hello != nil {
				c.events.Hello(m)
			}
		case *Attach:
			if err := c.attached(m); err != nil {
				return err
			}
		case Release:
			c.released(m.ID)
		case Ping:
			c.pong(m)
		case Kind:
			if m == KindDrain && c.events.Drain != nil {
				c.events.Drain()
			}
		}
	}
}

// deliver gives a reply, which came in a message of size bytes, to its call. A reply to a call that is not open is late and dropped.
func (c *Caller) deliver(r *Reply, size int) error {
	if r.ID == 0 && r.Err != nil {
		return r.Err // the peer ends the connection and says why
	}
	if c.events.Reply != nil {
		c.events.Reply()
	}
	c.mu.Lock()
	call := c.open[r.ID]
	if call == nil {
		c.refused(r)
		c.mu.Unlock()
		return nil
	}
	if err := settle(call.slots, r); err != nil {
		c.mu.Unlock()
		return err
	}
	ended := r.End // r itself is the requester's once it has arrived
	leased := ended && r.Leased && c.borrows()
	if ended {
		delete(c.open, r.ID)
		if leased {
			c.leased[r.ID] = call
		}
	} else {
		call.received++
	}
	abandoned, charge := !call.abandoned.IsZero(), call.charge
	breach := !abandoned && call.received > call.granted
	c.mu.Unlock()

	if breach {
		return protocolErrorf("the peer sent more replies to request %d than it was granted", r.ID)
	}
	if ended && call.done != nil && !leased {
		call.done.Ended(nil) // first: whoever sees the END may count on it
	}
	switch {
	case abandoned:
	case charge.Add(int64(size) + replyOverhead):
		call.arrive(arrival{r, size, ended})
		if ended && !leased {
			call.Release()
		}
	default:
		c.overdraw(call, ended)
	}
	return nil
}

// overdraw ends a call for whose reply its client has no room left. The peer is told to cancel by a goroutine of its own: this one must go on receiving. Preconditions: the call is not abandoned.
func (c *Caller) overdraw(call *Call, ended bool) {
	e := Errorf(ResourceExhausted, "memory_full", "there is no room for the reply: this client's requests and replies hold its share of the server's memory; have fewer open at a time, or raise `memory`")
	e.RetryAfter = fullPause
	if len(call.queue) > 0 {
		e = Errorf(ResourceExhausted, "slow_reader", "%d replies wait to be taken, and with them this client holds its share of the server's memory; read faster, or grant less credit", len(call.queue))
	}
	if !ended {
		c.mu.Lock()
		call.abandoned, call.reason = time.Now(), e.Reason
		closed := c.closed != nil
		if !closed {
			c.sending.Add(1)
		}
		c.mu.Unlock()
		if !closed {
			go c.cancelOverdrawn(call.id)
		}
	}
	call.arrive(arrival{reply: &Reply{ID: call.id, End: true, Err: e}})
}

// cancelOverdrawn tells the peer. Close waits for it.
func (c *Caller) cancelOverdrawn(id uint64) {
	defer c.sending.Done()
	_ = send(c.t, func(e *encoder) { e.cancel(Cancel{ID: id, Reason: "slow_reader"}) })
}

func (c *Caller) pong(p Ping) {
	if !p.Answer {
		_ = send(c.t, func(e *encoder) { e.ping(Ping{ID: p.ID, Answer: true}) })
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch := c.pings[p.ID]; ch != nil {
		delete(c.pings, p.ID)
		close(ch)
	}
}

// Close ends every open call with the error that end returns for it, and refuses new ones with the error refuse. end is given the position at which the call's
// request ended in the outgoing stream. Once it returns, nothing is sent any more. Preconditions: the transport is closed and Run has returned (or was never called).
func (c *Caller) Close(refuse *Error, end func(sent uint64) *Error) {
	c.mu.Lock()
	if c.closed != nil {
		c.mu.Unlock()
		return
	}
	c.closed = refuse
	if c.expiry != nil {
		c.expiry.Stop()
	}
	for id, ch := range c.pings {
		delete(c.pings, id)
		close(ch)
	}
	c.mu.Unlock()
	c.sending.Wait() // whoever is sending finds the transport closed; whoever comes now is refused

	c.mu.Lock()
	open, leased := c.open, c.leased
	c.open, c.leased = nil, nil
	c.unasked(refuse)
	c.mu.Unlock()
	for _, call := range leased {
		if call.done != nil {
			call.done.Ended(end(call.end))
		}
	}
	for _, call := range open {
		reply := &Reply{ID: call.id, End: true, Err: end(call.end)}
		if call.done != nil {
			call.done.Ended(reply.Err)
		}
		call.arrive(arrival{reply: reply})
	}
}
