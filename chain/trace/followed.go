package trace

import (
	"context"
	"sync"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/internal/moment"
	"github.com/ringmasterd/ringmaster/internal/traceparent"
	"github.com/ringmasterd/ringmaster/ipc"
)

const (
	maxSpans = 64  // of one request; those beyond are counted
	maxState = 512 // bytes of a tracestate; a longer one is left out, as the standard allows
)

// followed is a request on its way, and its replies: one piece of memory for what every request has. At its end a [record] is made of it. Contexts, spans and the supervisor may know it for longer, so it is not used again.
type followed struct {
	inner   spanContext // what the next link knows
	policy  *policy     // immutable
	req     *ipc.Request
	replies ipc.Replies
	begin   moment.Moment // immutable
	in, out int           // bytes
	chunks  int32         // replies before the END
	traced  bool          // immutable: it has a trace at all, rather than only an end
	sampled bool          // immutable: its spans are exported
	ended   bool
	closed  bool // guarded by mu: nothing is noted any more

	mu    sync.Mutex
	first reach  // guarded by mu: whether it is in use
	steps *steps // guarded by mu; nil: there are none
	more  *more  // immutable; nil: it has nothing of that
}

// more is what few requests have.
type more struct {
	id     [8]byte            // immutable, like those below
	trace  [16]byte           // of a request that brought it, or of whose trace somebody is told
	parent traceparent.Parent // as the request brought it
	child  traceparent.Parent // of what the request does; its span is filled in by whoever does it
	state  string             // tracestate
	usage  usage              // guarded by followed.mu
}

// steps are what links do for a request, if they say so.
type steps struct {
	spans   []span
	few     [2]span  // what spans begins with
	dropped int      // spans beyond maxSpans
	reaches []*reach // calls of the supervisor after the first
}

// reach is one call of the supervisor, and its replies.
type reach struct {
	times   ipc.Times
	replies ipc.Replies
	above   int32 // index of the span from which it was made
	used    bool
}

// Recv implements [ipc.Replies], within whatever span.
func (r *reach) Recv(ctx context.Context) (*ipc.Reply, error) { return r.replies.Recv(bare(ctx)) }

// Announce implements [ipc.Announcer].
func (r *reach) Announce(w *ipc.Responder) bool { return ipc.Announce(r.replies, w) }

// Cancel implements [ipc.Replies].
func (r *reach) Cancel(reason string) { r.replies.Cancel(reason) }

// follow makes the request part of a trace: that of its traceparent, or a new one, of which its worker is told if somebody gets to see it.
func (f *followed) follow() {
	f.traced = true
	parent, ok := traceparent.Parse(f.req.TraceID)
	if !ok && f.policy.export == nil {
		return // nobody needs to know a number before it has ended
	}
	m := &more{id: traceparent.NewSpan(), parent: parent, trace: parent.Trace}
	f.more = m
	if ok {
		f.sampled = parent.Flags&traceparent.Sampled != 0
		if state := f.req.Headers[stateHeader]; len(state) <= maxState {
			m.state = state
		}
	} else {
		m.trace = traceparent.NewTrace()
		f.sampled = f.policy.sample.takes(m.trace)
	}
	m.child = traceparent.Parent{Trace: m.trace, Span: m.id}
	if f.sampled {
		m.child.Flags = traceparent.Sampled
	}
}

// stateHeader is the header of a request that holds the W3C's tracestate.
const stateHeader = "tracestate"

// taken are the steps that were taken, or are about to be. Preconditions: mu is held.
func (f *followed) taken() *steps {
	if f.steps == nil {
		f.steps = &steps{}
		f.steps.spans = f.steps.few[:0]
	}
	return f.steps
}

// reaching notes a call of the supervisor, which is about to be made.
func (f *followed) reaching(above int32) *reach {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &f.first
	switch {
	case f.first.used || f.closed:
		r = &reach{}
		if s := f.taken(); !f.closed && len(s.reaches) < maxSpans {
			s.reaches = append(s.reaches, r)
		}
	default:
		r.used = true
	}
	r.above = above
	if m := f.more; m != nil {
		r.times.Parent = &m.child
	}
	return r
}

