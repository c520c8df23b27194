package client

import (
	"context"
	"iter"
	"maps"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// defaultCredit is the window of a stream without [WithCredit].
const defaultCredit = 16

// Reply is a call's answer, or one chunk of a stream.
type Reply struct {
	Headers map[string]string
	Tensors []Tensor
	Body    ipc.Body // one MessagePack value; nil is MessagePack's nil
	Last    bool     // the action's last word: an answer rather than a chunk
	Arena   bool     // the request named memory of arenas, for tensors or outputs: see [Client.Arena]
	Context []byte   // the session's opaque bytes from now on, for [WithContext], if the action made others and no server keeps them; empty: what they were
}

// Decode decodes the body into v, a pointer.
func (r *Reply) Decode(v any) error { return r.Body.Decode(v) }

// Tensor returns the tensor of that name, or nil.
func (r *Reply) Tensor(name string) *Tensor {
	for i := range r.Tensors {
		if r.Tensors[i].Name == name {
			return &r.Tensors[i]
		}
	}
	return nil
}

// Call runs an action and returns its one answer. body is anything that encodes as MessagePack; nil is none.
func (c *Client) Call(ctx context.Context, pool, action string, body any, opts ...CallOption) (*Reply, error) {
	call, err := c.newExchange(pool, action, body, opts)
	if err != nil {
		return nil, err
	}
	call.req.Credit = 1
	ctx, cancel := withTimeout(ctx, call.timeout)
	defer cancel()
	if err := call.start(ctx); err != nil {
		return nil, err
	}
	r, err := call.Recv(ctx)
	if err != nil {
		return nil, err
	}
	if !r.End {
		call.Cancel("cancelled")
		return nil, ipc.Errorf(ipc.Unimplemented, "stream", "action %q of pool %q answers in chunks; use Stream", action, pool)
	}
	reply := call.public(r)
	*call = exchange{} // nobody else has had it
	exchanges.Put(call)
	return reply, nil
}

// Stream runs an action and yields its chunks; an action that answers once yields that. An error comes last, with a nil reply. Leaving the loop cancels the request. Each range over the result
// makes the call anew.
func (c *Client) Stream(ctx context.Context, pool, action string, body any, opts ...CallOption) iter.Seq2[*Reply, error] {
	return func(yield func(*Reply, error) bool) {
		call, err := c.newExchange(pool, action, body, opts)
		if err != nil {
			yield(nil, err)
			return
		}
		if call.req.Credit == 0 {
			call.req.Credit = defaultCredit
		}
		ctx, cancel := withTimeout(ctx, call.timeout)
		defer cancel()
		if err := call.start(ctx); err != nil {
			yield(nil, err)
			return
		}
		defer call.Cancel("cancelled") // does nothing after the END
		for {
			r, err := call.Recv(ctx)
			switch {
			case err != nil:
				yield(nil, err)
				return
			case r.End:
				if !r.Empty() {
					yield(call.public(r), nil)
				}
				return
			case !yield(call.public(r), nil):
				return
			}
		}
	}
}

// start sends the request.
func (x *exchange) start(ctx context.Context) error {
	c, req := x.client, &x.req
	if _, said := req.Headers["authorization"]; c.token != "" && !said {
		headers := map[string]string{"authorization": "Bearer " + c.token}
		maps.Copy(headers, req.Headers) // the map is the caller's
		req.Headers = headers
	}
	var err error
	x.call, x.named, err = c.send(ctx, req, c.knownInline(req.Pool))
	x.shared = x.named
	return err
}

// send sends the request, on a new connection if the old one turns out to be dead before anything went out. inline says that it is to name no arenas; named, that it does.
func (c *Client) send(ctx context.Context, req *ipc.Request, inline bool) (call *ipc.Call, named bool, err error) {
	for attempt := 0; ; attempt++ {
		conn, err := c.connected(ctx)
		if err != nil {
			return nil, false, err
		}
		if !inline {
			conn.readyArena(ctx, req)
		}
		conn.introduce(ctx, req)
		if err := ctx.Err(); err != nil {
			return nil, false, ipc.AsError(context.Cause(ctx))
		}
		if deadline, ok := ctx.Deadline(); ok {
			req.Timeout = max(time.Until(deadline), time.Microsecond)
		}
		call, named, sent, err := conn.start(req, inline)
		switch {
		case err == nil:
			return call, named, nil
		case sent:
			return nil, false, err
		case attempt > 0:
			return nil, false, conn.unsent(err)
		}
		c.retire(conn)
	}
}

func (c *Client) newExchange(pool, action string, body any, opts []CallOption) (*exchange, error) {
	x := exchanges.Get().(*exchange)
	x.client = c
	x.req.Pool, x.req.Action = pool, action
	for _, o := range opts {
		o(&x.callConfig)
	}
	if x.session != "" {
		headers := maps.Clone(x.req.Headers) // which is the caller's
		if headers == nil {
			headers = map[string]string{}
		}
		headers["session"] = x.session
		x.req.Headers = headers
	}
	x.req.Tensors = inline(x.req.Tensors) // where the bytes lie is found out by looking
	for i := range x.req.Tensors {
		if err := x.req.Tensors[i].Validate(); err != nil {
			return nil, err
		}
	}
	var err error
	x.req.Body, err = ipc.Marshal(body)
	return x, err
}

func withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}

func (x *exchange) public(r *ipc.Reply) *Reply {
	return &Reply{Arena: x.shared, Headers: r.Headers, Tensors: r.Tensors, Body: r.Body, Last: r.End, Context: r.Context}
}
