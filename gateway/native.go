package gateway

import (
	"context"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// native answers the protocol's own frames (docs/protocol.md, section 7) through the call chain.
type native struct {
	handler chain.Handler
}

// ServeRequest forwards one request and its replies, each as soon as the client has credit for it.
func (n native) ServeRequest(ctx context.Context, req *ipc.Request, w *ipc.Responder) {
	replies, err := n.handler(ctx, req)
	if err != nil {
		_ = w.Fail(err) // an error is the connection's death, which its reader reports
		return
	}
	w.Forward(replies)
}
