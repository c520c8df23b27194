package trace

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	pb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// standIn is a collector that takes OTLP by HTTP, as the real one does, and keeps it.
type standIn struct {
	*httptest.Server
	mu    sync.Mutex
	spans []*pb.Span // guarded by mu
	fail  int        // guarded by mu: the status to answer with, if not 0
}

func newStandIn(t *testing.T) *standIn {
	s := &standIn{}
	s.Server = httptest.NewServer(http.HandlerFunc(s.take))
	t.Cleanup(s.Close)
	return s
}

func (s *standIn) take(w http.ResponseWriter, r *http.Request) {
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		var err error
		if body, err = gzip.NewReader(r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	data, err := io.ReadAll(body)
	var request collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(data, &request)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.fail != 0:
		w.WriteHeader(s.fail)
		return
	case err != nil, r.URL.Path != "/v1/traces", r.Header.Get("Content-Type") != "application/x-protobuf":
		http.Error(w, "this is no export of traces", http.StatusBadRequest)
		return
	}
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			s.spans = append(s.spans, scope.Spans...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// await waits until ok holds for the spans that have come.
func (s *standIn) await(t *testing.T, what string, ok func([]*pb.Span) bool) []*pb.Span {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		s.mu.Lock()
		spans := append([]*pb.Span(nil), s.spans...)
		s.mu.Unlock()
		if ok(spans) {
			return spans
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s; there are %d spans", what, len(spans))
		}
		<-tick.C
	}
}

// named returns the first span of a name.
func named(t *testing.T, spans []*pb.Span, name string) *pb.Span {
	t.Helper()
	for _, s := range spans {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("there is no span %q among %d", name, len(spans))
	return nil
}

func has(spans []*pb.Span, name string) bool {
	for _, s := range spans {
		if s.Name == name {
			return true
		}
	}
	return false
}

// attributesOf are a span's, with the values as Go has them.
func attributesOf(s *pb.Span) map[string]any {
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

func digitsOf(b []byte) string { return hex.EncodeToString(b) }

// syncBuffer is a buffer that a logger writes and a test reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
