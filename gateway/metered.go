package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/internal/moment"
	"github.com/ringmasterd/ringmaster/ipc"
)

// buckets are upper bounds in seconds: from a request that finds a free worker to one that loads a model first.
var buckets = []float64{.0001, .0005, .001, .005, .01, .05, .1, .5, 1, 5, 10, 30, 60, 300}

// meters count what the call chain does. Only names that exist become labels: of pools that have taken a request or are in the supervisor's status, of actions that have replied or are there. All
// others count as "", so that no client can make us keep what it invents.
type meters struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec   // pool, action, code
	queue    *prometheus.HistogramVec // pool
	compute  *prometheus.HistogramVec // pool, action
	sent     *prometheus.CounterVec   // pool
	received *prometheus.CounterVec   // pool
	known    sync.Map                 // of metered → *series; one of a pool alone has no action
	others   func() *series           // of what is not known
	names    atomic.Int64             // in known, or refused there
}

// metered is whose requests are counted together.
type metered struct{ pool, action string }

// series are the counters of a pool and an action, found once: to look each up by its labels would be a tenth of a small request's cost.
type series struct {
	metered
	ok             func() prometheus.Counter // of requests; it is there once it has counted
	queue          prometheus.Observer
	compute        func() prometheus.Observer
	sent, received prometheus.Counter
}

func (m *meters) series(of metered) *series {
	return &series{
		metered: of, queue: m.queue.WithLabelValues(of.pool), sent: m.sent.WithLabelValues(of.pool), received: m.received.WithLabelValues(of.pool),
		ok:      sync.OnceValue(func() prometheus.Counter { return m.requests.WithLabelValues(of.pool, of.action, "OK") }),
		compute: sync.OnceValue(func() prometheus.Observer { return m.compute.WithLabelValues(of.pool, of.action) }),
	}
}

func newMeters(others ...prometheus.Collector) *meters {
	m := &meters{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ringmaster_requests_total", Help: "Requests that have ended, by outcome: OK, or the code of the error."}, []string{"pool", "action", "code"}),
		queue:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "ringmaster_request_queue_seconds", Help: "How long requests waited for a worker.", Buckets: buckets}, []string{"pool"}),
		compute:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "ringmaster_request_compute_seconds", Help: "How long requests took from when a worker had them to their end.", Buckets: buckets}, []string{"pool", "action"}),
		received: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ringmaster_request_bytes_total", Help: "Bytes of the bodies and tensors of requests that went to a worker."}, []string{"pool"}),
		sent:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ringmaster_reply_bytes_total", Help: "Bytes of the bodies and tensors of replies."}, []string{"pool"}),
	}
	m.others = sync.OnceValue(func() *series { return m.series(metered{}) })
	m.registry.MustRegister(m.requests, m.queue, m.compute, m.sent, m.received, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(others...)
	return m
}

// maxNames and maxNameBytes bound the pools and actions that have labels of their own. Workers name their actions themselves, and may lie.
const maxNames, maxNameBytes = 4096, 256

// learn makes names known, but for those that Prometheus would not take.
func (m *meters) learn(pool, action string) {
	for _, name := range []metered{{pool: pool}, {pool, action}} {
		if _, known := m.known.Load(name); known || !nameable(pool) || !nameable(action) {
			continue
		}
		if m.names.Add(1) <= maxNames {
			m.known.LoadOrStore(name, m.series(name))
		}
	}
}

func nameable(s string) bool { return len(s) <= maxNameBytes && utf8.ValidString(s) }

// of returns the counters of a pool and an action, as far as these are known.
func (m *meters) of(pool, action string) *series {
	for _, name := range []metered{{pool, action}, {pool: pool}} {
		if s, known := m.known.Load(name); known {
			return s.(*series)
		}
	}
	return m.others()
}

// link counts every request and its replies. Those to the server itself are not counted.
func (m *meters) link(next chain.Handler) chain.Handler {
	return func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		if req.Pool == controlPool {
			return next(ctx, req)
		}
		begin := moment.Now()
		r := &meteredReplies{meters: m, pool: req.Pool, action: req.Action}
		size := weight(req.Body, req.Tensors) // the request is not ours afterwards
		var err error
		if r.Replies, err = next(ctx, req); err != nil {
			r.refused(ipc.AsError(err))
			return nil, err
		}
		r.begin = moment.Now()
		if r.counts = m.of(r.pool, r.action); r.counts.pool != r.pool {
			m.learn(r.pool, "")
			r.counts = m.of(r.pool, r.action)
		}
		r.counts.queue.Observe(r.begin.Sub(begin).Seconds())
		r.counts.received.Add(size)
		return r, nil
	}
}

// weight is how many bytes a message's contents have.
func weight(body ipc.Body, tensors []ipc.Tensor) float64 {
	n := uint64(len(body))
	for i := range tensors {
		n += tensors[i].Size()
	}
	return float64(n)
}

// meteredReplies watches a request's replies for its end.
type meteredReplies struct {
	ipc.Replies
	meters       *meters
	pool, action string
	begin        moment.Moment // when a worker had the request
	counts       *series       // once a worker had it
	ended        bool
}

// Recv implements [ipc.Replies].
func (r *meteredReplies) Recv(ctx context.Context) (*ipc.Reply, error) {
	reply, err := r.Replies.Recv(ctx)
	switch {
	case r.ended:
	case err != nil:
		e := ipc.AsError(err)
		if e.Reason == "handler" || e.Reason == "invalid_argument" { // the action itself says so
			r.learn()
		}
		r.end(e)
	default:
		r.learn()
		r.counts.sent.Add(weight(reply.Body, reply.Tensors))
		if reply.End {
			r.end(nil)
		}
	}
	return reply, err
}

// Announce implements [ipc.Announcer].
func (r *meteredReplies) Announce(w *ipc.Responder) bool { return ipc.Announce(r.Replies, w) }

// Cancel implements [ipc.Replies].
func (r *meteredReplies) Cancel(reason string) {
	r.Replies.Cancel(reason)
	if !r.ended {
		r.end(ipc.Errorf(ipc.Cancelled, reason, "the request was cancelled"))
	}
}

// learn makes the action known, which has been found to exist.
func (r *meteredReplies) learn() {
	if r.counts.action != r.action {
		r.meters.learn(r.pool, r.action)
		r.counts = r.meters.of(r.pool, r.action)
	}
}

// end counts the request with its outcome; nil is OK.
func (r *meteredReplies) end(e *ipc.Error) {
	r.ended = true
	r.refused(e)
	r.counts.compute().Observe(moment.Now().Sub(r.begin).Seconds())
}

// refused counts a request that has ended, perhaps before any worker had it.
func (r *meteredReplies) refused(e *ipc.Error) {
	counts := r.counts
	if counts == nil {
		counts = r.meters.of(r.pool, r.action)
	}
	if e == nil {
		counts.ok().Inc()
		return
	}
	code := string(e.Code)
	if rpcCode[e.Code] == 0 { // a worker may send any
		code = "UNKNOWN"
	}
	r.meters.requests.WithLabelValues(counts.pool, counts.action, code).Inc()
}
