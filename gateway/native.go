package gateway

import (
	"context"
	"errors"
	"io"

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
		_ = w.Fail(err) // an error here and below is the connection's death, which its reader reports
		return
	}
	for {
		r, err := replies.Recv(ctx)
		switch {
		case errors.Is(err, io.EOF):
			_ = w.Fail(ipc.Errorf(ipc.Internal, "internal", "the replies ended without an END"))
			return
		case err != nil:
			_ = w.Fail(err)
			return
		}
		mine := *r // the responder numbers what it sends, and r is not ours
		if r.End {
			_ = w.End(&mine)
			return
		}
		if err := w.Send(ctx, &mine); err != nil {
			replies.Cancel(ipc.AsError(err).Reason)
			_ = w.Fail(err)
			return
		}
	}
}