// Recv implements [ipc.Replies].
func (f *followed) Recv(ctx context.Context) (*ipc.Reply, error) {
	if ctx == f.inner.Context { // as it nearly always is: the context that the next link knows
		ctx = &f.inner
	}
	reply, err := f.replies.Recv(ctx)
	switch {
	case f.ended:
	case err != nil:
		f.end(ipc.AsError(err))
	default:
		f.out += weight(reply.Body, reply.Tensors)
		if f.sampled {
			f.learn(reply.Body)
		}
		if reply.End {
			f.end(nil)
		} else {
			f.chunks++
		}
	}
	return reply, err
}

// Announce implements [ipc.Announcer]. Whoever passes an END on is not to wait for the log, nor to make spans.
func (f *followed) Announce(w *ipc.Responder) bool {
	_, logged := f.policy.tracer.access.wants(f.policy.tracer.log, f.policy.cfg.Requests)
	return !f.ended && !f.sampled && !logged && ipc.Announce(f.replies, w)
}

// Cancel implements [ipc.Replies].
func (f *followed) Cancel(reason string) {
	f.replies.Cancel(reason)
	if !f.ended {
		f.end(ipc.Errorf(ipc.Cancelled, reason, "the request was cancelled"))
	}
}

// end tells of the request what there is to tell. Preconditions: the request is still ours.
func (f *followed) end(e *ipc.Error) {
	f.ended = true
	t, p := f.policy.tracer, f.policy
	control := f.req.Pool == controlPool
	level, logged := t.access.wants(t.log, p.cfg.Requests)
	if control && !logged {
		return
	}
	if logged {
		f.req.Waits() // whoever takes the log may be slow
	}
	end := moment.Now()
	now := t.clock.of(end)
	var r record
	f.finish(&r, e, end)
	r.begin = now.Add(-r.took)
	if !control {
		slow := t.stats.add(r.pool, r.took, r.attempts > 0, e != nil, now)
		if p.cfg.Recent > 0 {
			t.recent.add(&r, slow)
		}
		if r.sampled && p.export != nil {
			p.export.take(&r)
		}
	}
	if logged {
		t.access.log(t.log, level, &r, now)
	}
}

// finish makes a record of the request, of which nothing more is noted.
func (f *followed) finish(r *record, e *ipc.Error, end moment.Moment) {
	r.at, r.took = f.begin, end.Sub(f.begin)
	r.pool, r.action, r.protocol, r.principal = name(f.req.Pool, f.req.Protocol), name(f.req.Action, f.req.Protocol), f.req.Protocol, f.req.Principal
	r.client = f.req.Client
	if peer, ok := chain.PeerFrom(f.inner.Context); ok {
		r.client, r.address = ipc.Client{UID: peer.UID, PID: peer.PID}, peer.Address
	}
	r.in, r.out, r.chunks, r.outcome, r.traced, r.sampled = f.in, f.out, int(f.chunks), e, f.traced, f.sampled
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if f.first.used {
		f.first.tell(r, end)
	}
	if s := f.steps; s != nil {
		r.spans, r.dropped = s.spans, s.dropped
		for _, c := range s.reaches {
			c.tell(r, end)
		}
		for i := range r.spans {
			if s := &r.spans[i]; s.end < 0 { // of whoever still works on what nobody waits for
				s.end = r.took
			}
		}
	}
	if m := f.more; m != nil {
		r.trace, r.id, r.parent, r.state, r.usage = m.trace, m.id, m.parent, m.state, m.usage
	} else if f.traced {
		r.trace, r.id = traceparent.NewTrace(), traceparent.NewSpan()
	}
}

// tell adds what the supervisor has noted of a call to a record. Preconditions: followed.mu is held.
func (r *reach) tell(of *record, now moment.Moment) {
	last, earlier, ok := r.times.Last()
	if !ok {
		return
	}
	for i := range earlier {
		of.tried(&earlier[i], r.above, now)
	}
	of.tried(&last, r.above, now)
}
