package trace

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/codes"
	otel "go.opentelemetry.io/otel/trace"

	"github.com/ringmasterd/ringmaster/ipc"
)

// emit makes OpenTelemetry's spans of a record.
func (r *record) emit(tracer otel.Tracer) {
	from := r.remote(context.Background())
	spans := r.all()
	made := make([]otel.Span, len(spans))
	for i := range spans {
		s := &spans[i]
		within, kind := from, otel.SpanKindServer
		if s.above >= 0 {
			within, kind = otel.ContextWithSpan(context.Background(), made[s.above]), otel.SpanKindInternal
		}
		if s.worker {
			kind = otel.SpanKindClient
		}
		numbered := context.WithValue(within, givenKey{}, given{r.trace, s.id})
		_, made[i] = tracer.Start(numbered, s.name, otel.WithTimestamp(r.begin.Add(s.begin)), otel.WithSpanKind(kind), otel.WithAttributes(s.attributes...))
		if s.err != nil {
			made[i].SetStatus(codes.Error, s.err.Error())
		}
	}
	for i := len(made) - 1; i >= 0; i-- {
		made[i].End(otel.WithTimestamp(r.begin.Add(spans[i].end)))
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

// instant is a time as it is told.
func instant(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }
