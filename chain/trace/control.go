package trace

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

const (
	defaultList = 50   // requests that are listed, unless another number is asked for
	maxList     = 1000 // at most
	maxErrors   = 20   // latest failures in Stats
)

// Stats is the answer to the control request stats.
type Stats struct {
	Pools  []PoolRates `json:"pools" msgpack:"pools"`
	Errors []Summary   `json:"errors" msgpack:"errors"` // the latest requests that failed, the last one first
	Export Export      `json:"export" msgpack:"export"`
}

// Export says what became of the spans that were to be exported.
type Export struct {
	Sent    uint64 `json:"sent" msgpack:"sent"`
	Dropped uint64 `json:"dropped" msgpack:"dropped"` // the queue was full
	Failed  uint64 `json:"failed" msgpack:"failed"`   // they were not taken
}

// Recent is the answer to the control request recent.
type Recent struct {
	Requests []Summary `json:"requests" msgpack:"requests"` // the last one first
}

// Found is the answer to the control request trace.
type Found struct {
	Traces []Trace `json:"traces" msgpack:"traces"` // all requests of the trace, the last one first
}

// asked is the body of the control requests recent and trace.
type asked struct {
	ID     string `msgpack:"id"`     // of trace: the trace's number, or how it begins
	Only   string `msgpack:"only"`   // of recent: slow, errors, or "" for all
	Limit  int    `msgpack:"limit"`  // of recent; 0: defaultList
	Pool   string `msgpack:"pool"`   // of recent; "": all
	Action string `msgpack:"action"` // of recent; "": all
}

// control returns what answers a request to the server itself; nil: it is not for us.
func (t *Tracer) control(req *ipc.Request) func() (ipc.Replies, error) {
	answers := map[string]func(asked) (any, error){
		"stats":  func(asked) (any, error) { return t.Stats(time.Now()), nil },
		"recent": t.latest,
		"trace":  t.find,
	}
	answer := answers[req.Action]
	if answer == nil {
		return nil
	}
	return func() (ipc.Replies, error) {
		var q asked
		if len(req.Body) > 0 {
			if err := req.Body.Decode(&q); err != nil {
				return nil, err
			}
		}
		result, err := answer(q)
		if err != nil {
			return nil, err
		}
		body, err := ipc.Marshal(result)
		if err != nil {
			return nil, err
		}
		return &one{body: body}, nil
	}
}

// Stats returns what pools did of late.
func (t *Tracer) Stats(now time.Time) Stats {
	s := Stats{Pools: t.stats.rates(now), Errors: []Summary{}, Export: Export{t.counts.sent.Load(), t.counts.dropped.Load(), t.counts.failed.Load()}}
	failed := t.recent.list(theFailed)
	for i := range failed[:min(len(failed), maxErrors)] {
		s.Errors = append(s.Errors, failed[i].summary())
	}
	return s
}

func (t *Tracer) latest(q asked) (any, error) {
	part, ok := map[string]which{"": everything, "errors": theFailed, "slow": theSlow}[q.Only]
	if !ok {
		return nil, ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "only is %q; it must be slow or errors, or be left out", q.Only)
	}
	if err := t.remembers(); err != nil {
		return nil, err
	}
	if q.Limit <= 0 {
		q.Limit = defaultList
	}
	answer := Recent{Requests: []Summary{}}
	for _, r := range t.recent.list(part) {
		if (q.Pool == "" || r.pool == q.Pool) && (q.Action == "" || r.action == q.Action) {
			answer.Requests = append(answer.Requests, r.summary())
		}
		if len(answer.Requests) >= min(q.Limit, maxList) {
			break
		}
	}
	return answer, nil
}

func (t *Tracer) find(q asked) (any, error) {
	if err := t.remembers(); err != nil {
		return nil, err
	}
	id := strings.ToLower(q.ID)
	if parts := strings.Split(id, "-"); len(parts) == 4 { // a whole traceparent
		id = parts[1]
	}
	if id == "" || strings.Trim(id, "0123456789abcdef") != "" {
		return nil, ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "%q is no trace's number: it has hexadecimal digits, as in the list of `ringmaster trace`", q.ID)
	}
	records := t.recent.find(id)
	if len(records) == 0 {
		return nil, ipc.Errorf(ipc.NotFound, "unknown_trace", "no request that is remembered belongs to a trace %q; the last %d are (tracing.recent), once they have ended", q.ID, t.now.Load().cfg.Recent)
	}
	first := records[0].trace
	answer := Found{}
	for _, r := range records {
		if r.trace != first {
			return nil, ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "several traces begin with %q, such as %s and %s; give more of it", q.ID, hexadecimal(first[:]), hexadecimal(r.trace[:]))
		}
		if len(answer.Traces) < maxList {
			answer.Traces = append(answer.Traces, r.tree())
		}
	}
	return answer, nil
}

// remembers says why nothing is remembered, if so.
func (t *Tracer) remembers() error {
	if t.now.Load().cfg.Recent == 0 {
		return ipc.Errorf(ipc.Unavailable, "tracing_off", "this server remembers no requests: `tracing.recent` is 0")
	}
	return nil
}

// one is an answer of one reply that is there already.
type one struct {
	body ipc.Body
	done bool
}

// Recv implements [ipc.Replies].
func (r *one) Recv(context.Context) (*ipc.Reply, error) {
	if r.done {
		return nil, io.EOF
	}
	r.done = true
	return &ipc.Reply{End: true, Body: r.body}, nil
}

// Cancel implements [ipc.Replies].
func (r *one) Cancel(string) {}
