package trace

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/internal/moment"
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
	clock  clock
	counts counts

	changing sync.Mutex             // held by Configure and Close
	now      atomic.Pointer[policy] // what it points to is immutable
}

// policy is what is to be done with requests.
type policy struct {
	tracer *Tracer
	cfg    Config // with defaults
	sample sampler
	export *exporter // nil: spans go nowhere
}

// follows reports whether requests are to have traces, rather than only an end.
func (p *policy) follows() bool { return p.cfg.Recent > 0 || p.export != nil }

// New makes a tracer. The error is a [*FieldError], or says why the file cannot be written.
func New(cfg Config, log *slog.Logger) (*Tracer, error) {
	t := &Tracer{log: log}
	t.stats.pools.Store(&map[string]*poolStats{})
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
	next := &policy{tracer: t, cfg: cfg.withDefaults()}
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
	t.now.Store(&policy{tracer: t, cfg: p.cfg, sample: p.sample})
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
		f := &followed{policy: t.now.Load(), req: req, begin: moment.Now(), in: weight(req.Body, req.Tensors)}
		f.inner = spanContext{Context: ctx, of: f}
		if req.Pool != controlPool && f.policy.follows() {
			f.follow()
		}
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
				req.Waits() // it may have a thousand requests to tell of
				return answer()
			}
			return next(ctx, req)
		}
		c := within(ctx)
		if c == nil { // nobody follows it, such as the server's own; what it was made of may have been followed
			req.Times = nil
			return next(ctx, req)
		}
		r := c.of.reaching(c.index)
		req.Times = &r.times
		var err error
		if r.replies, err = next(bare(ctx), req); err != nil {
			return nil, err
		}
		return r, nil
	}
}

// bare returns what ctx was before spans were put around it, which end when it does. The supervisor knows the context of a call again when replies are asked for with the same; with any other it has to watch two.
func bare(ctx context.Context) context.Context {
	if c, ok := ctx.(*spanContext); ok {
		return bare(c.Context)
	}
	return ctx
}
