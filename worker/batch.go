package worker

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Result is what an action of several requests says to one of them: an answer, where nil is an empty one, or an error.
type Result struct {
	Reply *Reply
	Err   error
}

// ServeBatch runs requests that the supervisor has put together. It is [ipc.BatchHandler]'s.
func (h *handler) ServeBatch(members []ipc.Member) {
	byAction := map[string][]ipc.Member{}
	for _, m := range members {
		byAction[m.Request.Action] = append(byAction[m.Request.Action], m)
	}
	for name, members := range byAction { // there is one, unless the supervisor is another's
		if action := h.actions[name]; action.Batch != nil {
			h.runBatch(action, members)
			continue
		}
		for _, m := range members {
			h.ServeRequest(m.Ctx, m.Request, m.W)
		}
	}
}

// runBatch runs the action for those requests that somebody waits for, and ends all.
func (h *handler) runBatch(a Action, members []ipc.Member) {
	var live []ipc.Member
	var reqs []*Request
	var views []func() // what they see of arenas: until all have ended
	defer func() {
		for _, done := range views {
			done()
		}
	}()
	for _, m := range members {
		if m.Ctx.Err() != nil {
			_ = m.W.Fail(ipc.AsError(context.Cause(m.Ctx)))
			continue
		}
		done, err := h.arenas.resolve(m.Request)
		if err != nil {
			_ = m.W.Fail(err)
			continue
		}
		views = append(views, done)
		live, reqs = append(live, m), append(reqs, m.Request)
	}
	if len(live) == 0 {
		return
	}
	ctx, stop := together(live)
	defer stop()
	if len(live) == 1 { // several may be of as many traces
		ctx = traced(ctx, reqs[0])
	}
	h.running.Add(1)
	h.status.begin(reqs[0].ID)
	results, err := runTogether(ctx, a, reqs)
	h.running.Add(-1)
	h.status.end(live[0].Request.ID)
	for i, m := range live {
		// An error of End or Fail is the ring's: nobody is there to be told.
		if err != nil {
			_ = m.W.Fail(failure(m.Ctx, err))
			continue
		}
		reply, err := encode(m.Request, results[i].Reply)
		if results[i].Err != nil {
			err = results[i].Err
		}
		if err != nil {
			_ = m.W.Fail(failure(m.Ctx, err))
			continue
		}
		_ = m.W.End(reply)
	}
}

// runTogether runs the action, and returns a result for each request or one error for all.
func runTogether(ctx context.Context, a Action, reqs []*Request) (results []Result, err error) {
	n, returned := len(reqs), false // the slice is the action's
	done := make(chan struct{})
	go func() { // an action may end its goroutine, and this one has requests to end
		defer close(done)
		defer func() {
			if !returned {
				results, err = nil, interrupted(recover())
			}
		}()
		results, err = a.Batch(ctx, reqs)
		returned = true
	}()
	<-done
	if err == nil && len(results) != n {
		return nil, &ipc.Error{
			Code: ipc.Internal, Reason: "handler", Message: fmt.Sprintf("the action returned %d results for a batch of %d requests; it has to return one for each, in their order", len(results), n),
			Details: map[string]string{"type": "batch"},
		}
	}
	return results, err
}

// together returns a context that ends when nobody waits for any of the requests any more. stop frees what it holds.
func together(members []ipc.Member) (ctx context.Context, stop func()) {
	if len(members) == 1 {
		return members[0].Ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	var waiting atomic.Int64
	waiting.Store(int64(len(members)))
	stops := make([]func() bool, len(members))
	for i, m := range members {
		stops[i] = context.AfterFunc(m.Ctx, func() {
			if waiting.Add(-1) == 0 {
				cancel(context.Cause(m.Ctx))
			}
		})
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel(nil)
	}
}
