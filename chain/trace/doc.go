// Package trace follows requests: it is the call chain's first link, and knows when each began, which ways it took, how long each step lasted and how it ended.
//
//	request ─▶ Link ─▶ … links: Start(ctx, "cache") … End ─▶ Reach ─▶ supervisor: queue, worker (ipc.Times)
//	             │ one followed for each                       └ the worker's own spans hang below its try: trace_id
//	             ▼ at its end, a record
//	           recent ─ stats ─ access log ─ spans, if sampled ─▶ bounded queue ─▶ OTLP collector, file
//
// That is cheap (one piece of memory, no lock that others hold), so that every request has it; only of those that are sampled OpenTelemetry's spans are made, at their end, and what takes those is never waited for: where
// the queue is full they are dropped, and counted. docs/decisions/0017-tracing.md says why it is so.
//
// Read in this order: config.go, link.go (the link, and the one before the supervisor), followed.go (a request on its way), step.go (Start for other links), record.go (what is left of it), clock.go, recent.go (which records are kept), window.go and stats.go (rates and quantiles),
// access.go (the access log), then what leaves the process: otel.go (records become spans), genai.go, export.go (the queue), file.go; report.go (what people are told), control.go (who asks for it), metrics.go.
package trace
