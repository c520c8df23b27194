package trace

import "encoding/hex"

// Summary is what is told of a request that has ended.
type Summary struct {
	TraceID   string  `json:"trace_id" msgpack:"trace_id"`
	Begin     string  `json:"begin" msgpack:"begin"` // in UTC
	TookMS    float64 `json:"took_ms" msgpack:"took_ms"`
	QueueMS   float64 `json:"queue_ms" msgpack:"queue_ms"`
	Pool      string  `json:"pool" msgpack:"pool"`
	Action    string  `json:"action" msgpack:"action"`
	Protocol  string  `json:"protocol" msgpack:"protocol"`
	UID       uint32  `json:"uid" msgpack:"uid"`
	PID       int32   `json:"pid" msgpack:"pid"`
	Address   string  `json:"address" msgpack:"address"`     // of a client by TCP, whose uid and pid nobody knows
	Principal string  `json:"principal" msgpack:"principal"` // who asked, where there are roles; "": uid is all that is known
	Outcome   string  `json:"outcome" msgpack:"outcome"`     // OK, or CODE/reason
	Message   string  `json:"message" msgpack:"message"`     // of an error
	Worker    string  `json:"worker" msgpack:"worker"`       // pool/slot that had it last; "": none
	Attempts  int     `json:"attempts" msgpack:"attempts"`
	BytesIn   int     `json:"bytes_in" msgpack:"bytes_in"`
	BytesOut  int     `json:"bytes_out" msgpack:"bytes_out"`
	Chunks    int     `json:"chunks" msgpack:"chunks"`
	Sampled   bool    `json:"sampled" msgpack:"sampled"`
}

// Trace is a request's way.
type Trace struct {
	Summary `msgpack:",inline"`
	Parent  string `json:"parent_span_id" msgpack:"parent_span_id"` // of the program that asked; "": it did not say
	Spans   []Step `json:"spans" msgpack:"spans"`                   // the first is the request itself; each stands after what it is part of
}

// Step is one step of it.
type Step struct {
	Name       string         `json:"name" msgpack:"name"`
	SpanID     string         `json:"span_id" msgpack:"span_id"`
	Within     int            `json:"within" msgpack:"within"`     // index of the span that it is part of; -1: none
	BeginMS    float64        `json:"begin_ms" msgpack:"begin_ms"` // since the request's
	TookMS     float64        `json:"took_ms" msgpack:"took_ms"`
	Error      string         `json:"error" msgpack:"error"` // CODE/reason; "": none
	Attributes map[string]any `json:"attributes" msgpack:"attributes"`
}

// maxMessage is how much of an error's message is told, in bytes.
const maxMessage = 300

func (r *record) summary() Summary {
	s := Summary{
		TraceID: hexadecimal(r.trace[:]), Begin: instant(r.begin), TookMS: milliseconds(r.took), QueueMS: milliseconds(r.queue), Pool: r.pool, Action: r.action, Protocol: r.protocol,
		UID: r.client.UID, PID: r.client.PID, Address: r.address, Principal: r.principal, Outcome: outcomeOf(r.outcome), Attempts: r.attempts, BytesIn: r.in, BytesOut: r.out, Chunks: r.chunks, Sampled: r.sampled,
	}
	if r.outcome != nil {
		s.Message = r.outcome.Message[:min(len(r.outcome.Message), maxMessage)]
	}
	if r.attempts > 0 {
		s.Worker = workerName(r)
	}
	return s
}

func (r *record) tree() Trace {
	t := Trace{Summary: r.summary()}
	if r.parent.Valid() {
		t.Parent = hexadecimal(r.parent.Span[:])
	}
	for _, s := range r.all() {
		step := Step{Name: s.name, SpanID: hexadecimal(s.id[:]), Within: int(s.above), BeginMS: milliseconds(s.begin), TookMS: milliseconds(s.end - s.begin), Attributes: map[string]any{}}
		if s.err != nil {
			step.Error = outcomeOf(s.err)
		}
		for _, a := range s.attributes {
			step.Attributes[string(a.Key)] = a.Value.AsInterface()
		}
		t.Spans = append(t.Spans, step)
	}
	return t
}

func hexadecimal(b []byte) string { return hex.EncodeToString(b) }
