package chain

import (
	"context"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Handler answers a request. ctx ends when the client cancels, the request's deadline passes or the connection dies; the [Peer] that asks is in it. The caller takes replies until an error or END, or calls
// Cancel. req and what it refers to belong to the handler until then; errors are [*ipc.Error].
type Handler func(ctx context.Context, req *ipc.Request) (ipc.Replies, error)

// Link is one link of the chain: it makes a handler of the one behind it.
type Link func(next Handler) Handler

// New puts links before a handler; a request meets the first link first.
func New(h Handler, links ...Link) Handler {
	for i := len(links) - 1; i >= 0; i-- {
		h = links[i](h)
	}
	return h
}
