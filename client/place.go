package client

import (
	"context"
	"slices"
	"sync"

	"github.com/ringmasterd/ringmaster/ipc"
)

// placed is what a call uses of arenas, until the server has done with it.
type placed struct {
	uses []use
}

type use struct {
	arena *Arena
	block *block
}

// over gives it all back.
func (p *placed) over() {
	for _, u := range p.uses {
		u.arena.done(u.block)
	}
}

// sending is what a request on its way over one connection needs until the server has done with it, which may be long after anybody here waits for it. It is an [ipc.Ender].
type sending struct {
	conn *conn
	placed
	call ipc.Call
}

var sendings = sync.Pool{New: func() any { return new(sending) }}

// Reuse implements [ipc.Reuser].
func (s *sending) Reuse() {
	*s = sending{}
	sendings.Put(s)
}

// Ended implements [ipc.Ender].
func (s *sending) Ended(*ipc.Error) {
	s.over()
	s.conn.ended()
}

// place makes of the request what is sent: what lies in one of its connection's arenas is named, large tensors are moved there, everything else travels. Outputs that lie elsewhere are left out.
func (s *sending) place(req *ipc.Request) {
	p, arenas := &s.placed, s.conn.openArenas()
	if len(arenas) == 0 {
		req.Tensors, req.Outputs = inline(req.Tensors), nil
		return
	}
	req.Tensors = slices.Clone(req.Tensors)
	for i := range req.Tensors {
		t := &req.Tensors[i]
		t.At = p.put(arenas, t.Data)
	}
	outputs := req.Outputs
	req.Outputs = nil
	for _, o := range outputs {
		for _, a := range arenas {
			if at, b, ok := a.claim(o.Data); ok {
				p.uses = append(p.uses, use{a, b})
				o.At = at
				req.Outputs = append(req.Outputs, o)
				break
			}
		}
	}
}

// put returns where in an arena the bytes lie, perhaps now; the zero value: nowhere.
func (p *placed) put(arenas []*Arena, data []byte) ipc.Range {
	for _, a := range arenas {
		if at, b, ok := a.claim(data); ok {
			p.uses = append(p.uses, use{a, b})
			return at
		}
	}
	if len(data) < arenaThreshold {
		return ipc.Range{}
	}
	for _, a := range arenas {
		if at, b, ok := a.move(data); ok {
			p.uses = append(p.uses, use{a, b})
			return at
		}
	}
	return ipc.Range{}
}

// inline returns the tensors as they travel in a message.
func inline(tensors []Tensor) []Tensor {
	if !slices.ContainsFunc(tensors, func(t Tensor) bool { return t.At.Region != 0 }) {
		return tensors
	}
	tensors = slices.Clone(tensors)
	for i := range tensors {
		tensors[i].At = ipc.Range{}
	}
	return tensors
}

// large reports whether a request has tensors that are worth an arena.
func large(req *ipc.Request) bool {
	return slices.ContainsFunc(req.Tensors, func(t Tensor) bool { return len(t.Data) >= arenaThreshold })
}

// exchange is one request and its replies. If the worker cannot take tensors in arenas, the request is sent once more, with everything in the message.
type exchange struct {
	callConfig
	client *Client
	call   *ipc.Call // nil: nothing is to come
	named  bool      // it names arenas, and nothing has come yet
	shared bool      // it names arenas, and was answered so
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// Recv returns the next reply, as [ipc.Call.Recv] does.
func (x *exchange) Recv(ctx context.Context) (*ipc.Reply, error) {
	r, err := x.call.Recv(ctx)
	if err != nil && x.named && x.client.goesInline(x.req.Pool, ipc.AsError(err)) {
		x.shared = false
		if x.call, _, err = x.client.send(ctx, &x.req, true); err != nil {
			x.call = nil
			return nil, err
		}
		r, err = x.call.Recv(ctx)
	}
	x.named = false
	if err == nil && r.End {
		x.call.Release()
		x.call = nil
	}
	return r, err
}

// Cancel abandons what is still to come.
func (x *exchange) Cancel(reason string) {
	if x.call != nil {
		x.call.Cancel(reason)
	}
}

// goesInline reports whether a request that ended so is to be sent without arenas, and remembers pools whose workers cannot do them.
func (c *Client) goesInline(pool string, e *ipc.Error) bool {
	switch {
	case e.Code == ipc.Unimplemented && e.Reason == "arena":
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.inline == nil {
			c.inline = map[string]bool{}
		}
		c.inline[pool] = true
		return true
	case e.Code == ipc.Unavailable && e.Reason == "arena_busy":
		return true
	}
	return false
}

// knownInline reports whether the pool's workers cannot do arenas.
func (c *Client) knownInline(pool string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inline[pool]
}
