package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/internal/collector"
	rpc "github.com/ringmasterd/ringmaster/proto/ringmaster/v1"
)

const traces = `
tracing: {otlp: "%s", sample: 0}
pools:
  py: {command: ["${PYTHON}", "${ROOT}/e2e/testdata/traced.py"]}
  go: {command: ["${SELF}", worker]}
`

// told is what a worker says of the trace that its request is part of.
type told struct {
	TraceID string `json:"trace_id" msgpack:"trace_id"` // traceparent
	Current string `json:"current" msgpack:"current"`   // trace and span, of OpenTelemetry; "": it is not there
	State   string `json:"state" msgpack:"state"`
}

// One trace, by every protocol, into a Python and a Go worker: all spans are of it, each request is below the program that asked, and what a worker is told to be its parent is the very span of its work.
func TestOneTraceByEveryProtocol(t *testing.T) {
	const trace, state = "0af7651916cd43dd8448eb211c80319c", "rojo=00f067aa0ba902b7"
	otel := collector.New(t)
	s := serve(t, fmt.Sprintf(traces, otel.URL), "py", "go")
	parents := 0
	parent := func() string {
		parents++
		return fmt.Sprintf("00-%s-%016x-01", trace, parents)
	}
	var heard []told
	c := s.dial()
	ctx := testContext(t)
	for _, pool := range []string{"py", "go"} {
		r, err := c.Call(ctx, pool, "told", nil, client.WithTraceID(parent()), client.WithHeaders(map[string]string{"tracestate": state}))
		var said told
		if err == nil {
			err = r.Decode(&said)
		}
		if err != nil {
			t.Fatal(err)
		}
		heard = append(heard, said)
		var answer struct{ Result told }
		out := s.curl(t, "/rpc", "-H", "Traceparent: "+parent(), "-H", "Tracestate: "+state, "-d", fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"%s.told"}`, pool))
		if err := json.Unmarshal([]byte(strings.TrimSuffix(out, "200")), &answer); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		heard = append(heard, answer.Result)
	}
	out := s.curl(t, "/v1/chat/completions", "-H", "Traceparent: "+parent(), "-d", `{"model":"py","messages":[]}`)
	var completion struct {
		Choices []struct{ Message struct{ Content string } }
	}
	if err := json.Unmarshal([]byte(strings.TrimSuffix(out, "200")), &completion); err != nil || len(completion.Choices) != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	heard = append(heard, told{TraceID: completion.Choices[0].Message.Content})

	conn, err := grpc.NewClient("unix:"+s.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, request := range []*rpc.CallRequest{{Pool: "go", Action: "told", Traceparent: parent(), Body: &rpc.CallRequest_Json{Json: "null"}}, {Pool: "py", Action: "told", Body: &rpc.CallRequest_Json{Json: "null"}}} {
		asked := ctx
		if request.Traceparent == "" {
			asked = metadata.AppendToOutgoingContext(ctx, "traceparent", parent(), "tracestate", state)
		}
		reply, err := rpc.NewRingmasterClient(conn).Call(asked, request)
		if err != nil {
			t.Fatal(err)
		}
		var said told
		if err := json.Unmarshal([]byte(reply.GetJson()), &said); err != nil {
			t.Fatalf("%v: %v", err, reply)
		}
		heard = append(heard, said)
	}
	s.curl(t, "/v2/models/go/infer", "-H", "Traceparent: "+parent(), "-d", `{"inputs":[],"parameters":{"action":"echo"}}`)

	spans := otel.Await(t, "three spans of each request", func(spans []collector.Span) bool { return len(spans) >= 3*parents })
	works := map[string]bool{}
	protocols := map[any]int{}
	below := map[string]bool{}
	for _, span := range spans {
		if span.Trace() != trace {
			t.Errorf("%s is of the trace %s", span.Name, span.Trace())
		}
		switch span.Name {
		case "worker":
			works[span.ID()] = true
		case "queue":
		default:
			below[span.Parent()] = true
			protocols[span.Attributes["ringmaster.protocol"]]++
		}
	}
	for i := range parents {
		if id := fmt.Sprintf("%016x", i+1); !below[id] {
			t.Errorf("no request is below the span %s", id)
		}
	}
	if protocols["native"] != 2 || protocols["jsonrpc"] != 2 || protocols["openai"] != 1 || protocols["grpc"] != 2 || protocols["oip"] != 1 {
		t.Errorf("requests came by %v", protocols)
	}
	for _, said := range heard {
		parts := strings.Split(said.TraceID, "-")
		if len(parts) != 4 || parts[1] != trace || !works[parts[2]] || parts[3] != "01" {
			t.Errorf("a worker was told %q, which is no worker's span", said.TraceID)
			continue
		}
		if said.Current != "" && said.Current != parts[1]+"-"+parts[2] {
			t.Errorf("a worker was told %s, OpenTelemetry says %s", said.TraceID, said.Current)
		}
		delete(works, parts[2])
	}
	for _, said := range heard[:4] {
		if said.State != state {
			t.Errorf("the tracestate is %q", said.State)
		}
	}
	chat := collector.Named(t, spans, "chat py")
	for key, want := range map[string]any{"gen_ai.operation.name": "chat", "gen_ai.request.model": "py", "gen_ai.usage.input_tokens": int64(5), "gen_ai.usage.output_tokens": int64(7)} {
		if chat.Attributes[key] != want {
			t.Errorf("%s is %v, want %v", key, chat.Attributes[key], want)
		}
	}
	if heard[2].Current == "" {
		t.Error("the Go worker's context has no span")
	}
	if out, err := s.command("trace", trace).CombinedOutput(); err != nil || strings.Count(string(out), "└ worker") != parents {
		t.Errorf("`ringmaster trace`: %v\n%s", err, out)
	}
}
