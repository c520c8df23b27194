package resilience

import (
	"context"
	"io"
	"maps"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/chain/trace"
	"github.com/ringmasterd/ringmaster/internal/moment"
	"github.com/ringmasterd/ringmaster/ipc"
)

// answer is one request's way through attempts; the [ipc.Replies] of a pool that is cared for. It belongs to the request's goroutine.
type answer struct {
	link     *Link
	pool     *pool
	next     chain.Handler
	ctx      context.Context // of the request
	req      ipc.Request     // as it came
	deadline time.Time       // of the request, or by the pool's own timeout
	now      *attempt        // the one under way; nil: instead is the answer
	instead  *ipc.Reply      // an answer that is there already
	degraded string          // what took the answer's place
	by       string          // as the meters name it
	fallback int             // how many of the pool's fallbacks have been tried
	failed   *ipc.Error      // what the first of them is in place of
	tries    int             // attempts that were begun, wherever
	retries  int             // of them those that were made since the one before had failed
	begun    bool            // a reply has been handed out: nothing is begun again
	ended    bool
	first    attempt // memory for the one that most requests have
}

// failure is how an attempt ended without a reply.
type failure struct {
	err *ipc.Error
	ran bool // a worker may have begun
}

// call answers a request to a pool that is cared for.
func (l *Link) call(ctx context.Context, p *pool, next chain.Handler, req *ipc.Request) (ipc.Replies, error) {
	now, timeout := time.Now(), p.cfg.Timeout
	if req.Timeout > 0 {
		timeout = req.Timeout
	}
	a := &answer{link: l, pool: p, next: next, ctx: ctx, req: *req, deadline: now.Add(timeout)}
	if p.budget != nil {
		p.budget.earn(now)
	}
	try, fail := a.send(ctx, p, req, a.hedgeable())
	if fail != nil {
		if err := a.again(ctx, *fail); err != nil {
			return nil, err
		}
		return a, nil
	}
	a.now = try
	return a, nil
}

// Recv implements [ipc.Replies].
func (a *answer) Recv(ctx context.Context) (*ipc.Reply, error) {
	if a.ended {
		return nil, io.EOF
	}
	for {
		reply, fail := a.recv(ctx)
		if fail == nil {
			if !a.begun {
				a.begun = true
				a.mark(reply)
			}
			if reply.End {
				a.finish()
			}
			return reply, nil
		}
		if a.begun {
			a.finish()
			return nil, fail.err
		}
		if err := a.again(ctx, *fail); err != nil {
			a.finish()
			return nil, err
		}
	}
}

// recv takes the next reply of what is under way.
func (a *answer) recv(ctx context.Context) (*ipc.Reply, *failure) {
	if a.now == nil {
		return a.instead, nil
	}
	if !a.begun && a.now.cancel != nil {
		return a.race(ctx)
	}
	return a.now.recv(a.within(ctx))
}

// within is the context for the replies of the attempt under way: its own, which ends when the request's does, unless somebody waits with yet another one.
func (a *answer) within(ctx context.Context) context.Context {
	if ctx == a.ctx {
		return a.now.ctx
	}
	return ctx
}

// again has another attempt under way after one that failed, or something in its place. The error is the request's.
func (a *answer) again(ctx context.Context, fail failure) error {
	a.now = nil
	for a.fallback == 0 {
		if ctx.Err() != nil || a.ctx.Err() != nil || !a.retry(ctx, fail) {
			break
		}
		a.retries++
		a.link.meters.retries.WithLabelValues(a.req.Pool).Inc()
		try, failed := a.attempt(a.ctx, a.hedgeable())
		if failed == nil {
			a.now = try
			return nil
		}
		failed.ran = failed.ran || fail.ran
		fail = *failed
	}
	if a.failed == nil {
		a.failed = fail.err
	}
	if ctx.Err() != nil || a.ctx.Err() != nil || !replaceable(a.failed) || !a.replace(fail.ran) {
		return a.told(a.failed)
	}
	return nil
}

// retry waits for the time of another attempt, and reports whether there is to be one.
func (a *answer) retry(ctx context.Context, fail failure) bool {
	if a.pool.cfg.Retry.Max == 0 || !passing(fail.err) || !a.repeatable(fail.ran) {
		return false
	}
	wait, ok := a.pool.cfg.Retry.pause(fail.err, a.retries, a.pool.paces.usual(a.req.Action), time.Until(a.deadline), rand.Float64())
	if !ok {
		return false
	}
	if !a.pool.budget.spend(time.Now()) {
		a.link.meters.exhausted.WithLabelValues(a.req.Pool).Inc()
		return false
	}
	a.req.Waits()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-a.ctx.Done():
	}
	return false
}

