package trace

import (
	"context"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	otel "go.opentelemetry.io/otel/trace"

	"github.com/ringmasterd/ringmaster/internal/traceparent"
	"github.com/ringmasterd/ringmaster/ipc"
)

// emit makes OpenTelemetry's spans of a record that has ended.
func (r *record) emit(tracer otel.Tracer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	from := r.remote(context.Background())
	made := make([]otel.Span, len(r.spans))
	for i := range r.spans {
		s := &r.spans[i]
		within, kind := from, otel.SpanKindServer
		if s.above >= 0 {
			within, kind = otel.ContextWithSpan(context.Background(), made[s.above]), otel.SpanKindInternal
		}
		if s.pid != 0 {
			kind = otel.SpanKindClient
		}
		if s.id == ([8]byte{}) {
			s.id = traceparent.NewSpan()
		}
		numbered := context.WithValue(within, givenKey{}, given{r.trace, s.id})
		_, made[i] = tracer.Start(numbered, r.nameOf(i), otel.WithTimestamp(r.begin.Add(s.begin)), otel.WithSpanKind(kind), otel.WithAttributes(r.attributes(i)...))
		if s.err != nil {
			made[i].SetStatus(codes.Error, s.err.Error())
		}
	}
	for i := len(made) - 1; i >= 0; i-- {
		made[i].End(otel.WithTimestamp(r.begin.Add(r.spans[i].end)))
	}
}

// remote puts into ctx the span that the request came from, if it said so.
func (r *record) remote(ctx context.Context) context.Context {
	if !r.parent.Valid() {
		return ctx
	}
	state, err := otel.ParseTraceState(r.state)
	if err != nil {
		state = otel.TraceState{} // the standard: it counts as none
	}
	return otel.ContextWithRemoteSpanContext(ctx, otel.NewSpanContext(otel.SpanContextConfig{
		TraceID: r.trace, SpanID: r.parent.Span, TraceFlags: otel.FlagsSampled, TraceState: state, Remote: true,
	}))
}

// nameOf is the name of the i'th span. Preconditions: mu is held, like for those below.
func (r *record) nameOf(i int) string {
	if i == 0 {
		return r.title()
	}
	return r.spans[i].name
}

// attributes are the i'th span's.
func (r *record) attributes(i int) []attribute.KeyValue {
	s := &r.spans[i]
	list := s.attributes[:len(s.attributes):len(s.attributes)]
	if s.err != nil {
		list = append(list, attribute.String("error.type", string(s.err.Code)), attribute.String("ringmaster.reason", s.err.Reason))
	}
	if s.pid != 0 {
		list = append(list, attribute.Int64("ringmaster.worker.slot", int64(s.slot)), attribute.Int64("ringmaster.worker.pid", int64(s.pid)))
	}
	if s.batch > 0 {
		list = append(list, attribute.Int64("ringmaster.batch.size", int64(s.batch)))
	}
	if i > 0 {
		return list
	}
	list = append(list,
		attribute.String("ringmaster.pool", r.pool), attribute.String("ringmaster.action", r.action), attribute.String("ringmaster.protocol", r.protocol),
		attribute.Int64("ringmaster.bytes_in", int64(r.in)), attribute.Int64("ringmaster.bytes_out", int64(r.out)), attribute.Float64("ringmaster.queue_ms", milliseconds(r.queue)))
	if r.address != "" {
		list = append(list, attribute.String("client.address", r.address))
	} else {
		list = append(list, attribute.Int64("ringmaster.client.uid", int64(r.client.UID)), attribute.Int64("ringmaster.client.pid", int64(r.client.PID)))
	}
	if r.chunks > 0 {
		list = append(list, attribute.Int64("ringmaster.chunks", int64(r.chunks)))
	}
	if r.principal != "" {
		list = append(list, attribute.String("ringmaster.principal", r.principal))
	}
	if r.dropped > 0 {
		list = append(list, attribute.String("ringmaster.spans_left_out", strconv.Itoa(r.dropped)))
	}
	return append(list, r.generative()...)
}

// given are the numbers that a span is to have: a worker has been told them already.
type given struct {
	trace [16]byte
	span  [8]byte
}

type givenKey struct{}

// numbers is the generator of spans' numbers: it takes those that the context gives.
type numbers struct{}

// NewIDs implements sdk/trace's IDGenerator.
func (numbers) NewIDs(ctx context.Context) (otel.TraceID, otel.SpanID) {
	g := ctx.Value(givenKey{}).(given)
	return g.trace, g.span
}

// NewSpanID implements sdk/trace's IDGenerator.
func (numbers) NewSpanID(ctx context.Context, _ otel.TraceID) otel.SpanID {
	return ctx.Value(givenKey{}).(given).span
}

// outcomeOf is an error in a few words.
func outcomeOf(e *ipc.Error) string {
	if e == nil {
		return "OK"
	}
	return string(e.Code) + "/" + e.Reason
}

// moment is a time as it is told.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }
