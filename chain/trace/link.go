package trace

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// controlPool is the server itself, whose requests are logged and nothing else.
const controlPool = "ringmaster"

// Tracer follows requests.
type Tracer struct {
	log    *slog.Logger // immutable
	stats  stats
	recent recent
	access access
	counts counts

	changing sync.Mutex             // held by Configure and Close
	now      atomic.Pointer[policy] // what it points to is immutable
}

// policy is what is to be done with requests.
type policy struct {
	cfg    Config // with defaults
	sample sampler
	export *exporter // nil: spans go nowhere
}

// follows reports whether requests are to have traces, rather than only an end.
func (p *policy) follows() bool { return p.cfg.Recent > 0 || p.export != nil }

// New makes a tracer. The error is a [*FieldError], or says why the file cannot be written.
func New(cfg Config, log *slog.Logger) (*Tracer, error) {
	t := &Tracer{log: log}
	t.stats.pools = map[string]*poolStats{}
	return t, t.Configure(cfg)
}

// Configure takes a new configuration; an error changes nothing. What it remembers stays, as far as there is room.
func (t *Tracer) Configure(cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	t.changing.Lock()
	defer t.changing.Unlock()
	old := t.now.Load()
	next := &policy{cfg: cfg.withDefaults()}
	next.sample = newSampler(next.cfg.Sample)
	switch {
	case cfg.OTLP == "" && cfg.File == "":
	case old != nil && old.export != nil && old.cfg.OTLP == cfg.OTLP && old.cfg.File == cfg.File:
		next.export = old.export
	default:
		var err error
		if next.export, err = newExporter(next.cfg, &t.counts, t.log); err != nil {
			return err
		}
	}
	t.recent.resize(next.cfg.Recent)
	t.now.Store(next)
	if old != nil && old.export != nil && old.export != next.export {
		return old.export.close()
	}
	return nil
}

// Close sends what is still to be sent, for a short while. Preconditions: no request is in the chain.
func (t *Tracer) Close() error {
	t.changing.Lock()
	defer t.changing.Unlock()
	p := t.now.Load()
	if p.export == nil {
		return nil
	}
	t.now.Store(&policy{cfg: p.cfg, sample: p.sample})
	return p.export.close()
}

// sampler decides which traces that begin here are exported: by the trace's number, so that others who see it decide alike.
type sampler uint64

func newSampler(part float64) sampler {
	if part >= 1 {
		return math.MaxUint64
	}
	return sampler(part * (1 << 63))
}

// takes is OpenTelemetry's TraceIDRatioBased.
func (s sampler) takes(trace [16]byte) bool {
	return s == math.MaxUint64 || binary.BigEndian.Uint64(trace[8:])>>1 < uint64(s)
}

// Link is the link for the beginning of the chain: what comes after it is part of the request that it follows.
func (t *Tracer) Link(next chain.Handler) chain.Handler {
	return func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		p := t.now.Load()
		r := newRecord(ctx, req, time.Now())
		if req.Pool != controlPool && p.follows() {
			r.follow(req, p.sample, p.export != nil)
		}
		f := &followed{tracer: t, policy: p, record: r, outer: ctx, inner: spanContext{Context: ctx, record: r}}
		var err error
		if f.replies, err = next(&f.inner, req); err != nil {
			f.end(ipc.AsError(err))
			return nil, err
		}
		return f, nil
	}
}

// Reach is the link for the end of the chain: before the supervisor, which it has note what happens, and for which it answers what it knows itself.
func (t *Tracer) Reach(next chain.Handler) chain.Handler {
	return func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		if req.Pool == controlPool {
			if answer := t.control(req); answer != nil {
				return answer()
			}
			return next(ctx, req)
		}
		c := within(ctx)
		if c == nil { // nobody follows it, such as the server's own; what it was made of may have been followed
			req.Times = nil
			return next(ctx, req)
		}
		req.Times = &c.record.reaching(c.index).times
		replies, err := next(bare(ctx), req)
		if err != nil {
			return nil, err
		}
		return reached{replies}, nil
	}
}

// bare returns what ctx was before spans were put around it, which end when it does. The supervisor knows the context of a call again when replies are asked for with the same; with any other it has to watch two.
func bare(ctx context.Context) context.Context {
	if c, ok := ctx.(*spanContext); ok {
		return bare(c.Context)
	}
	return ctx
}

// reached are replies that are asked for within whatever span.
type reached struct{ ipc.Replies }

// Recv implements [ipc.Replies].
func (r reached) Recv(ctx context.Context) (*ipc.Reply, error) { return r.Replies.Recv(bare(ctx)) }

// followed watches a request's replies for its end.
type followed struct {
	tracer      *Tracer
	policy      *policy
	record      *record
	replies     ipc.Replies
	outer       context.Context
	inner       spanContext
	out, chunks int
	ended       bool
}

// Recv implements [ipc.Replies].
func (f *followed) Recv(ctx context.Context) (*ipc.Reply, error) {
	if ctx == f.outer { // as it nearly always is: the context that the next link knows
		ctx = &f.inner
	}
	reply, err := f.replies.Recv(ctx)
	switch {
	case f.ended:
	case err != nil:
		f.end(ipc.AsError(err))
	default:
		f.out += weight(reply.Body, reply.Tensors)
		if f.record.sampled {
			f.record.learn(reply.Body)
		}
		if reply.End {
			f.end(nil)
		} else {
			f.chunks++
		}
	}
	return reply, err
}

// Cancel implements [ipc.Replies].
func (f *followed) Cancel(reason string) {
	f.replies.Cancel(reason)
	if !f.ended {
		f.end(ipc.Errorf(ipc.Cancelled, reason, "the request was cancelled"))
	}
}

func (f *followed) end(e *ipc.Error) {
	f.ended = true
	now := time.Now()
	r := f.record
	r.finish(e, f.out, f.chunks, now)
	if r.pool != controlPool {
		slow := f.tracer.stats.add(r.pool, r.took, r.last.PID != 0, e != nil, now)
		if f.policy.cfg.Recent > 0 {
			f.tracer.recent.add(r, slow)
		}
		if r.sampled && f.policy.export != nil {
			f.policy.export.take(r)
		}
	}
	f.tracer.access.log(f.tracer.log, f.policy.cfg.Requests, r, now)
}
