package gateway

import (
	"context"
	"log/slog"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// logged logs every request with its outcome, at debug level. It costs nothing while that level is off.
func logged(logger *slog.Logger) chain.Link {
	return func(next chain.Handler) chain.Handler {
		return func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
			if !logger.Enabled(ctx, slog.LevelDebug) {
				return next(ctx, req)
			}
			peer, _ := chain.PeerFrom(ctx)
			r := &loggedReplies{logger: logger.With("pool", req.Pool, "action", req.Action), begin: time.Now()}
			if peer.Address != "" {
				r.logger = r.logger.With("address", peer.Address)
			} else {
				r.logger = r.logger.With("uid", peer.UID, "pid", peer.PID)
			}
			var err error
			if r.Replies, err = next(ctx, req); err != nil {
				r.end(ctx, ipc.AsError(err).Error())
				return nil, err
			}
			return r, nil
		}
	}
}

// loggedReplies watches a request's replies for its end.
type loggedReplies struct {
	ipc.Replies
	logger *slog.Logger
	begin  time.Time
	chunks int
}

// Recv implements [ipc.Replies].
func (r *loggedReplies) Recv(ctx context.Context) (*ipc.Reply, error) {
	reply, err := r.Replies.Recv(ctx)
	switch {
	case err != nil:
		r.end(ctx, ipc.AsError(err).Error())
	case reply.End:
		r.end(ctx, "OK")
	default:
		r.chunks++
	}
	return reply, err
}

// Cancel implements [ipc.Replies].
func (r *loggedReplies) Cancel(reason string) {
	r.Replies.Cancel(reason)
	r.end(context.Background(), reason)
}

func (r *loggedReplies) end(ctx context.Context, outcome string) {
	r.logger.DebugContext(ctx, "request", "outcome", outcome, "chunks", r.chunks, "took", time.Since(r.begin))
}
