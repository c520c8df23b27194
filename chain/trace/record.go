package trace

import (
	"context"
	"sync"
	"time"
	"unique"

	"go.opentelemetry.io/otel/attribute"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/internal/traceparent"
	"github.com/ringmasterd/ringmaster/ipc"
)

const (
	maxSpans = 64  // of one request; those beyond are counted
	maxName  = 256 // bytes of a pool's or an action's name that are kept
	maxState = 512 // bytes of a tracestate; a longer one is left out, as the standard allows
)

// record is what is noted of one request.
type record struct {
	trace    [16]byte // immutable
	parent   traceparent.Parent
	id       [8]byte // immutable: of the request's own span
	state    string  // immutable: tracestate
	sampled  bool    // immutable: its spans are exported
	traced   bool    // immutable: it has a trace at all, rather than only an end
	told     bool    // immutable: so that its worker is told of it
	begin    time.Time
	pool     string // immutable, like those below
	action   string
	protocol string
	client   ipc.Client
	address  string // of a client by TCP
	in       int    // bytes

	mu        sync.Mutex
	spans     []span   // guarded by mu; the first is the request's own
	few       [4]span  // guarded by mu: what spans begins with
	dropped   int      // guarded by mu: spans beyond maxSpans
	reaches   []*reach // guarded by mu: its calls of the supervisor
	first     reach    // the first of them, and room for it in reaches
	one       [1]*reach
	principal string        // guarded by mu: who asks, as chain/auth found out
	ended     bool          // guarded by mu; nothing changes any more
	took      time.Duration // guarded by mu
	queue     time.Duration // guarded by mu: what it waited for workers, in all
	outcome   *ipc.Error    // guarded by mu; nil: OK
	last      ipc.Try       // guarded by mu: the last try; its PID is 0 if no worker had it
	attempts  int           // guarded by mu: how many tries had a worker
	out       int           // guarded by mu: bytes
	chunks    int           // guarded by mu: replies before the END
	usage     usage         // guarded by mu
}

// span is a step on a request's way.
type span struct {
	name       string
	id         [8]byte       // zero: it needs none so far
	above      int32         // index of the span that it is part of; -1: none
	begin, end time.Duration // since the record's begin; end < 0: it lasts
	err        *ipc.Error
	attributes []attribute.KeyValue
	slot, pid  int32 // of the worker, if it is one's work
	batch      int32
}

// reach is one call of the supervisor.
type reach struct {
	times ipc.Times
	above int32 // index of the span from which it was made
}

type recordKey struct{}

// spanContext is a context within a span.
type spanContext struct {
	context.Context
	record *record
	index  int32
}

