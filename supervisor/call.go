package supervisor

import (
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/internal/deadline"
	"github.com/ringmasterd/ringmaster/ipc"
)

// maxCredit bounds the replies that are buffered here for one request, whatever its requester grants.
const maxCredit = 64

// Call sends a request to a worker of its pool and returns the replies. Without req.Timeout the pool's applies. ctx governs the whole request: when it ends, the worker is told to cancel and the call's
// place in the worker stays taken until the worker has done so. The caller takes replies until an error or END, or calls Cancel.
//
// A request whose worker dies before reading it goes to another worker, silently. One that it had read is tried once more if its action is idempotent and no reply has come yet, else it ends with ABORTED/worker_lost; one that
// was in hand at two deaths is refused with ABORTED/poison_request. req and what it refers to must not change before the call has ended; where it ends
// for want of room in a worker's ring, not before that worker has read it or died.
//
// Errors are [*ipc.Error]: NOT_FOUND, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNAVAILABLE, ABORTED, DEADLINE_EXCEEDED, CANCELLED; see docs/protocol.md, section 8.
func (s *Supervisor) Call(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
	if req.Pool == ControlPool {
		req.Waits()
		return s.control(ctx, req)
	}
	a := new(answer)
	if err := a.begin(ctx, s, req); err != nil {
		return nil, err
	}
	return a, nil
}

// Do is Call for an action that answers once, whose reply it returns. An action that answers in chunks is told to cancel, and the error is UNIMPLEMENTED/stream.
func (s *Supervisor) Do(ctx context.Context, req *ipc.Request) (*ipc.Reply, error) {
	if req.Pool == ControlPool {
		replies, err := s.Call(ctx, req)
		if err != nil {
			return nil, err
		}
		return one(ctx, req, replies)
	}
	a := answers.Get().(*answer)
	if err := a.begin(ctx, s, req); err != nil {
		return nil, err
	}
	r, err := one(ctx, req, a)
	if err == nil && a.ctx.Untouched() { // nobody else has had a
		*a = answer{}
		answers.Put(a)
	}
	return r, err
}

// answers are those of Do, used again where nothing went wrong.
var answers = sync.Pool{New: func() any { return new(answer) }}

// one receives the one reply that there is to be.
func one(ctx context.Context, req *ipc.Request, replies ipc.Replies) (*ipc.Reply, error) {
	r, err := replies.Recv(ctx)
	if err != nil {
		return nil, err
	}
	if !r.End {
		replies.Cancel("cancelled")
		return nil, ipc.Errorf(ipc.Unimplemented, "stream", "action %q of pool %q answers in chunks; use Call", req.Action, req.Pool)
	}
	return r, nil
}

// begin sends the request on its way.
func (a *answer) begin(ctx context.Context, s *Supervisor, req *ipc.Request) error {
	p, err := s.pool(req.Pool)
	if err != nil {
		return err
	}
	if err := validate(req); err != nil {
		return err
	}
	timeout := req.Timeout
	if timeout <= 0 {
		timeout = p.config().Timeout
	}
	now := time.Now()
	a.pool, a.req, a.parent = p, req, ctx
	a.ctx.Begin(ctx, now.Add(timeout))
	if err := a.send(&a.ctx, now, false, false); err != nil {
		a.ctx.Cancel(context.Canceled)
		return err
	}
	return nil
}

// pool returns a pool by its name.
func (s *Supervisor) pool(name string) (*pool, error) {
	pools := *s.pools.Load()
	if p := pools[name]; p != nil {
		return p, nil
	}
	return nil, ipc.Errorf(ipc.NotFound, "unknown_pool", "there is no pool %q; there are %s", name, strings.Join(slices.Sorted(maps.Keys(pools)), ", "))
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
	return req.ValidateArenas()
}

// answer is one request's way through workers; the [ipc.Replies] of Call.
//
//	send ──▶ replies … END
//	  ▲        │ the worker died
//	  │        ├─ it had not read the request ─────────▶ send again, at once
//	  └────────┼─ it had; idempotent, nothing came yet ▶ send again after a pause, alone in its worker; once
//	           └─ else ────────────────────────────────▶ ABORTED/worker_lost, or poison_request after the second death
type answer struct {
	pool    *pool
	req     *ipc.Request // as it came; it stays so
	parent  context.Context
	ctx     deadline.Context // parent with the request's deadline
	lease   *lease
	call    *ipc.Call
	begun   bool   // a reply has been handed out: no other worker may begin again
	retried bool   // it was tried a second time
	deaths  int    // of workers that had read it
	digest  uint64 // of the request, once it was needed
	ended   bool
}

// attempt is the memory that one try to have a request answered takes. It is apart from the answer: a worker may have the request for long when nobody waits for it any more, and what its client has sent is not to be kept for as long.
// One that went as most do is used again, when neither the answer nor the caller has it any more; what goes wrong in any way is left to the garbage collector.
type attempt struct {
	lease lease
	call  ipc.Call
}

