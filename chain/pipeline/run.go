package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/chain/trace"
	"github.com/ringmasterd/ringmaster/ipc"
)

// run is one request to a pipeline; the [ipc.Replies] of it.
//
//	begin ─▶ steps that need nothing ─▶ each that ends starts those that have all they need ─▶ due ─▶ Recv: the output
//
// Recv and Cancel belong to the request's goroutine; every step but the output has one of its own, which finish joins.
type run struct {
	link     *Link
	plan     *plan
	next     chain.Handler
	req      ipc.Request     // as it came; immutable
	parent   context.Context // the request's
	ctx      context.Context // parent with the pipeline's deadline; ends with the run
	cancel   context.CancelFunc
	deadline time.Time
	due      chan struct{} // closed when the output has all it needs, or the run has failed

	mu      sync.Mutex
	waiting []int      // guarded by mu: of each step: how many that it needs have not ended
	ready   []int      // guarded by mu: steps that could run if fewer did
	active  int        // guarded by mu: steps that run
	failure *ipc.Error // guarded by mu: of the first step that failed for good
	results []result   // of each step; written before those that need it begin, then immutable
	work    sync.WaitGroup

	out     ipc.Replies     // Recv's: the output's replies, once there are any
	outCtx  context.Context // Recv's: ctx, with the output's own timeout if it has one
	outEnd  context.CancelFunc
	outTime time.Time // Recv's: when the output began
	begun   bool      // Recv's: a reply was handed out
	ended   bool      // Recv's
}

// result is what a step has answered.
type result struct {
	body     ipc.Body
	tensors  []ipc.Tensor
	headers  map[string]string
	err      *ipc.Error // it failed, and this is what on_error made of it
	skipped  bool       // it has no answer
	degraded string     // its answer is not what it would have been
}

// begin starts a request's first steps.
func (l *Link) begin(ctx context.Context, p *plan, next chain.Handler, req *ipc.Request) *run {
	r := &run{link: l, plan: p, next: next, req: *req, parent: ctx, due: make(chan struct{}), waiting: make([]int, len(p.steps)), results: make([]result, len(p.steps))}
	r.deadline = time.Now().Add(p.timeout)
	if req.Timeout > 0 {
		r.deadline = time.Now().Add(req.Timeout)
	}
	r.ctx, r.cancel = context.WithDeadline(ctx, r.deadline)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range p.steps {
		if r.waiting[i] = len(p.steps[i].needs); r.waiting[i] == 0 {
			r.can(i)
		}
	}
	r.launch()
	return r
}

// can notes that a step has all it needs. Preconditions: mu is held.
func (r *run) can(i int) {
	if i == r.plan.output {
		close(r.due)
		return
	}
	r.ready = append(r.ready, i)
}

// launch starts as many steps as may run. Preconditions: mu is held.
func (r *run) launch() {
	for ; len(r.ready) > 0 && r.active < r.plan.parallel && r.failure == nil; r.ready = r.ready[1:] {
		i := r.ready[0]
		r.active++
		r.work.Go(func() { r.step(i) })
	}
}

// step runs a step, and then starts those that waited for it alone.
func (r *run) step(i int) {
	s := &r.plan.steps[i]
	begun := time.Now()
	res, err := r.ask(s)
	if err != nil {
		res, err = r.replaced(s, err)
	}
	r.count(s, begun, res.err, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active--
	if err != nil {
		if r.failure == nil {
			r.failure = r.plan.failed(s, err)
			r.cancel()
			close(r.due) // the output is not: it needs this step, if by others
		}
		return
	}
	r.results[i] = res
	for _, n := range s.feeds {
		if r.waiting[n]--; r.waiting[n] == 0 && r.failure == nil {
			r.can(n)
		}
	}
	r.launch()
}

// replaced is what a step's on_error makes of its error; it stays one if the whole request has ended.
func (r *run) replaced(s *step, e *ipc.Error) (result, *ipc.Error) {
	if r.ctx.Err() != nil || s.OnError != Skip && s.OnError != Default {
		return result{}, e
	}
	res := result{body: null, err: e, skipped: s.OnError == Skip, degraded: fmt.Sprintf("step=%s; %s; reason=%s", s.Name, s.OnError, e.Reason)}
	if !res.skipped {
		res.body = s.Default
	}
	return res, nil
}

func (r *run) count(s *step, begun time.Time, replaced, err *ipc.Error) {
	outcome := stepOK
	switch {
	case err != nil && r.parent.Err() != nil, err != nil && err.Code == ipc.Cancelled:
		outcome = stepCancelled
	case err != nil:
		outcome = stepFailed
	case replaced != nil:
		outcome = stepReplaced
	}
	r.link.meters.steps.WithLabelValues(r.plan.name, s.Name, outcome).Inc()
	r.link.meters.seconds.WithLabelValues(r.plan.name, s.Name).Observe(time.Since(begun).Seconds())
}

// ask gets a step's answer, whole.
func (r *run) ask(s *step) (_ result, e *ipc.Error) {
	ctx, span := trace.Start(r.ctx, "step "+s.Name)
	defer func() { span.End(e) }()
	if s.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.Timeout)
		defer cancel()
	}
	req, err := r.request(s)
	switch {
	case err != nil:
		return result{}, err
	case s.aggregate:
		return result{body: req.Body, tensors: req.Tensors}, nil
	}
	replies, failed := r.next(ctx, req)
	if failed != nil {
		return result{}, ipc.AsError(failed)
	}
	res, err := gather(ctx, replies, s, r.link.most)
	if what := res.headers["degraded"]; what != "" {
		res.degraded = fmt.Sprintf("step=%s; %s", s.Name, what)
	}
	return res, err
}

