// Package collector is a stand-in for an OpenTelemetry collector, for tests: it takes OTLP by HTTP as the real one does, in protobuf, and keeps the spans.
package collector

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	export "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	pb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// patience is how long Await waits.
const patience = 30 * time.Second

// Collector is one that listens.
type Collector struct {
	*httptest.Server

	mu     sync.Mutex
	spans  []Span // guarded by mu
	status int    // guarded by mu: with which every export is answered, if not 0
}

// Span is a span as it was exported.
type Span struct {
	*pb.Span
	Attributes map[string]any // with the values as Go has them
}

// New starts one, which ends with the test.
func New(t testing.TB) *Collector {
	c := &Collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(c.take))
	t.Cleanup(c.Close)
	return c
}

// Fail has every export answered with a status from now on.
func (c *Collector) Fail(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = status
}

func (c *Collector) take(w http.ResponseWriter, r *http.Request) {
	request, err := read(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.status != 0:
		w.WriteHeader(c.status)
		return
	case err != nil, r.URL.Path != "/v1/traces", r.Header.Get("Content-Type") != "application/x-protobuf":
		http.Error(w, "this is no export of traces", http.StatusBadRequest)
		return
	}
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				c.spans = append(c.spans, Span{s, attributes(s)})
			}
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func read(r *http.Request) (*export.ExportTraceServiceRequest, error) {
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, err
		}
		body = unzipped
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	request := &export.ExportTraceServiceRequest{}
	return request, proto.Unmarshal(data, request)
}

// Await waits until ok holds for the spans that have come, and returns them.
func (c *Collector) Await(t testing.TB, what string, ok func([]Span) bool) []Span {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c.mu.Lock()
		spans := slices.Clone(c.spans)
		c.mu.Unlock()
		if ok(spans) {
			return spans
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s; there are %d spans", what, len(spans))
		}
		<-tick.C
	}
}

// Named returns the first span of a name.
func Named(t testing.TB, spans []Span, name string) Span {
	t.Helper()
	for _, s := range spans {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("there is no span %q among %d", name, len(spans))
	return Span{}
}

// Trace is the number of the span's trace, ID its own, and Parent that of the span which it is part of, in hexadecimal digits.
func (s Span) Trace() string { return hex.EncodeToString(s.TraceId) }

// ID is the span's number.
func (s Span) ID() string { return hex.EncodeToString(s.SpanId) }

// Parent is the number of the span which it is part of; "": none.
func (s Span) Parent() string { return hex.EncodeToString(s.ParentSpanId) }

func attributes(s *pb.Span) map[string]any {
	m := map[string]any{}
	for _, a := range s.Attributes {
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			m[a.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			m[a.Key] = v.IntValue
		case *common.AnyValue_DoubleValue:
			m[a.Key] = v.DoubleValue
		}
	}
	return m
}