var attempts = sync.Pool{New: func() any { return new(attempt) }}

// Ended implements [ipc.Ender].
func (t *attempt) Ended(lost *ipc.Error) { t.lease.Ended(lost) }

// Reuse implements [ipc.Reuser].
func (t *attempt) Reuse() {
	*t = attempt{}
	attempts.Put(t)
}

// send leases a place and sends the request there, at the time now; a worker that dies meanwhile is replaced by another. again says that the request was accepted before, alone that it is to share its worker with no other.
func (a *answer) send(ctx context.Context, now time.Time, again, alone bool) error {
	for ; ; again, now = true, time.Now() {
		try := attempts.Get().(*attempt)
		known, err := a.suspected()
		if err != nil {
			return err
		}
		traceID := a.req.Times.Wait(now)
		w := waiter{client: a.req.Client, action: a.req.Action, key: affinityKey(a.req), again: again, req: a.req, alone: alone || known, idle: a.req.Background, yield: a.req.Yield, now: now, room: &try.lease}
		l, err := a.pool.acquire(ctx, a.req, &w)
		if err != nil {
			a.req.Times.Done(ipc.AsError(err))
			return err
		}
		if _, err := a.suspected(); err != nil { // found out while it waited
			l.unused(false)
			a.req.Times.Done(ipc.AsError(err))
			return err
		}
		if err := l.lend(a.req.Arenas); err != nil {
			l.unused(false)
			return err
		}
		deadline, _ := a.ctx.Deadline()
		req := *a.req // as it is sent
		if traceID != "" {
			req.TraceID = traceID
		}
		req.Timeout = max(time.Microsecond, deadline.Sub(l.at))
		req.Credit = min(req.Credit, maxCredit)
		if req.Held = l.batch != nil; req.Held {
			req.Batch = l.batch.number
		}
		call, err := l.inc.caller.StartContext(ctx, &req, try, &try.call)
		switch {
		case err == nil:
			a.lease, a.call = l, call
			a.req.Times.Send(l.at, a.pool.name, l.slot.index, l.inc.proc.pid, l.batch.members())
			l.sent(call.ID())
			return nil
		case call != nil: // the worker makes no room; the lease ends when it does, or dies
			a.req.Times.Done(ipc.AsError(err))
			l.abandon(a.identify())
			l.sent(0)
			return err
		}
		a.req.Times.Done(ipc.AsError(err))
		l.unused(died(err))
		if !died(err) {
			return ipc.AsError(err)
		}
	}
}

// suspected reports whether a worker has died with a request like this one in hand. If two have, it is refused.
func (a *answer) suspected() (bool, error) {
	if !a.pool.suspects.any() {
		return false, nil
	}
	a.req.Waits() // the digest of a large request takes its time
	deaths, left := a.pool.suspects.look(a.identify(), time.Now())
	switch {
	case deaths >= poisonDeaths && a.req.NamesArenas():
		return true, a.dubious(left)
	case deaths >= poisonDeaths:
		return true, a.poisonous(left)
	}
	return deaths > 0 || a.returns(), nil
}

// returns reports whether two workers have died of a request that its client had in an arena, of which this one may be what lay there, now in the message. Then one more death is enough.
func (a *answer) returns() bool {
	if a.req.NamesArenas() || len(a.req.Tensors) == 0 {
		return false
	}
	deaths, _ := a.pool.suspects.look(a.pool.suspects.kin(a.req), time.Now())
	return deaths >= poisonDeaths
}

func (a *answer) poisonous(left time.Duration) *ipc.Error {
	err := ipc.Errorf(ipc.Aborted, "poison_request", "%d workers of pool %s died while they had this request, so it is given to no other; look at their last lines in the log, and change the request or the worker", poisonDeaths, a.pool.name)
	err.RetryAfter = left
	return err
}

// dubious is the error of a request that names the arena memory that a poisonous one has named: whether what lies there now is the same nobody knows here. In the message it can be told.
func (a *answer) dubious(left time.Duration) *ipc.Error {
	err := ipc.Errorf(ipc.Unavailable, "arena_busy", "%d workers of pool %s died while they had a request that named the same arena memory; send the tensors in the message, so that it can be seen whether they are the same", poisonDeaths, a.pool.name)
	err.RetryAfter = left
	return err
}

// identify returns the request's digest.
func (a *answer) identify() uint64 {
	if a.digest == 0 {
		a.digest = a.pool.suspects.digest(a.req)
	}
	return a.digest
}

// died reports whether err, of a Start or Ping, says that the process cannot be sent anything any more.
func died(err error) bool { return errors.Is(err, io.ErrClosedPipe) || errors.Is(err, unread) }