// request is what a step is asked.
func (r *run) request(s *step) (*ipc.Request, *ipc.Error) {
	req := r.req
	req.Pool, req.Action, req.Body, req.Tensors = s.Pool, s.Action, nil, nil
	req.Headers, req.Credit = maps.Clone(r.req.Headers), 1
	if s.Gather != "" {
		req.Credit = gatherCredit
	}
	req.Timeout = max(time.Microsecond, time.Until(r.deadline))
	if s.Timeout > 0 {
		req.Timeout = min(req.Timeout, s.Timeout)
	}
	if s.body != nil {
		out := newBuilder(r.link.most)
		if err := s.body.build(out, r.look); err != nil {
			return nil, ipc.AsError(err)
		}
		req.Body = out.buf.Bytes()
	}
	if s != &r.plan.steps[r.plan.output] {
		req.Outputs = nil // where the requester wants the tensors of its answer; others would be in their place
	}
	var err error
	if req.Tensors, err = r.tensors(s); !req.NamesArenas() {
		req.Arenas = nil
	}
	return &req, ipc.AsError(err)
}

// look returns what a reference to a body, or the like, stands for.
func (r *run) look(to *ref) (ipc.Body, error) {
	var whole ipc.Body
	var err error
	switch to.part {
	case partAction:
		whole, err = ipc.Marshal(r.req.Action)
		return whole, err
	case partHeaders:
		if text, ok := r.req.Headers[to.path[0].name]; ok {
			return ipc.Marshal(text)
		}
		return r.missing(to)
	case partError:
		failed := r.results[to.index].err
		if failed == nil {
			return null, nil
		}
		whole, err = ipc.Marshal(map[string]any{"code": string(failed.Code), "reason": failed.Reason, "message": failed.Message})
	case partBody:
		whole = r.req.Body
		if to.step != "" {
			res := &r.results[to.index]
			if res.skipped {
				return null, nil
			}
			whole = res.body
		}
	}
	if err != nil {
		return nil, err
	}
	found, err := at(whole, to.path)
	switch {
	case err != nil:
		return nil, ipc.Errorf(ipc.Internal, "pipeline", "$%s: %v", to.text, err)
	case found == nil:
		return r.missing(to)
	}
	return found, nil
}

// missing is what a reference stands for that leads nowhere.
func (r *run) missing(to *ref) (ipc.Body, error) {
	switch {
	case to.optional:
		return null, nil
	case to.step == "":
		return nil, ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "the request has no %s; send it", strings.TrimPrefix(to.text, "input."))
	}
	return nil, ipc.Errorf(ipc.Internal, "pipeline", "$%[1]s leads nowhere: the answer of step %[2]s has no such part; correct the reference, or write $%[1]s or null where nothing is right, too", to.text, to.step)
}

// tensors are those that a step is given, as they came.
func (r *run) tensors(s *step) ([]ipc.Tensor, error) {
	if s.all != nil {
		return r.tensorsOf(s.all), nil
	}
	var given []ipc.Tensor
	for _, t := range s.tensors {
		found := false
		for _, have := range r.tensorsOf(t.from) {
			if have.Name == t.from.path[0].name {
				have.Name = t.name
				given = append(given, have)
				found = true
				break
			}
		}
		if found || t.from.step != "" && r.results[t.from.index].err != nil {
			continue // one that was replaced has none
		}
		if _, err := r.missing(t.from); err != nil {
			return nil, err
		}
	}
	return given, nil
}