// Value implements [context.Context].
func (c *spanContext) Value(key any) any {
	if key == (recordKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// within returns the span that ctx is in; nil: none.
func within(ctx context.Context) *spanContext {
	c, _ := ctx.Value(recordKey{}).(*spanContext)
	return c
}

// Span is a step on a request's way, which whoever has started it ends. The zero value is of a request that is not followed: it does nothing.
type Span struct {
	record *record
	index  int32
}

// Start begins a step of the request that ctx belongs to, and returns a context for what is part of it, such as a call of the next link. It costs next to nothing where requests are not followed. A link writes
//
//	ctx, span := trace.Start(ctx, "cache")
//	defer func() { span.End(err) }()
func Start(ctx context.Context, name string) (context.Context, Span) {
	c := within(ctx)
	if c == nil || !c.record.traced {
		return ctx, Span{}
	}
	index := c.record.open(name, c.index)
	if index < 0 {
		return ctx, Span{}
	}
	return &spanContext{Context: ctx, record: c.record, index: index}, Span{c.record, index}
}

// On reports whether somebody will see the span, so that what is costly to find out about it is worth the while.
func (s Span) On() bool { return s.record != nil }

// Set says something about the span, under a name as OpenTelemetry has them (lower case, with dots).
func (s Span) Set(key, value string) {
	if s.record == nil {
		return
	}
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	if !s.record.ended {
		at := &s.record.spans[s.index]
		at.attributes = append(at.attributes, attribute.String(key, value))
	}
}

// End ends the span; err says that the step failed. A second end does nothing.
func (s Span) End(err error) {
	if s.record == nil {
		return
	}
	e, ours := err.(*ipc.Error) //nolint:errorlint // a nil *ipc.Error is none
	if !ours && err != nil {
		e = ipc.AsError(err)
	}
	s.record.close(s.index, e)
}

// SetPrincipal says who asks, such as "token robot", where that has been found out.
func SetPrincipal(ctx context.Context, name string) {
	if c := within(ctx); c != nil {
		c.record.mu.Lock()
		defer c.record.mu.Unlock()
		c.record.principal = name
	}
}

// ID returns the number of the trace that ctx's request is part of, in hexadecimal digits; "": it has none.
func ID(ctx context.Context) string {
	if c := within(ctx); c != nil && c.record.traced {
		return hexadecimal(c.record.trace[:])
	}
	return ""
}

// newRecord begins a record. The request is the caller's; only its size and names are kept.
func newRecord(ctx context.Context, req *ipc.Request, now time.Time) *record {
	r := &record{
		begin: now, pool: name(req.Pool, req.Protocol), action: name(req.Action, req.Protocol), protocol: req.Protocol, client: req.Client, in: weight(req.Body, req.Tensors),
	}
	if peer, ok := chain.PeerFrom(ctx); ok {
		r.client, r.address = ipc.Client{UID: peer.UID, PID: peer.PID}, peer.Address
	}
	r.spans = append(r.few[:0], span{above: -1, end: -1})
	return r
}

// native is the protocol of frames.
const native = "native"

// name is a name as a record keeps it: not a part of a larger message, as it may be if it came by any protocol but frames, where names that come again are kept apart.
func name(s, protocol string) string {
	if protocol == native && len(s) <= maxName {
		return s
	}
	return unique.Make(s[:min(len(s), maxName)]).Value()
}

// weight is how many bytes a message's contents have.
func weight(body ipc.Body, tensors []ipc.Tensor) int {
	n := uint64(len(body))
	for i := range tensors {
		n += tensors[i].Size()
	}
	return int(n)
}

// follow makes the request part of a trace: that of its traceparent, or a new one, of which its worker is told if somebody gets to see it.
func (r *record) follow(req *ipc.Request, sample sampler, exported bool) {
	r.traced, r.told = true, exported
	var ok bool
	if r.parent, ok = traceparent.Parse(req.TraceID); ok {
		r.told = true
		r.trace, r.sampled = r.parent.Trace, r.parent.Flags&traceparent.Sampled != 0
		if state := req.Headers[stateHeader]; len(state) <= maxState {
			r.state = state
		}
	} else {
		r.trace = traceparent.NewTrace()
		r.sampled = sample.takes(r.trace)
	}
	r.id = traceparent.NewSpan()
	r.spans[0].id = r.id
}

// stateHeader is the header of a request that holds the W3C's tracestate.
const stateHeader = "tracestate"

// child is the traceparent of what the request does; its span is filled in by whoever does it.
func (r *record) child() traceparent.Parent {
	if !r.told {
		return traceparent.Parent{}
	}
	p := traceparent.Parent{Trace: r.trace, Span: r.id}
	if r.sampled {
		p.Flags = traceparent.Sampled
	}
	return p
}

// open begins a span and returns its index; -1: there are too many, or the request has ended.
func (r *record) open(name string, above int32) int32 {
	at := time.Since(r.begin)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.add(span{name: name, above: above, begin: at, end: -1})
}

// add adds a span. Preconditions: mu is held.
func (r *record) add(s span) int32 {
	switch {
	case r.ended:
		return -1
	case len(r.spans) >= maxSpans:
		r.dropped++
		return -1
	}
	r.spans = append(r.spans, s)
	return int32(len(r.spans) - 1)
}

func (r *record) close(index int32, e *ipc.Error) {
	at := time.Since(r.begin)
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := &r.spans[index]; !r.ended && s.end < 0 {
		s.end, s.err = at, e
	}
}

// reaching notes a call of the supervisor, which is about to be made.
func (r *record) reaching(above int32) *reach {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &r.first
	if r.reaches != nil || r.ended {
		c = new(reach)
	} else {
		r.reaches = r.one[:0]
	}
	c.above = above
	c.times.Parent = r.child()
	if !r.ended && len(r.reaches) < maxSpans {
		r.reaches = append(r.reaches, c)
	}
	return c
}

// finish ends the record, with how the request ended.
func (r *record) finish(e *ipc.Error, out, chunks int, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.took, r.outcome, r.out, r.chunks = now.Sub(r.begin), e, out, chunks
	var several [4]ipc.Try
	for _, c := range r.reaches {
		for _, try := range c.times.Tries(several[:0]) {
			r.tried(c.above, try, now)
		}
	}
	for i := range r.spans {
		if r.spans[i].end < 0 { // the request's own, and those of whoever still works on what nobody waits for
			r.spans[i].end = r.took
		}
	}
	r.spans[0].err = e
	r.ended, r.reaches = true, nil
}

// tried makes spans of a try: its wait, and the worker's work. Preconditions: mu is held.
func (r *record) tried(above int32, try ipc.Try, now time.Time) {
	end := try.End
	if end.IsZero() {
		end = now
	}
	sent := try.Sent
	if sent.IsZero() {
		sent = end
	}
	r.queue += sent.Sub(try.Begin)
	queue := span{name: "queue", above: above, begin: try.Begin.Sub(r.begin), end: sent.Sub(r.begin)}
	if try.Sent.IsZero() {
		queue.err = try.Err
		r.add(queue)
		return
	}
	r.last = try
	r.attempts++
	r.add(queue)
	work := span{name: "worker", id: try.Span, above: above, begin: sent.Sub(r.begin), end: end.Sub(r.begin), err: try.Err, slot: int32(try.Slot), pid: int32(try.PID), batch: int32(try.Batch)}
	if !try.First.IsZero() && r.chunks > 0 {
		work.attributes = []attribute.KeyValue{attribute.Float64("ringmaster.first_reply_ms", milliseconds(try.First.Sub(sent)))}
	}
	r.add(work)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
