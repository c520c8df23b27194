package gateway

import (
	"context"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Backend answers requests: a supervisor, or the call chain in front of one.
type Backend interface {
	// Call starts a request and returns its replies, of which it holds few at a time, whatever credit the request brings. ctx ends when the client cancels, the request's deadline passes or
	// the connection dies. req is not used by anyone else. It is a [chain.Handler].
	Call(ctx context.Context, req *ipc.Request) (ipc.Replies, error)
}
