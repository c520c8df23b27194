package gateway

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// refusalPause is for how long a reason that was logged is only counted: a client that floods us must not flood the log.
const refusalPause = 10 * time.Second

// refusals logs what clients are refused, and why they lose their connections: of each reason the first, and then one in refusalPause with how many there were since.
type refusals struct {
	logger *slog.Logger

	mu       sync.Mutex
	byReason map[string]*tally // guarded by mu
}

// tally is one reason's. Peers cannot invent reasons, so there are few.
type tally struct {
	logged time.Time
	since  int
}

func newRefusals(logger *slog.Logger) *refusals {
	return &refusals{logger: logger, byReason: map[string]*tally{}}
}

// log logs a refusal, or counts it.
func (r *refusals) log(p chain.Peer, e *ipc.Error) {
	n, now := r.due(e.Reason, time.Now())
	switch {
	case !now:
	case p.Standing == chain.Remote && p.Address != "":
		r.logger.Warn("client refused", "address", p.Address, "why", e, "not_logged", n)
	default:
		r.logger.Warn("client refused", "pid", p.PID, "uid", p.UID, "gid", p.GID, "why", e, "not_logged", n)
	}
}

// link logs what the call chain refuses a client because of who it is.
func (r *refusals) link(next chain.Handler) chain.Handler {
	return func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		replies, err := next(ctx, req)
		if err != nil {
			if e := ipc.AsError(err); e.Code == ipc.PermissionDenied || e.Reason == "rate_limited" {
				peer, _ := chain.PeerFrom(ctx)
				r.log(peer, e)
			}
		}
		return replies, err
	}
}

// due reports whether a refusal is to be logged now, and how many were not since the last one that was.
func (r *refusals) due(reason string, now time.Time) (since int, due bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.byReason[reason]
	if t == nil {
		t = &tally{}
		r.byReason[reason] = t
	}
	if !t.logged.IsZero() && now.Sub(t.logged) < refusalPause {
		t.since++
		return 0, false
	}
	since = t.since
	t.logged, t.since = now, 0
	return since, true
}
