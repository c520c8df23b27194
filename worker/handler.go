package worker

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// maxTraceback is the most of a panicking goroutine's stack, in bytes, that goes to the caller.
const maxTraceback = 16 << 10

// handler runs one request after another through their actions, several at a time. It is an [ipc.BatchHandler].
type handler struct {
	actions Actions          // immutable
	paces   map[string]*pace // immutable: of those that may be quick
	status  *status
	arenas  *arenas
	running atomic.Int64 // actions
}

func newHandler(actions Actions, status *status, arenas *arenas) *handler {
	h := &handler{actions: actions, paces: map[string]*pace{}, status: status, arenas: arenas}
	for name, action := range actions {
		if action.Unary != nil {
			h.paces[name] = &pace{}
		}
	}
	return h
}

// quick reports whether the goroutine that has read a request may run it.
func (h *handler) quick(req *Request) bool {
	p := h.paces[req.Action]
	return p != nil && p.quick()
}

func (h *handler) ServeRequest(ctx context.Context, req *Request, w *ipc.Responder) {
	action, ok := h.actions[req.Action]
	if !ok {
		_ = w.Fail(ipc.Errorf(ipc.NotFound, "unknown_action", "there is no action %q; this worker has %s", req.Action, strings.Join(h.actions.names(), ", ")))
		return
	}
	if action.Batch != nil {
		h.runBatch(action, []ipc.Member{{Ctx: ctx, Request: req, W: w}})
		return
	}
	done, err := h.arenas.resolve(req)
	if err != nil {
		_ = w.Fail(err)
		return
	}
	defer done() // after the END
	h.running.Add(1)
	begin := h.status.begin(req.ID)
	returned := false
	var reply *ipc.Reply
	defer func() {
		if !returned {
			reply, err = nil, interrupted(recover())
		}
		h.running.Add(-1)
		took := h.status.end(req.ID) - begin
		if p := h.paces[req.Action]; p != nil {
			p.learn(time.Duration(took))
		}
		// An error of End or Fail is the ring's: nobody is there to be told.
		if err != nil {
			_ = w.Fail(failure(ctx, err))
			return
		}
		_ = w.End(reply)
	}()
	reply, err = run(traced(ctx, req), action, req, w)
	returned = true
}

// run runs the action and returns its END.
func run(ctx context.Context, a Action, req *Request, w *ipc.Responder) (*ipc.Reply, error) {
	if a.Unary != nil {
		r, err := a.Unary(ctx, req)
		if err != nil {
			return nil, err
		}
		return encode(req, r)
	}
	err := a.Stream(ctx, req, func(r *Reply) error {
		chunk, err := encode(req, r)
		if err != nil {
			return err
		}
		return w.Send(ctx, chunk)
	})
	return &ipc.Reply{}, err
}

// encode checks what an action answers here, where it can be named: a peer that found it would have to take us for broken. Its tensors go where the requester would like them.
func encode(req *Request, r *Reply) (*ipc.Reply, error) {
	if r == nil {
		return &ipc.Reply{}, nil
	}
	body, err := ipc.Marshal(r.Body)
	if err != nil {
		return nil, badReply(err)
	}
	tensors := req.Place(r.Tensors)
	for i := range tensors {
		if err := tensors[i].Validate(); err != nil {
			return nil, badReply(err)
		}
	}
	return &ipc.Reply{Headers: r.Headers, Body: body, Tensors: tensors, Context: r.Context}, nil
}

// badReply is the action's mistake, not its caller's.
func badReply(err error) *ipc.Error {
	return &ipc.Error{
		Code: ipc.Internal, Reason: "handler", Message: "the action returned something that cannot be sent: " + ipc.AsError(err).Message,
		Details: map[string]string{"type": "reply"},
	}
}

// failure is what the caller is told of an action's error.
func failure(ctx context.Context, err error) *ipc.Error {
	var e *ipc.Error
	if errors.As(err, &e) {
		return e
	}
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return ipc.AsError(context.Cause(ctx))
	}
	return &ipc.Error{
		Code: ipc.Internal, Reason: "handler", Message: strings.ToValidUTF8(err.Error(), "\uFFFD"),
		Details: map[string]string{"type": fmt.Sprintf("%T", err)},
	}
}

// interrupted is the error of an action that did not return: v is what it panicked with, or nil if it called [runtime.Goexit]. It runs on the panicking stack.
func interrupted(v any) *ipc.Error {
	kind, message := "panic", fmt.Sprintf("panic: %v", v)
	if v == nil {
		kind, message = "goexit", "the action called runtime.Goexit"
	}
	stack := make([]byte, maxTraceback)
	stack = stack[:runtime.Stack(stack, false)]
	return &ipc.Error{
		Code: ipc.Internal, Reason: "handler", Message: strings.ToValidUTF8(message, "\uFFFD"),
		Details: map[string]string{"type": kind, "traceback": strings.ToValidUTF8(string(stack), "\uFFFD")},
	}
}
