package trace

import (
	"encoding/binary"
	"strconv"
	"time"
	"unique"

	"go.opentelemetry.io/otel/attribute"

	"github.com/ringmasterd/ringmaster/internal/moment"
	"github.com/ringmasterd/ringmaster/internal/traceparent"
	"github.com/ringmasterd/ringmaster/ipc"
)

// maxName is how much is kept of a pool's or an action's name, in bytes.
const maxName = 256

// record is what is remembered of a request that has ended: a value, of which nothing changes any more, nor what it refers to.
type record struct {
	trace     [16]byte
	id        [8]byte // of the request's own span
	parent    traceparent.Parent
	traced    bool // it has a trace at all, rather than only an end
	sampled   bool // its spans are exported
	begin     time.Time
	at        moment.Moment // begin, as tries have their times
	took      time.Duration
	queue     time.Duration // what it waited for workers, in all
	pool      string
	action    string
	protocol  string
	principal string // who asked, as chain/auth found out
	client    ipc.Client
	address   string     // of a client by TCP
	in, out   int        // bytes
	chunks    int        // replies before the END
	outcome   *ipc.Error // nil: OK
	attempts  int        // how many tries had a worker
	state     string     // tracestate
	spans     []span     // those of links, after the request's own, which is not here
	dropped   int        // spans beyond maxSpans
	tries     int        // how many first and others are
	last      int        // of them the last that had a worker
	first     attempt
	others    []attempt
	usage     usage
}

// attempt is a try, and of which span it is part.
type attempt struct {
	ipc.Try
	above int32
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

// tried adds a try.
func (r *record) tried(try *ipc.Try, above int32, now moment.Moment) {
	if r.tries > maxSpans {
		r.dropped += 2
		return
	}
	a := &r.first
	if r.tries > 0 {
		r.others = append(r.others, attempt{})
		a = &r.others[len(r.others)-1]
	}
	a.Try, a.above = *try, above
	if a.End == 0 {
		a.End = now
	}
	sent := a.Sent
	if sent == 0 {
		sent = a.End
	} else {
		r.attempts++
		r.last = r.tries
	}
	r.queue += sent.Sub(a.Begin)
	r.tries++
}

// try returns the i'th try.
func (r *record) try(i int) *attempt {
	if i == 0 {
		return &r.first
	}
	return &r.others[i-1]
}

// all are the spans of the request, complete: its own, the links', and two for each try: its wait, and the worker's work. Each stands after what it is part of.
func (r *record) all() []span {
	list := make([]span, 0, 1+len(r.spans)+2*r.tries)
	list = append(list, span{name: r.title(), id: r.id, above: -1, end: r.took, err: r.outcome})
	list = append(list, r.spans...)
	for i := range r.tries {
		t := r.try(i)
		queue := span{name: "queue", above: t.above, begin: t.Begin.Sub(r.at), end: t.End.Sub(r.at)}
		if t.Sent == 0 {
			queue.err = t.Err
			list = append(list, queue)
			continue
		}
		queue.end = t.Sent.Sub(r.at)
		list = append(list, queue, span{name: "worker", worker: true, id: t.Span, above: t.above, begin: queue.end, end: t.End.Sub(r.at), err: t.Err, attributes: r.work(t)})
	}
	dropped := r.dropped + max(0, len(list)-maxSpans)
	list = list[:min(len(list), maxSpans)]
	list[0].attributes = r.attributes(dropped)
	for i := range list {
		s := &list[i]
		if s.id == ([8]byte{}) {
			s.id = r.numbered(i)
		}
		if s.err != nil {
			s.attributes = append(s.attributes[:len(s.attributes):len(s.attributes)], attribute.String("error.type", string(s.err.Code)), attribute.String("ringmaster.reason", s.err.Reason))
		}
	}
	return list
}

// numbered is the number of the i'th span, which nobody was told: the same whenever somebody looks.
func (r *record) numbered(i int) (id [8]byte) {
	const odd = 0x9e3779b97f4a7c15
	binary.BigEndian.PutUint64(id[:], binary.BigEndian.Uint64(r.id[:])^uint64(i)*odd)
	return id
}

// work are the attributes of a worker's span.
func (r *record) work(t *attempt) []attribute.KeyValue {
	list := []attribute.KeyValue{attribute.Int64("ringmaster.worker.slot", int64(t.Slot)), attribute.Int64("ringmaster.worker.pid", int64(t.PID))}
	if t.First != 0 && r.chunks > 0 {
		list = append(list, attribute.Float64("ringmaster.first_reply_ms", milliseconds(t.First.Sub(t.Sent))))
	}
	if t.Batch > 0 {
		list = append(list, attribute.Int64("ringmaster.batch.size", int64(t.Batch)))
	}
	return list
}

// attributes are those of the request's own span.
func (r *record) attributes(dropped int) []attribute.KeyValue {
	list := []attribute.KeyValue{
		attribute.String("ringmaster.pool", r.pool), attribute.String("ringmaster.action", r.action), attribute.String("ringmaster.protocol", r.protocol),
		attribute.Int64("ringmaster.bytes_in", int64(r.in)), attribute.Int64("ringmaster.bytes_out", int64(r.out)), attribute.Float64("ringmaster.queue_ms", milliseconds(r.queue)),
	}
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
	if dropped > 0 {
		list = append(list, attribute.String("ringmaster.spans_left_out", strconv.Itoa(dropped)))
	}
	return append(list, r.generative()...)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
