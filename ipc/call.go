package ipc

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringmasterd/ringmaster/internal/budget"
)

// Replies is the answer to one request, as its receiver sees it. [Call] is the one that comes from another process.
type Replies interface {
	// Recv returns the next reply; see [Call.Recv].
	Recv(ctx context.Context) (*Reply, error)
	// Cancel abandons what is still to come; see [Call.Cancel].
	Cancel(reason string)
}

// Call is one open request. Recv and Cancel belong to one goroutine.
type Call struct {
	caller *Caller
	id     uint64
	queue  chan arrival // all replies there may be credit for, that the time is up, and the END, always fit; what comes is sent by Run, that the time is up under caller.mu
	done   Ender        // told once by Run or Close when the call has ended on the peer's side; nil if nobody cares
	batch  uint64       // immutable: of which held requests it is one; 0: of none
	slots  []Output     // immutable: where its replies may have tensors
	due    time.Time    // immutable: when the request's time is up; zero: never
	sent   atomic.Bool
	waker  atomic.Pointer[Responder] // is woken when something comes into queue; nil: nobody, it was, or nobody waits any more
	let    atomic.Int32              // who has let go of it: see Release

	end      uint64 // position of the request's end in the outgoing stream; set before Start returns
	window   window // Recv's
	taken    int64  // Recv's: bytes of the reply that it returned last
	finished bool   // Recv's: END was returned or the call abandoned

	charge    *budget.Charge // holds the bytes of replies that are here; may be nil. Written by Recv's goroutine, with caller.mu held
	granted   uint64         // guarded by caller.mu: replies without END that the peer may send in all
	received  uint64         // guarded by caller.mu: that it has sent
	expired   bool           // guarded by caller.mu: Recv has been told that the time is up
	left      bool           // guarded by caller.mu: Start has returned before the request was sent
	abandoned time.Time      // guarded by caller.mu: since when nobody waits for replies; zero while somebody does
	reason    string         // guarded by caller.mu: why it was abandoned, or why the peer was told to cancel it
}

// arrival is a reply that waits for Recv.
type arrival struct {
	reply *Reply
	size  int  // bytes of its message
	last  bool // nothing comes after it
} // the zero value: the time is up

// queues are those of calls that get one reply, as most do. The one that takes the last arrival out has the queue for itself.
var queues = sync.Pool{New: func() any { return make(chan arrival, oneReply) }}

// oneReply is how many arrivals a call for one reply may have: a reply where an END was expected, that the time is up, the END.
const oneReply = 3

func newQueue(credit uint32) chan arrival {
	if credit == 1 {
		return queues.Get().(chan arrival)
	}
	return make(chan arrival, credit+oneReply-1)
}

func freeQueue(queue chan arrival) {
	if cap(queue) == oneReply {
		queues.Put(queue)
	}
}

// Recv returns the next reply. The END reply comes last, with End set; after it io.EOF. An END that carries an error, and a transport's death, are returned as that *[Error]. When ctx ends first the
// peer is told to cancel, and the matching CANCELLED or DEADLINE_EXCEEDED is returned; likewise when the time is up of a request that was started with a context that has a deadline. Credit is granted as replies are taken. A client that is charged for replies is charged for the one that was
// returned until the next Recv, or the request's end.
func (c *Call) Recv(ctx context.Context) (*Reply, error) {
	if c.finished {
		return nil, io.EOF
	}
	c.charge.Remove(c.taken)
	c.taken = 0
	var a arrival
	select {
	case a = <-c.queue:
	default:
		ended := ctx.Done()
		if ended == nil { // a select of one is cheaper
			a = <-c.queue
			break
		}
		select {
		case a = <-c.queue:
		case <-ended:
			err := AsError(context.Cause(ctx))
			c.Cancel(err.Reason)
			return nil, err
		}
	}
	r := a.reply
	if r == nil {
		err := AsError(context.DeadlineExceeded)
		c.Cancel(err.Reason)
		return nil, err
	}
	if r.End {
		c.finished = true
		if a.last {
			freeQueue(c.queue)
		} else {
			c.caller.mu.Lock()
			c.forget()
			c.caller.mu.Unlock()
		}
		if r.Err != nil {
			return nil, r.Err
		}
		return r, nil
	}
	c.taken = int64(a.size) + replyOverhead
	if n := c.window.take(a.size); n > 0 {
		// An error here is the transport's death, which ends the call by itself.
		_ = c.caller.grant(c, n)
	}
	return r, nil
}

// Release says that the requester, to whom Recv has returned the END, does not look at the call any more. When Run does not either, its [Reuser], if it was started with one, is told.
func (c *Call) Release() {
	if c.let.Add(1) == 2 {
		if r, ok := c.done.(Reuser); ok {
			r.Reuse()
		}
	}
}

// Announce implements [Announcer].
func (c *Call) Announce(w *Responder) bool {
	if c.finished {
		return false
	}
	c.waker.Store(w)
	// What came before that woke nobody; what comes now does.
	return len(c.queue) == 0 || c.waker.Swap(nil) == nil
}

// arrive puts something into the queue, where it fits, and wakes who waits.
func (c *Call) arrive(a arrival) {
	c.queue <- a
	if c.waker.Load() == nil {
		return
	}
	if w := c.waker.Swap(nil); w != nil {
		w.wake(a.last && a.reply.Err == nil && a.size <= quickReply, &c.caller.burst)
	}
}

// Cancel abandons the call: the peer is told, and what it still sends is dropped. It does nothing after the end.
func (c *Call) Cancel(reason string) {
	if c.finished {
		return
	}
	c.finished = true
	c.caller.mu.Lock()
	_, open := c.caller.open[c.id]
	c.abandoned, c.reason = time.Now(), reason
	c.forget()
	c.caller.mu.Unlock()
	if open {
		c.caller.post(func(e *encoder) { e.cancel(Cancel{ID: c.id, Reason: reason}) })
	}
}

// forget lets go what nobody waits for any more: the peer may have the call for long, and what its requester has sent is not to be kept for as long. Preconditions: caller.mu is held, and the goroutine is Recv's.
func (c *Call) forget() {
	c.charge = nil
	c.waker.Store(nil)
	for {
		select {
		case <-c.queue:
		default:
			return
		}
	}
}

// ID returns the number by which the peer knows the call.
func (c *Call) ID() uint64 { return c.id }

// Recalled returns the reason given to [Caller.Recall] for this call, or "".
func (c *Call) Recalled() string {
	c.caller.mu.Lock()
	defer c.caller.mu.Unlock()
	if !c.abandoned.IsZero() {
		return ""
	}
	return c.reason
}

// OpenCall is what is known of a call that its peer has not ended.
type OpenCall struct {
	ID        uint64
	Sent      bool      // false while the request waits for the peer to make room
	End       uint64    // position of the request's end in the outgoing stream, if Sent
	Due       time.Time // when its timeout passes; zero: never
	Abandoned time.Time // since when nobody waits for replies; zero while somebody does
	Reason    string    // why it was abandoned, or the peer told to cancel it
	Replies   uint64    // without END, so far
	Held      bool      // the peer may not send: it has used all its credit
	Batch     uint64    // as in its [Request]; 0: it shares its run with no other
}
