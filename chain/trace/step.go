package trace

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/ringmasterd/ringmaster/internal/moment"
	"github.com/ringmasterd/ringmaster/ipc"
)

// span is a step on a request's way.
type span struct {
	name       string
	id         [8]byte       // zero: one is made of the request's
	above      int32         // index of the span that it is part of, 0 for the request's own; -1: none
	begin, end time.Duration // since the request's begin; end < 0: it lasts
	err        *ipc.Error
	worker     bool // it is a worker's work
	attributes []attribute.KeyValue
}

type followedKey struct{}

// spanContext is a context within a span.
type spanContext struct {
	context.Context
	of    *followed
	index int32
}

// Value implements [context.Context].
func (c *spanContext) Value(key any) any {
	if key == (followedKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// within returns the span that ctx is in; nil: none.
func within(ctx context.Context) *spanContext {
	if c, ok := ctx.(*spanContext); ok {
		return c
	}
	c, _ := ctx.Value(followedKey{}).(*spanContext)
	return c
}

// Span is a step on a request's way, which whoever has started it ends. The zero value is of a request that is not followed: it does nothing.
type Span struct {
	of    *followed
	index int32 // of the request's spans; the first is its own, and nobody's to end
}

// Start begins a step of the request that ctx belongs to, and returns a context for what is part of it, such as a call of the next link. It costs next to nothing where requests are not followed. A link writes
//
//	ctx, span := trace.Start(ctx, "cache")
//	defer func() { span.End(err) }()
func Start(ctx context.Context, name string) (context.Context, Span) {
	s := Begin(ctx, name)
	if s.of == nil {
		return ctx, s
	}
	return &spanContext{Context: ctx, of: s.of, index: s.index}, s
}

// Begin is [Start] for a step that nothing is part of.
func Begin(ctx context.Context, name string) Span {
	c := within(ctx)
	if c == nil || !c.of.traced {
		return Span{}
	}
	index := c.of.open(name, c.index)
	if index < 0 {
		return Span{}
	}
	return Span{c.of, index}
}

// On reports whether somebody will see the span, so that what is costly to find out about it is worth the while.
func (s Span) On() bool { return s.of != nil }

// Set says something about the span, under a name as OpenTelemetry has them (lower case, with dots).
func (s Span) Set(key, value string) {
	if s.of == nil {
		return
	}
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	s.set(key, value)
}

// SetPool says which pool the step asks, unless that is the request's own.
func (s Span) SetPool(name string) {
	if s.of == nil {
		return
	}
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	if !s.of.closed && name != s.of.req.Pool {
		s.set("ringmaster.pool", name)
	}
}

// set says something about the span. Preconditions: mu is held.
func (s Span) set(key, value string) {
	if !s.of.closed {
		at := s.of.steps.span(s.index)
		at.attributes = append(at.attributes, attribute.String(key, value))
	}
}

// End ends the span; err says that the step failed. A second end does nothing.
func (s Span) End(err error) {
	if s.of == nil {
		return
	}
	e, ours := err.(*ipc.Error) //nolint:errorlint // a nil *ipc.Error is none
	if !ours && err != nil {
		e = ipc.AsError(err)
	}
	s.of.close(s.index, e)
}

// open begins a span and returns its index; -1: there are too many, or the request has ended.
func (f *followed) open(name string, above int32) int32 {
	at := moment.Now().Sub(f.begin)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return -1
	}
	s := f.taken()
	if len(s.spans) >= maxSpans-1 {
		s.dropped++
		return -1
	}
	s.spans = append(s.spans, span{name: name, above: above, begin: at, end: -1})
	return int32(len(s.spans))
}

// span returns the span of an index, which is not the request's own. Preconditions: followed.mu is held.
func (s *steps) span(index int32) *span { return &s.spans[index-1] }

func (f *followed) close(index int32, e *ipc.Error) {
	at := moment.Now().Sub(f.begin)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	if s := f.steps.span(index); s.end < 0 {
		s.end, s.err = at, e
	}
}
