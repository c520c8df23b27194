package trace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	otel "go.opentelemetry.io/otel/trace"
)

const (
	fileSize  = 64 << 20 // bytes, after which a new file is begun
	fileCount = 3        // of the former ones that are kept, as .1 (the latest) and so on
)

// lines writes spans into a file, a line of OTLP's JSON for each batch: what the collector's file exporter writes, and its otlpjsonfile receiver reads.
type lines struct {
	path string
	most int64 // bytes in a file

	mu   sync.Mutex
	file *os.File // guarded by mu; nil once closed
	size int64    // guarded by mu
}

func openLines(path string) (*lines, error) {
	l := &lines{path: path, most: fileSize}
	return l, l.open()
}

// open opens the file, for more at its end. Preconditions: mu is held, or nobody else knows it.
func (l *lines) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("tracing.file: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("tracing.file: %w", err), f.Close())
	}
	l.file, l.size = f, info.Size()
	return nil
}

// ExportSpans implements sdk/trace's SpanExporter.
func (l *lines) ExportSpans(_ context.Context, spans []sdk.ReadOnlySpan) error {
	if len(spans) == 0 {
		return nil
	}
	line, err := json.Marshal(document(spans))
	if err != nil {
		return err
	}
	line = append(line, '\n')
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return fs.ErrClosed
	}
	if l.size > 0 && l.size+int64(len(line)) > l.most {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(line)
	l.size += int64(n)
	return err
}

// rotate begins a new file and forgets the oldest. Preconditions: mu is held.
func (l *lines) rotate() error {
	err := l.file.Close()
	l.file = nil
	for i := fileCount; i > 0; i-- {
		from := l.path
		if i > 1 {
			from += "." + strconv.Itoa(i-1)
		}
		if e := os.Rename(from, l.path+"."+strconv.Itoa(i)); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return errors.Join(err, l.open())
}

// Shutdown implements sdk/trace's SpanExporter.
func (l *lines) Shutdown(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// OTLP's JSON, as far as there is anything to say: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding.
type (
	otlpDocument struct {
		Resources []otlpResource `json:"resourceSpans"`
	}
	otlpResource struct {
		Resource struct {
			Attributes []otlpAttribute `json:"attributes"`
		} `json:"resource"`
		Scopes []otlpScope `json:"scopeSpans"`
	}
	otlpScope struct {
		Scope struct {
			Name    string `json:"name"`
			Version string `json:"version,omitempty"`
		} `json:"scope"`
		Spans []otlpSpan `json:"spans"`
	}
	otlpSpan struct {
		Trace      string          `json:"traceId"`
		ID         string          `json:"spanId"`
		State      string          `json:"traceState,omitempty"`
		Parent     string          `json:"parentSpanId,omitempty"`
		Flags      uint32          `json:"flags"`
		Name       string          `json:"name"`
		Kind       int             `json:"kind"`
		Begin      string          `json:"startTimeUnixNano"`
		End        string          `json:"endTimeUnixNano"`
		Attributes []otlpAttribute `json:"attributes,omitempty"`
		Status     otlpStatus      `json:"status"`
	}
	otlpStatus struct {
		Message string `json:"message,omitempty"`
		Code    int    `json:"code,omitempty"`
	}
	otlpAttribute struct {
		Key   string         `json:"key"`
		Value map[string]any `json:"value"`
	}
)

// document is OTLP's form of spans that one process has made in one scope.
func document(spans []sdk.ReadOnlySpan) otlpDocument {
	var scope otlpScope
	scope.Scope.Name, scope.Scope.Version = spans[0].InstrumentationScope().Name, spans[0].InstrumentationScope().Version
	for _, s := range spans {
		scope.Spans = append(scope.Spans, otlpSpanOf(s))
	}
	var of otlpResource
	of.Resource.Attributes = otlpAttributes(spans[0].Resource().Attributes())
	of.Scopes = []otlpScope{scope}
	return otlpDocument{[]otlpResource{of}}
}

func otlpSpanOf(s sdk.ReadOnlySpan) otlpSpan {
	o := otlpSpan{
		Trace: s.SpanContext().TraceID().String(), ID: s.SpanContext().SpanID().String(), State: s.SpanContext().TraceState().String(), Flags: uint32(s.SpanContext().TraceFlags()),
		Name: s.Name(), Kind: otlpKind[s.SpanKind()],
		Begin: strconv.FormatInt(s.StartTime().UnixNano(), 10), End: strconv.FormatInt(s.EndTime().UnixNano(), 10),
		Attributes: otlpAttributes(s.Attributes()),
	}
	if s.Parent().SpanID().IsValid() {
		o.Parent = s.Parent().SpanID().String()
	}
	if s.Status().Code == codes.Error {
		o.Status = otlpStatus{s.Status().Description, 2}
	}
	return o
}

var otlpKind = map[otel.SpanKind]int{otel.SpanKindInternal: 1, otel.SpanKindServer: 2, otel.SpanKindClient: 3}

func otlpAttributes(list []attribute.KeyValue) []otlpAttribute {
	out := make([]otlpAttribute, len(list))
	for i, a := range list {
		out[i] = otlpAttribute{string(a.Key), otlpValue(a.Value)}
	}
	return out
}

// otlpValue is an attribute's value; of the kinds that we do not use, its text.
func otlpValue(v attribute.Value) map[string]any {
	switch v.Type() {
	case attribute.BOOL:
		return map[string]any{"boolValue": v.AsBool()}
	case attribute.INT64:
		return map[string]any{"intValue": strconv.FormatInt(v.AsInt64(), 10)}
	case attribute.FLOAT64:
		return map[string]any{"doubleValue": v.AsFloat64()}
	case attribute.STRING:
		return map[string]any{"stringValue": v.AsString()}
	}
	return map[string]any{"stringValue": v.String()}
}