func (r *run) tensorsOf(to *ref) []ipc.Tensor {
	if to.step == "" {
		return r.req.Tensors
	}
	return r.results[to.index].tensors
}

// Recv implements [ipc.Replies].
func (r *run) Recv(ctx context.Context) (*ipc.Reply, error) {
	if r.ended {
		return nil, io.EOF
	}
	reply, err := r.recv(ctx)
	if err != nil {
		r.finish()
		return nil, err
	}
	if !r.begun {
		r.begun = true
		r.mark(reply)
	}
	if reply.End {
		r.finish()
	}
	return reply, nil
}

func (r *run) recv(ctx context.Context) (*ipc.Reply, error) {
	s := &r.plan.steps[r.plan.output]
	if r.out == nil {
		if err := r.await(ctx); err != nil {
			return nil, err
		}
		r.outTime = time.Now()
		if s.aggregate || s.Gather != "" {
			return r.last(r.ask(s))
		}
		req, err := r.request(s)
		if err != nil {
			return r.last(result{}, err)
		}
		req.Credit = cmp.Or(r.req.Credit, 1)
		due := r.deadline
		if s.Timeout > 0 && r.outTime.Add(s.Timeout).Before(due) {
			due = r.outTime.Add(s.Timeout)
		}
		r.outCtx, r.outEnd = context.WithDeadline(r.ctx, due)
		spanned, _ := trace.Start(r.outCtx, "step "+s.Name) // it ends with the request
		out, failed := r.next(spanned, req)
		if failed != nil {
			return r.last(result{}, ipc.AsError(failed))
		}
		r.out = out
	}
	if ctx == r.parent {
		ctx = r.outCtx
	} else {
		due, _ := r.outCtx.Deadline()
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, due)
		defer cancel()
	}
	reply, failed := r.out.Recv(ctx)
	switch {
	case failed != nil && r.begun:
		err := ipc.AsError(failed)
		r.count(s, r.outTime, nil, err)
		return nil, r.plan.failed(s, err)
	case failed != nil:
		return r.last(result{}, ipc.AsError(failed))
	case reply.End:
		r.count(s, r.outTime, nil, nil)
	}
	if what := reply.Headers["degraded"]; what != "" {
		r.results[r.plan.output].degraded = fmt.Sprintf("step=%s; %s", s.Name, what)
	}
	return reply, nil
}

// await waits until the output has all it needs.
func (r *run) await(ctx context.Context) error {
	select {
	case <-r.due:
	case <-ctx.Done():
		r.cancel()
		r.work.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		err := ipc.AsError(context.Cause(ctx))
		if err.Code == ipc.DeadlineExceeded && r.failure != nil && r.failure.Code == err.Code {
			return r.failure // it says which step was late
		}
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failure != nil {
		return r.failure
	}
	return nil
}

// last makes the output's answer, or its error, the request's one reply.
func (r *run) last(res result, err *ipc.Error) (*ipc.Reply, error) {
	s := &r.plan.steps[r.plan.output]
	if err != nil {
		res, err = r.replaced(s, err)
	}
	r.count(s, r.outTime, res.err, err)
	if err != nil {
		return nil, r.plan.failed(s, err)
	}
	r.results[r.plan.output] = res
	return &ipc.Reply{End: true, Body: res.body, Tensors: res.tensors, Headers: res.headers}, nil
}

// mark says on the first reply what was degraded on the way to it.
func (r *run) mark(reply *ipc.Reply) {
	var what []string
	for i := range r.results {
		if d := r.results[i].degraded; d != "" {
			what = append(what, d)
		}
	}
	if what == nil {
		return
	}
	if reply.Headers == nil {
		reply.Headers = map[string]string{}
	}
	reply.Headers["degraded"] = strings.Join(what, ", ")
}

// Cancel implements [ipc.Replies].
func (r *run) Cancel(reason string) {
	if r.ended {
		return
	}
	if r.out != nil {
		r.out.Cancel(reason)
		r.count(&r.plan.steps[r.plan.output], r.outTime, nil, ipc.Errorf(ipc.Cancelled, reason, "the request was cancelled"))
	}
	r.finish()
}

// finish ends what still runs, and waits for it.
func (r *run) finish() {
	r.ended = true
	if r.outEnd != nil {
		r.outEnd()
	}
	r.cancel()
	r.work.Wait()
}
