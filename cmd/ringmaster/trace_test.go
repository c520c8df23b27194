package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ringmasterd/ringmaster/chain/trace"
	"github.com/ringmasterd/ringmaster/client"
)

const aParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"

func TestTraceCommand(t *testing.T) {
	s := serve(t, "pools: {echo: {builtin: echo}, other: {builtin: echo}}\n")
	if r := s.run("trace"); r.code != 0 || !strings.Contains(r.errOut, "there are none") {
		t.Errorf("without requests: %+v", r)
	}
	if _, err := s.client.Call(t.Context(), "echo", "echo", "hi", client.WithTraceID(aParent)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Call(t.Context(), "other", "nonsense", nil); err == nil {
		t.Fatal("nonsense was answered")
	}
	r := s.run("trace")
	contains(t, "the list", r.out, "TRACE", "0af7651916cd43dd8448eb211c80319c", "echo/0", "OK", "NOT_FOUND/unknown_action")
	if r := s.run("trace", "--errors"); strings.Contains(r.out, "0af76519") || !strings.Contains(r.out, "nonsense") {
		t.Errorf("errors: %+v", r)
	}
	if r := s.run("trace", "--pool", "echo"); !strings.Contains(r.out, "0af76519") || strings.Contains(r.out, "nonsense") {
		t.Errorf("of a pool: %+v", r)
	}
	if r := s.run("trace", "--slow"); r.code != 0 || strings.Contains(r.out, "0af76519") {
		t.Errorf("slow: %+v", r)
	}
	r = s.run("trace", "0af765")
	contains(t, "the tree", r.out, "trace 0af7651916cd43dd8448eb211c80319c: echo.echo, OK after", "by native from uid", "part of span b7ad6b7169203331", "├ queue", "└ worker", "worker.slot 0")
	r = s.run("trace", aParent, "--json")
	var found trace.Found
	if err := json.Unmarshal([]byte(r.out), &found); err != nil || len(found.Traces) != 1 || len(found.Traces[0].Spans) != 3 || found.Traces[0].Parent != "b7ad6b7169203331" {
		t.Errorf("json: %v, %+v", err, r)
	}
	var recent trace.Recent
	if r := s.run("trace", "--json", "-n", "1"); json.Unmarshal([]byte(r.out), &recent) != nil || len(recent.Requests) != 1 || recent.Requests[0].Action != "nonsense" {
		t.Errorf("json of the list: %+v", r)
	}
	for _, tt := range []struct {
		args string
		code int
		err  string
	}{
		{"trace ffff", 1, "NOT_FOUND/unknown_trace"},
		{"trace xyz", 1, "INVALID_ARGUMENT/invalid_argument"},
		{"trace 0af7 --slow", 2, "--slow, --errors, --pool and --count are for the list"},
		{"trace --slow --errors", 2, "ask for one"},
		{"trace -n 0", 2, "--count is 0; use 1 to 1000"},
		{"trace a b", 2, "got 2 arguments"},
	} {
		if r := s.run(strings.Fields(tt.args)...); r.code != tt.code || !strings.Contains(r.errOut, tt.err) {
			t.Errorf("%s: %+v", tt.args, r)
		}
	}
	r = ringmaster(t, s.dir, "", "__complete", "--socket", s.socket, "trace", "")
	contains(t, "the completion", r.out, "0af7651916cd43dd8448eb211c80319c\techo.echo OK")
}

func TestTraceTree(t *testing.T) {
	var out bytes.Buffer
	err := printTrace(&out, trace.Trace{
		Summary: trace.Summary{TraceID: "abc", Pool: "p\x1b[2J", Action: "a", Outcome: "OK", TookMS: 12},
		Spans: []trace.Step{
			{Name: "p.a", Within: -1, TookMS: 12}, {Name: "pipeline", Within: 0, BeginMS: 1, TookMS: 10}, {Name: "worker", Within: 1, BeginMS: 6, TookMS: 5}, {Name: "queue", Within: 1, BeginMS: 5, TookMS: 1},
			{Name: "late", Within: 0, BeginMS: 11.5, TookMS: 0.5, Error: "ABORTED/worker_lost", Attributes: map[string]any{"ringmaster.x": 1, "gen_ai.usage.input_tokens": 5}}, {Name: "itself", Within: 5},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "the tree", out.String(), `
      0.00      12.00  p.a
      1.00      10.00  ├ pipeline
      5.00       1.00  │ ├ queue
      6.00       5.00  │ └ worker
     11.50       0.50  └ late  ABORTED/worker_lost, input_tokens 5, x 1
`)
	if strings.Contains(out.String(), "\x1b") {
		t.Error("a name moves the cursor")
	}
}

func TestRequestsAreLogged(t *testing.T) {
	s := serve(t, "log: {requests: true}\npools: {echo: {builtin: echo}}\n", "--log-format", "json")
	if _, err := s.client.Call(t.Context(), "echo", "echo", "hi", client.WithTraceID(aParent)); err != nil {
		t.Fatal(err)
	}
	var line map[string]any
	eventually(t, "the request's line", func() bool {
		for l := range strings.Lines(s.log.String()) {
			if strings.Contains(l, `"action":"echo"`) {
				return json.Unmarshal([]byte(l), &line) == nil
			}
		}
		return false
	})
	for key, want := range map[string]any{
		"level": "INFO", "msg": "request", "trace_id": "0af7651916cd43dd8448eb211c80319c", "pool": "echo", "protocol": "native", "code": "OK", "worker": "echo/0", "bytes_in": 3.0, "bytes_out": 3.0,
	} {
		if line[key] != want {
			t.Errorf("%s is %v, want %v", key, line[key], want)
		}
	}
	for _, key := range []string{"uid", "pid", "queue_ms", "took_ms", "worker_pid"} {
		if _, there := line[key].(float64); !there {
			t.Errorf("%s is %v", key, line[key])
		}
	}
}

// Where roles say who may do what, a trace tells who asked and how long it took to find out, also of what was refused.
func TestTraceTellsWhoAsked(t *testing.T) {
	s := serve(t, `
auth:
  owner: false
  roles: {app: {allow: [{pools: [echo], actions: [echo]}, {pools: [ringmaster], actions: ["*"]}]}}
  users: {`+fmt.Sprint(os.Getuid())+`: [app]}
pools: {echo: {builtin: echo}}
`)
	if _, err := s.client.Call(t.Context(), "echo", "echo", "hi", client.WithTraceID(aParent)); err != nil {
		t.Fatal(err)
	}
	r := s.run("trace", "0af7")
	contains(t, "the tree", r.out, "├ auth", "├ queue", "└ worker", "(user ")
	if _, err := s.client.Call(t.Context(), "echo", "count", nil, client.WithTraceID(strings.Replace(aParent, "0af", "1af", 1))); err == nil {
		t.Fatal("it was allowed")
	}
	r = s.run("trace", "1af7")
	contains(t, "the tree of one that was refused", r.out, "PERMISSION_DENIED/denied", "└ auth  PERMISSION_DENIED/denied")
}

// Links tell of their steps: the cache of where an answer is from, sessions of their store.
func TestTraceTellsOfLinks(t *testing.T) {
	s := serve(t, `
sessions: {store: memory}
pools: {echo: {builtin: echo, actions: {echo: {cache: {ttl: 1m}}}}}
`)
	ask := func(trace string, headers map[string]string) {
		t.Helper()
		if _, err := s.client.Call(t.Context(), "echo", "echo", "hi", client.WithTraceID(strings.Replace(aParent, "0af", trace, 1)), client.WithHeaders(headers)); err != nil {
			t.Fatal(err)
		}
	}
	ask("1af", nil)
	ask("2af", map[string]string{"tracestate": "a=b"})
	ask("3af", map[string]string{"session": "s"})
	for trace, want := range map[string][]string{
		"1af": {"└ cache  cache miss\n", "  ├ queue\n", "  └ worker"},
		"2af": {"└ cache  cache hit\n"},
		"3af": {"├ session read", "session write"},
	} {
		contains(t, trace, s.run("trace", trace).out, want...)
	}
}

// A pipeline's steps and a pool's attempts are in the tree, with their workers below.
func TestTraceTellsOfStepsAndAttempts(t *testing.T) {
	s := serve(t, `
pools: {echo: {builtin: echo, resilience: {retry: {}}}}
pipelines: {twice: {steps: {one: {pool: echo, action: echo, body: $input.body}, two: {pool: echo, action: echo, body: $steps.one.body}}}}
`)
	if _, err := s.client.Call(t.Context(), "twice", "run", "hi", client.WithTraceID(aParent)); err != nil {
		t.Fatal(err)
	}
	r := s.run("trace", "0af7")
	contains(t, "the tree", r.out, "├ step one", "└ step two", "└ attempt  pool echo", "└ worker")
	if strings.Count(r.out, "└ worker") != 2 {
		t.Error(r.out)
	}
}
