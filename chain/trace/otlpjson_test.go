package trace

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	pb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// readLines reads a file of spans with OTLP's own decoder, which is protobuf's JSON but for the numbers of traces and spans: those are in hexadecimal digits.
func readLines(t *testing.T, path string) []*pb.Span {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var spans []*pb.Span
	for line := range bytes.Lines(data) {
		var document map[string]any
		if err := json.Unmarshal(line, &document); err != nil {
			t.Fatal(err)
		}
		based, err := json.Marshal(base(document))
		if err != nil {
			t.Fatal(err)
		}
		var decoded pb.TracesData
		if err := protojson.Unmarshal(based, &decoded); err != nil {
			t.Fatalf("%v\n%s", err, line)
		}
		for _, r := range decoded.ResourceSpans {
			for _, s := range r.ScopeSpans {
				spans = append(spans, s.Spans...)
			}
		}
	}
	return spans
}

// base rewrites hexadecimal numbers as protobuf's JSON has bytes.
func base(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if text, ok := value.(string); ok && (key == "traceId" || key == "spanId" || key == "parentSpanId") {
				b, _ := hex.DecodeString(text)
				v[key] = base64.StdEncoding.EncodeToString(b)
				continue
			}
			v[key] = base(value)
		}
	case []any:
		for i := range v {
			v[i] = base(v[i])
		}
	}
	return v
}