// Recv implements [ipc.Replies]. The request ends when ctx or the context given to Call ends.
func (a *answer) Recv(ctx context.Context) (*ipc.Reply, error) {
	wait := ctx // the call knows the request's own deadline
	if ctx == a.parent {
		ctx = &a.ctx
	} else {
		merged, cancel := context.WithCancelCause(&a.ctx)
		defer cancel(nil)
		recv := ctx
		defer context.AfterFunc(recv, func() { cancel(context.Cause(recv)) })()
		ctx, wait = merged, merged
	}
	if a.ended {
		return nil, io.EOF
	}
	for {
		r, err := a.call.Recv(wait)
		if err == nil {
			if !a.begun || r.End {
				a.begun = true
				a.turned(r.End)
				a.req.Times.Reply(r.End)
			}
			if r.End {
				a.acquit()
				a.finish()
				a.letGo()
			}
			return r, nil
		}
		if err = a.recover(ctx, err); err != nil {
			a.finish()
			return nil, err
		}
	}
}

// Announce implements [ipc.Announcer].
func (a *answer) Announce(w *ipc.Responder) bool { return !a.ended && a.call.Announce(w) }

// recover deals with the end of an attempt that failed: nil if there is another one under way now, else the request's error.
func (a *answer) recover(ctx context.Context, err error) error {
	e := ipc.AsError(err)
	a.turned(false) // this may not be the worker's end of it
	a.req.Times.Done(e)
	switch {
	case e == a.lease.inc.lost.Load():
		return a.lost(ctx, e)
	case e == unread && !a.begun:
		return a.send(ctx, time.Now(), true, false)
	case e == unread: // the worker answered what it had not read
		return ipc.Errorf(ipc.Aborted, "worker_lost", "the worker died while it had the request; try again if the action may run twice")
	case ctx.Err() != nil: // it was we who gave up
		a.lease.abandon(a.identify())
		return err
	}
	a.acquit()
	if a.call.Recalled() == hangReason && (e.Code == ipc.Cancelled || e.Code == ipc.DeadlineExceeded) {
		return ipc.Errorf(ipc.DeadlineExceeded, hangReason, "the worker made no progress with the request for %v (hang_timeout) and was told to cancel it", a.pool.config().HangTimeout)
	}
	return err
}

// lost deals with the death of a worker that had read the request.
func (a *answer) lost(ctx context.Context, lost *ipc.Error) error {
	if a.lease.inc.blame {
		a.deaths++
		if a.condemn(time.Now()) {
			a.pool.log.Error("a request is poison: two workers died with it in hand; it is refused from now on", "action", a.req.Action, "trace_id", a.req.TraceID, "client_pid", a.req.Client.PID, "for", suspectTTL)
			return a.poisonous(suspectTTL)
		}
	}
	if a.begun || a.retried || !a.pool.idempotent(a.req.Action) {
		return lost
	}
	a.retried = true
	pause := time.NewTimer(retryPause(rand.Float64()))
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
		return ipc.AsError(context.Cause(ctx))
	}
	return a.send(ctx, time.Now(), true, true)
}

// condemn records that a worker has died with the request in hand, and reports whether that is one too many.
func (a *answer) condemn(now time.Time) bool {
	s, serial := &a.pool.suspects, a.lease.inc.serial
	deaths := s.died(a.identify(), serial, now)
	if a.req.NamesArenas() {
		s.died(s.kin(a.req), serial, now)
	}
	if deaths < poisonDeaths && a.returns() {
		deaths = s.died(a.identify(), 0, now) // no process has that serial: this is for the two in the arena
	}
	return max(deaths, a.deaths) >= poisonDeaths
}

// retryFirst is about how long a request waits before it is tried a second time.
const retryFirst = 50 * time.Millisecond

// retryPause spreads requests whose worker died by up to half of the pause, either way; jitter is in [0, 1).
func retryPause(jitter float64) time.Duration {
	return time.Duration(float64(retryFirst) * (0.5 + jitter))
}

// acquit clears a suspect that its worker has answered.
func (a *answer) acquit() {
	if a.pool.suspects.any() {
		a.pool.suspects.clear(a.identify())
	}
}

// finish ends the request.
func (a *answer) finish() {
	a.ended = true
	a.ctx.Cancel(context.Canceled)
}

// letGo gives up the attempt whose END has been received. What others look at, a batch or the list of errands, stays.
func (a *answer) letGo() {
	l, call := a.lease, a.call
	a.lease, a.call = nil, nil
	if l.batch == nil && l.errand == nil {
		call.Release()
	}
}

// Cancel implements [ipc.Replies].
func (a *answer) Cancel(reason string) {
	if a.ended {
		return
	}
	a.turned(false)
	a.req.Times.Done(ipc.Errorf(ipc.Cancelled, reason, "the request was cancelled"))
	a.lease.abandon(a.identify())
	a.finish()
	a.call.Cancel(reason)
}
