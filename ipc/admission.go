package ipc

import (
	"time"

	"github.com/ringmasterd/ringmaster/internal/budget"
)

const (
	// requestOverhead is what an open request takes beside its message, in bytes: its goroutine's stack, contexts, and what passes it on.
	requestOverhead = 16 << 10

	// freeMessage is the size in bytes up to which a message that is not a request costs its client nothing, so that cancels and credits, which free memory, get through when there is none.
	freeMessage = 4 << 10

	fullPause = 100 * time.Millisecond // after which it makes sense to ask again where memory or a place was lacking
)

// admission is what [Serve] asks of a client's account. pending is what the message at hand has taken and no request holds yet. It belongs to Serve's goroutine.
//
//	Socket.Recv ──admit: take──▶ pending ──settle: the message is done with─▶ given back
//	                                └─start: a request begins─▶ its Charge ──its handler returns─▶ given back
type admission struct {
	account *budget.Account       // immutable; nil: no bounds
	ask     func(size int) *Error // immutable; nil: all are taken that there is room for
	pending int64                 // bytes
}

// watch makes a transport ask before it reads a message's bytes.
func (a *admission) watch(t Transport) {
	if a.account == nil && a.ask == nil {
		return
	}
	switch t := t.(type) {
	case *Socket:
		t.admit = a.admit
	case *Ring:
		t.admit = a.admit
	}
}

// admit takes the room for a message of size bytes that begins with head. A length is only a claim, but what it claims is the client's own share, and for as long as a message may take to come. A ring does
// not know how long a message will be, so it asks for each of its frames, with the size so far.
func (a *admission) admit(head []byte, size int) *Error {
	if a.ask != nil {
		if e := a.ask(size); e != nil {
			return e
		}
	}
	if a.account == nil {
		return nil
	}
	n := int64(size)
	if k, _, ok := DecodeHead(head); !ok || k != KindRequest {
		if size <= freeMessage {
			return nil
		}
	} else {
		n += requestOverhead
	}
	return a.take(n - a.pending)
}

func (a *admission) take(n int64) *Error {
	if a.account.Take(n, budget.Requests) {
		a.pending += n
		return nil
	}
	return memoryFull(a.pending + n)
}

func memoryFull(n int64) *Error {
	e := Errorf(ResourceExhausted, "memory_full", "there is no room for a request of %d bytes: this client's requests and replies may hold no more of the server's memory now; wait for some to end, or raise `memory`", n)
	e.RetryAfter = fullPause
	return e
}

// settle gives back what the last message took, unless a request holds it now.
func (a *admission) settle() {
	if a.pending > 0 {
		a.account.Give(a.pending)
		a.pending = 0
	}
}

// begin counts a request that has been decoded, and takes the room for what it became. An error means that it is refused, and not counted.
func (a *admission) begin(req *Request) *Error {
	if a.account == nil {
		return nil
	}
	if n := decodedSize(req); n > 0 {
		if e := a.take(n); e != nil {
			return e
		}
	}
	return enter(a.account)
}

// enter counts a request of a client's.
func enter(account *budget.Account) *Error {
	if account.Enter() {
		return nil
	}
	e := Errorf(ResourceExhausted, "too_many_requests", "this process has %d requests open, the most it may have on all its connections; wait for some to end, or raise `clients.in_flight`", account.Most())
	e.RetryAfter = fullPause
	return e
}

// hand makes a request that has begun the holder of what its message took.
func (a *admission) hand(req *Request, c *budget.Charge) {
	if a.account == nil {
		return
	}
	c.Begin(a.account, a.pending)
	a.pending = 0
	req.charge = c
}

// decodedSize is roughly what headers and tensors take once they are decoded, in bytes. What they hold aliases the message.
func decodedSize(req *Request) int64 {
	n := len(req.Headers) * 96
	for i := range req.Tensors {
		n += 120 + 8*len(req.Tensors[i].Shape)
	}
	n += len(req.Outputs) * 72
	return int64(n)
}
