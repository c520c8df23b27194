package supervisor

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// maxCredit bounds the replies that are buffered here for one request, whatever its requester grants.
const maxCredit = 64

// Call sends a request to a worker of its pool and returns the replies. Without req.Timeout the pool's applies. ctx governs the whole request: when it ends, the worker is told to cancel and the call's
// place in the worker stays taken until the worker has done so. The caller takes replies until an error or END, or calls Cancel.
//
// A request whose worker dies before reading it goes to another worker, silently. req and what it refers to must not change until the first reply.
//
// Errors are [*ipc.Error]: NOT_FOUND, INVALID_ARGUMENT, RESOURCE_EXHAUSTED/queue_full, UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED; see docs/protocol.md, section 8.
func (s *Supervisor) Call(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
	if req.Pool == ControlPool {
		return s.control(ctx, req)
	}
	p := s.pools[req.Pool]
	if p == nil {
		return nil, ipc.Errorf(ipc.NotFound, "unknown_pool", "there is no pool %q; there are %s", req.Pool, strings.Join(slices.Sorted(maps.Keys(s.pools)), ", "))
	}
	if err := validate(req); err != nil {
		return nil, err
	}
	timeout := req.Timeout
	if timeout <= 0 {
		timeout = p.cfg.Timeout
	}
	a := &answer{pool: p, req: *req, parent: ctx}
	a.ctx, a.stop = context.WithTimeout(ctx, timeout)
	if err := a.send(a.ctx, false); err != nil {
		a.stop()
		return nil, err
	}
	return a, nil
}

// validate checks what a worker would take for a broken supervisor.
func validate(req *ipc.Request) error {
	if err := req.Body.Validate(); err != nil {
		return err
	}
	for i := range req.Tensors {
		if err := req.Tensors[i].Validate(); err != nil {
			return err
		}
	}
	return nil
}

// answer is one request's way through workers; the [ipc.Replies] of Call.
type answer struct {
	pool   *pool
	req    ipc.Request
	parent context.Context
	ctx    context.Context // parent with the request's deadline
	stop   context.CancelFunc
	call   *ipc.Call
	begun  bool // a reply has been handed out: no other worker may begin again
}

// send leases a place and sends the request there; a worker that dies meanwhile is replaced by another. again says that the request was accepted before.
func (a *answer) send(ctx context.Context, again bool) error {
	for ; ; again = true {
		l, err := a.pool.acquire(ctx, a.req.Action, again)
		if err != nil {
			return err
		}
		deadline, _ := a.ctx.Deadline()
		req := a.req
		req.Timeout = max(time.Microsecond, time.Until(deadline))
		req.Credit = min(req.Credit, maxCredit)
		call, err := l.inc.caller.Start(&req, l.release)
		if err == nil {
			a.call = call
			return nil
		}
		l.unused(died(err))
		if !died(err) {
			return ipc.AsError(err)
		}
	}
}

// died reports whether err, of a Start or Ping, says that the process cannot be sent anything any more.
func died(err error) bool { return errors.Is(err, io.ErrClosedPipe) || errors.Is(err, unread) }

// Recv implements [ipc.Replies]. The request ends when ctx or the context given to Call ends.
func (a *answer) Recv(ctx context.Context) (*ipc.Reply, error) {
	if ctx == a.parent {
		ctx = a.ctx
	} else {
		merged, cancel := context.WithCancelCause(a.ctx)
		defer cancel(nil)
		recv := ctx
		defer context.AfterFunc(recv, func() { cancel(context.Cause(recv)) })()
		ctx = merged
	}
	for {
		r, err := a.call.Recv(ctx)
		if errors.Is(err, unread) && !a.begun {
			if err := a.send(ctx, true); err != nil {
				a.stop()
				return nil, err
			}
			continue
		}
		if errors.Is(err, unread) { // the worker answered what it had not read
			err = ipc.Errorf(ipc.Aborted, "worker_lost", "the worker died while it had the request; try again if the action may run twice")
		}
		if err != nil || r.End {
			a.stop()
		}
		a.begun = true
		return r, err
	}
}

// Cancel implements [ipc.Replies].
func (a *answer) Cancel(reason string) {
	a.call.Cancel(reason)
	a.stop()
}