// repeatable reports whether the request may be sent again. ran: it may have been begun by a worker.
func (a *answer) repeatable(ran bool) bool {
	if !ran {
		return true
	}
	action, _ := a.link.actions(a.req.Pool, a.req.Action)
	return action.Idempotent && !a.req.NamesArenas()
}

// attempt sends the request to its pool once more. apart: the attempt can be ended by itself.
func (a *answer) attempt(ctx context.Context, apart bool) (*attempt, *failure) {
	req := a.req
	if a.tries > 0 {
		req.Timeout = max(time.Microsecond, time.Until(a.deadline))
	}
	return a.send(ctx, a.pool, &req, apart)
}

// send makes an attempt at a pool, which may be one that nothing is done for: nil.
func (a *answer) send(ctx context.Context, p *pool, req *ipc.Request, apart bool) (*attempt, *failure) {
	try := &a.first
	if a.tries > 0 {
		try = &attempt{}
	}
	*try = attempt{pool: p, action: req.Action, own: a.req.Timeout <= 0 && a.tries == 0, ctx: ctx}
	if p != nil {
		var refused *ipc.Error
		if try.permit, refused = p.breaker.admit(); refused != nil {
			return nil, &failure{err: refused}
		}
	}
	a.tries++
	if apart {
		try.ctx, try.cancel = context.WithCancel(ctx)
	}
	var err error
	spanned, span := trace.Start(try.ctx, "attempt")
	span.SetPool(req.Pool)
	try.span = span
	if try.replies, err = a.next(spanned, req); err != nil {
		e := ipc.AsError(err)
		try.end(e)
		return nil, &failure{err: e}
	}
	try.begin = moment.Now()
	return try, nil
}

// Announce implements [ipc.Announcer]: unless Recv makes attempts beside the one under way. That it makes others after that, the one who passes an END on need not know: none follows on a good one.
func (a *answer) Announce(w *ipc.Responder) bool {
	return !a.ended && a.now != nil && (a.begun || a.now.cancel == nil) && ipc.Announce(a.now.replies, w)
}

// Cancel implements [ipc.Replies].
func (a *answer) Cancel(reason string) {
	if !a.ended && a.now != nil {
		a.now.replies.Cancel(reason)
	}
	a.finish()
}

func (a *answer) finish() {
	a.ended = true
	if a.now != nil {
		a.now.end(nil)
	}
}

// mark says on the first reply what was done for it.
func (a *answer) mark(r *ipc.Reply) {
	if a.tries <= 1 && a.degraded == "" {
		return
	}
	if r.Headers == nil {
		r.Headers = map[string]string{}
	}
	r.Headers["attempts"] = strconv.Itoa(a.tries)
	if a.degraded != "" {
		r.Headers["degraded"] = a.degraded
		a.link.meters.fallbacks.WithLabelValues(a.req.Pool, a.by).Inc()
	}
	if a.fallback > 0 && a.now != nil {
		r.Headers["pool"] = a.pool.cfg.Fallback[a.fallback-1].Pool
	}
}

// told is an error as the client is told it: with how often it was tried. Errors may be shared between requests.
func (a *answer) told(e *ipc.Error) *ipc.Error {
	if a.tries <= 1 {
		return e
	}
	told := *e
	told.Details = maps.Clone(e.Details)
	if told.Details == nil {
		told.Details = map[string]string{}
	}
	told.Details["attempts"] = strconv.Itoa(a.tries)
	return &told
}

// attempt is one request to one pool.
type attempt struct {
	pool    *pool // whose circuit and pace learn from it; nil: nobody's
	action  string
	span    trace.Span
	begin   moment.Moment // when a worker had it
	own     bool          // the deadline is the pool's own, and whole
	permit  permit
	replies ipc.Replies
	ctx     context.Context    // given to the call
	cancel  context.CancelFunc // ends ctx; nil: it ends with the request
	heard   bool               // there was a reply
	ended   bool               // what it says was reported
}

// recv takes the next reply.
func (t *attempt) recv(ctx context.Context) (*ipc.Reply, *failure) {
	reply, err := t.replies.Recv(ctx)
	if err != nil {
		e := ipc.AsError(err)
		t.end(e)
		return nil, &failure{err: e, ran: true}
	}
	if !t.heard && t.pool != nil {
		t.pool.breaker.report(t.permit, good)
		if reply.End {
			t.pool.paces.learn(t.action, moment.Now().Sub(t.begin))
		}
	}
	t.heard = true
	return reply, nil
}

// end reports how the attempt ended, once; nil: nobody waits for it any more, or it has ended well.
func (t *attempt) end(e *ipc.Error) {
	if t.ended {
		return
	}
	t.span.End(e)
	t.ended = true
	o := neither
	if e != nil {
		o = judge(e, t.own)
	}
	if t.pool != nil && (o == bad || !t.heard) {
		t.pool.breaker.report(t.permit, o)
	}
	if t.cancel != nil {
		t.cancel()
	}
}
