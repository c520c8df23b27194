package worker

import (
	"context"

	"go.opentelemetry.io/otel/trace"

	"github.com/ringmasterd/ringmaster/internal/traceparent"
)

// maxState is how long a tracestate may be, in bytes, that the standard has everybody pass on.
const maxState = 512

// traced returns a context in which OpenTelemetry's spans are below the one that the request came from, where it says so.
func traced(ctx context.Context, req *Request) context.Context {
	parent, ok := traceparent.Parse(req.TraceID)
	if !ok {
		return ctx
	}
	cfg := trace.SpanContextConfig{TraceID: parent.Trace, SpanID: parent.Span, TraceFlags: trace.TraceFlags(parent.Flags), Remote: true}
	if state := req.Headers["tracestate"]; state != "" && len(state) <= maxState {
		cfg.TraceState, _ = trace.ParseTraceState(state) // a bad one counts as none
	}
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(cfg))
}
