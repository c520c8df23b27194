package gateway

import (
	"context"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Backend answers requests; a supervisor is one.
type Backend interface {
	// Call starts a request and returns its replies, of which it holds few at a time, whatever credit the request brings. ctx ends when the client cancels, the request's deadline passes or
	// the connection dies. req is not used by anyone else.
	Call(ctx context.Context, req *ipc.Request) (ipc.Replies, error)
}

// Handler answers a request: [Backend.Call] is the innermost one, and every link of the call chain makes another of the one behind it. The [Peer] that asks is in ctx.
type Handler func(ctx context.Context, req *ipc.Request) (ipc.Replies, error)

// link is one link of the call chain. Each has a file of its own.
type link func(next Handler) Handler

// chain puts links before a handler; a request meets the first link first.
func chain(h Handler, links ...link) Handler {
	for i := len(links) - 1; i >= 0; i-- {
		h = links[i](h)
	}
	return h
}
