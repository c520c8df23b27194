package trace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	otel "go.opentelemetry.io/otel/trace"

	"github.com/ringmasterd/ringmaster/internal/version"
)

const (
	maxPending   = 4096             // spans that wait for one of the takers; more are dropped
	maxBatch     = 512              // that are sent at once
	batchEvery   = time.Second      // how long a span waits for others
	sendTimeout  = 5 * time.Second  // for one batch
	closeTimeout = 2 * time.Second  // for all that is left at the end
	complainOnce = 30 * time.Second // how often it is logged that a taker fails
)

// counts are of all spans that were to be exported, once for each taker.
type counts struct{ sent, dropped, failed atomic.Uint64 }

// exporter makes spans of records, and gives them to whoever takes them.
type exporter struct {
	provider *sdk.TracerProvider
	tracer   otel.Tracer
}

// newExporter makes one with the takers that cfg names.
func newExporter(cfg Config, counts *counts, log *slog.Logger) (*exporter, error) {
	options := []sdk.TracerProviderOption{sdk.WithSampler(sdk.AlwaysSample()), sdk.WithIDGenerator(numbers{}), sdk.WithResource(self())}
	add := func(name string, to sdk.SpanExporter) {
		q := &queue{to: to, name: name, counts: counts, log: log}
		q.SpanProcessor = sdk.NewBatchSpanProcessor(q, sdk.WithMaxQueueSize(maxPending), sdk.WithMaxExportBatchSize(maxBatch), sdk.WithBatchTimeout(batchEvery), sdk.WithExportTimeout(sendTimeout))
		options = append(options, sdk.WithSpanProcessor(q))
	}
	var file *lines
	if cfg.File != "" {
		var err error
		if file, err = openLines(cfg.File); err != nil {
			return nil, err
		}
	}
	if cfg.OTLP != "" {
		to, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(tracesURL(cfg.OTLP)), otlptracehttp.WithTimeout(sendTimeout),
			otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: 500 * time.Millisecond, MaxInterval: time.Second, MaxElapsedTime: sendTimeout}))
		if err != nil {
			err = fmt.Errorf("tracing.otlp %s: %w", cfg.OTLP, err)
			if file != nil {
				err = errors.Join(err, file.Shutdown(context.Background()))
			}
			return nil, err
		}
		add(cfg.OTLP, to)
	}
	if file != nil {
		add(cfg.File, file)
	}
	provider := sdk.NewTracerProvider(options...)
	return &exporter{provider: provider, tracer: provider.Tracer("github.com/ringmasterd/ringmaster", otel.WithInstrumentationVersion(version.Version))}, nil
}

// tracesURL is where a collector takes traces: /v1/traces, unless the URL has a path of its own.
func tracesURL(base string) string {
	u, err := url.Parse(base)
	if err != nil || u.Path != "" && u.Path != "/" {
		return base
	}
	return u.JoinPath("v1/traces").String()
}

// self describes this process, with what OTEL_RESOURCE_ATTRIBUTES adds.
func self() *resource.Resource {
	host, _ := os.Hostname() // "" will do
	ours := resource.NewSchemaless(
		attribute.String("service.name", "ringmaster"), attribute.String("service.version", version.Version), attribute.String("host.name", host), attribute.Int("process.pid", os.Getpid()),
	)
	if merged, err := resource.Merge(ours, resource.Environment()); err == nil {
		return merged
	}
	return ours
}

// take exports a record that has ended. It does not wait.
func (x *exporter) take(r *record) { r.emit(x.tracer) }

// close sends what is left, for a short while.
func (x *exporter) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := x.provider.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("end tracing: %w", err)
	}
	return nil
}

// queue is what waits for one taker: OpenTelemetry's batch processor, whose bound it holds itself, so that what is dropped is counted.
type queue struct {
	sdk.SpanProcessor
	to        sdk.SpanExporter
	name      string
	counts    *counts
	log       *slog.Logger
	pending   atomic.Int64
	closing   atomic.Bool  // the processor has been told to end
	complains atomic.Int64 // when it may be logged again that it fails, in Unix nanoseconds
}

// OnEnd takes a span, or drops it.
func (q *queue) OnEnd(s sdk.ReadOnlySpan) {
	if q.pending.Add(1) > maxPending {
		q.pending.Add(-1)
		q.counts.dropped.Add(1)
		return
	}
	q.SpanProcessor.OnEnd(s)
}

// ExportSpans gives spans to the taker. What that does not take is counted and logged: nobody waits for it.
func (q *queue) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := q.to.ExportSpans(ctx, spans)
	q.pending.Add(-int64(len(spans)))
	if err == nil {
		q.counts.sent.Add(uint64(len(spans)))
		return nil
	}
	q.counts.failed.Add(uint64(len(spans)))
	now := time.Now()
	if due := q.complains.Load(); now.UnixNano() >= due && q.complains.CompareAndSwap(due, now.Add(complainOnce).UnixNano()) {
		q.log.Warn("spans cannot be exported and are lost; requests go on", "to", q.name, "spans", len(spans), "error", err)
	}
	return nil
}

// Shutdown ends both the processor and the taker; the processor calls it, too, to end what it exports to.
func (q *queue) Shutdown(ctx context.Context) error {
	if q.closing.Swap(true) {
		return q.to.Shutdown(ctx)
	}
	return q.SpanProcessor.Shutdown(ctx)
}
