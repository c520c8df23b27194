package main

import (
	"context"
	"encoding/json"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/supervisor"
)

const twoPools = `
pools:
  left: {builtin: echo, workers: 2}
  right: {builtin: echo}
`

// The answers of pools feed others and the pipeline's answer, tensors included, by every protocol.
func TestPipeline(t *testing.T) {
	s := serve(t, twoPools+`
pipelines:
  both:
    actions: [run, chat]
    steps:
      l: {pool: left, action: echo, body: {say: "$(input.body.word)!"}, tensors: {x: $input.tensors.image or null}}
      r: {pool: right, action: echo, body: [$input.body.word, $steps.l.body]}
      out:
        aggregate: {text: $steps.l.body.say, r: $steps.r.body, why: $steps.r.error}
        tensors: $steps.l.tensors
`)
	image := client.Tensor{Name: "image", DType: "uint8", Shape: []uint64{3}, Data: []byte{1, 2, 3}}
	r, err := s.client.Call(t.Context(), "both", "run", map[string]string{"word": "hello"}, client.WithTensors(image))
	var got any
	if err != nil || r.Decode(&got) != nil {
		t.Fatal(err)
	}
	want := map[string]any{"text": "hello!", "r": []any{"hello", map[string]any{"say": "hello!"}}, "why": nil}
	if x := r.Tensor("x"); !reflect.DeepEqual(got, want) || x == nil || !slices.Equal(x.Data, image.Data) || len(r.Headers) != 0 {
		t.Errorf("got %v, %+v, %v", got, x, r.Headers)
	}
	if _, body := s.fetch("/rpc", `{"jsonrpc": "2.0", "id": 1, "method": "both.run", "params": {"word": "hi"}}`); !strings.Contains(body, `"text":"hi!"`) {
		t.Errorf("by JSON-RPC: %s", body)
	}
	if _, body := s.fetch("/v1/chat/completions", `{"model": "both", "messages": [], "word": "ho"}`); !strings.Contains(body, `"content":"ho!"`) {
		t.Errorf("by OpenAI's path: %s", body)
	}
	if _, body := s.fetch("/v1/models", ""); !strings.Contains(body, `"id":"both"`) {
		t.Errorf("the models are %s", body)
	}
	var status supervisor.Status
	if r := s.run("status", "--json"); json.Unmarshal([]byte(r.out), &status) != nil || !reflect.DeepEqual(status.Pipelines, []supervisor.PipelineStatus{{Name: "both", Actions: []string{"run", "chat"}, Steps: []string{"l", "r", "out"}}}) {
		t.Errorf("the status is %s", r.out)
	}
	contains(t, "the status", s.run("status").out, "PIPELINE  ACTIONS    STEPS\nboth      run, chat  l, r, out\n")
	contains(t, "what is completed", ringmaster(t, s.dir, "", "__complete", "call", "--socket", s.socket, "").out, "both\tpipeline")
	contains(t, "the check", s.run("serve", "--check").out, "both: a pipeline of l, r, out")
	if s.metric(`ringmaster_pipeline_steps_total{outcome="ok",pipeline="both",step="out"}`) != 3 || s.metric(`ringmaster_requests_total{action="run",code="OK",pool="both"}`) != 2 {
		t.Error("it is not counted")
	}
}

// Branches run at the same time in workers of different pools, and a client that goes away has all of them told.
func TestPipelineBranchesAndCancel(t *testing.T) {
	s := serve(t, twoPools+`
pipelines:
  nap:
    steps:
      l: {pool: left, action: sleep, body: {seconds: 3600}}
      r: {pool: right, action: sleep, body: {seconds: 3600}}
      out: {aggregate: [$steps.l.body, $steps.r.body]}
`)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := s.client.Call(ctx, "nap", "run", nil); errorReason(err) != "cancelled" {
			t.Errorf("got %v", err)
		}
	})
	eventually(t, "both branches to run", func() bool { return s.inFlight("left") == 1 && s.inFlight("right") == 1 })
	cancel()
	wg.Wait()
	eventually(t, "both branches to be cancelled", func() bool { return s.inFlight("left") == 0 && s.inFlight("right") == 0 })
	if got := s.metric(`ringmaster_pipeline_steps_total{outcome="cancelled",pipeline="nap",step="l"}`); got != 1 {
		t.Errorf("%v steps are counted as cancelled", got)
	}
}

// The replies of the last step come as they are made, and one that streams before it becomes one answer.
func TestPipelineStreams(t *testing.T) {
	s := serve(t, twoPools+`
pipelines:
  tell:
    actions: [chat]
    steps:
      all: {pool: left, action: count, body: {n: 2, text: ab}, gather: text}
      out: {pool: right, action: count, body: {n: $input.body.count, text: $steps.all.body.text}, timeout: 10m}
  brief:
    steps:
      out: {pool: right, action: count, body: {n: 1_000_000_000}, timeout: 500ms}
`)
	var chunks []string
	for r, err := range s.client.Stream(t.Context(), "tell", "chat", map[string]int{"count": 3}) {
		var c struct {
			Text string `msgpack:"text"`
		}
		if err != nil || r.Decode(&c) != nil {
			t.Fatal(err)
		}
		if c.Text != "" {
			chunks = append(chunks, c.Text)
		}
	}
	if !slices.Equal(chunks, []string{"abab", "abab", "abab"}) {
		t.Errorf("got %q", chunks)
	}
	if _, body := s.fetch("/v1/chat/completions", `{"model": "tell", "count": 2, "stream": true, "messages": []}`); strings.Count(body, `"content":"abab"`) != 2 {
		t.Errorf("by OpenAI's path: %s", body)
	}
	// A client that leaves in mid-stream.
	for r, err := range s.client.Stream(t.Context(), "tell", "chat", map[string]int{"count": 1_000_000_000}) {
		if err != nil || r.Last {
			t.Fatal(err)
		}
		break
	}
	eventually(t, "the stream to be cancelled", func() bool { return s.inFlight("right") == 0 })
	// A timeout of the last step, in mid-stream.
	got, late := 0, error(nil)
	for _, err := range s.client.Stream(t.Context(), "brief", "run", nil) {
		if late = err; err == nil {
			got++
		}
	}
	if got == 0 || errorReason(late) != "deadline" || ipc.AsError(late).Details["step"] != "out" {
		t.Errorf("%d chunks, then %v", got, late)
	}
	eventually(t, "the late stream to be cancelled", func() bool { return s.inFlight("right") == 0 })
}

// A step's failure is the request's, with its name, unless something takes its place, which is told.
func TestPipelineFailures(t *testing.T) {
	const steps = `
pipelines:
  p:
    steps:
      bad: {pool: left, action: crash, body: {n: $input.body.n}%}
      slow: {pool: right, action: sleep, body: {seconds: $input.body.seconds}}
      out: {aggregate: {bad: $steps.bad.body, why: $steps.bad.error.reason or null, slow: $steps.slow.body.seconds}}
`
	s := serve(t, twoPools+strings.Replace(steps, "%", "", 1))
	n := 0
	call := func(seconds float64, opts ...client.CallOption) (*client.Reply, *ipc.Error) {
		n++
		r, err := s.client.Call(t.Context(), "p", "run", map[string]any{"n": n, "seconds": seconds}, opts...)
		var e *ipc.Error
		errors.As(err, &e)
		return r, e
	}
	if _, e := call(3600); e == nil || e.Code != ipc.Aborted || e.Reason != "worker_lost" || e.Details["step"] != "bad" {
		t.Errorf("got %v with %+v", e, e)
	}
	eventually(t, "the other branch to be cancelled", func() bool { return s.inFlight("right") == 0 })
	_, body := s.fetch("/rpc", `{"jsonrpc": "2.0", "id": 1, "method": "p.run", "params": {"n": "web", "seconds": 0}}`)
	if !strings.Contains(body, `"step":"bad"`) {
		t.Errorf("by HTTP: %s", body)
	}

	writeConfig(t, s.dir, twoPools+strings.Replace(steps, "%", `, on_error: skip`, 1))
	if r := s.run("reload"); r.code != 0 || r.out != "changed: p\n" {
		t.Errorf("reload: %+v", r)
	}
	r, e := call(0)
	var got any
	if e != nil || r.Decode(&got) != nil || !reflect.DeepEqual(got, map[string]any{"bad": nil, "why": "worker_lost", "slow": 0.0}) || r.Headers["degraded"] != "step=bad; skip; reason=worker_lost" {
		t.Errorf("got %v, %v, %v", got, r, e)
	}

	writeConfig(t, s.dir, twoPools+`
pipelines: {late: {timeout: 100ms, steps: {slow: {pool: right, action: sleep, body: {seconds: 3600}}, out: {aggregate: $steps.slow.body}}}}
`)
	if r := s.run("reload"); r.code != 0 || r.out != "added: late\nremoved: p\n" {
		t.Errorf("reload: %+v", r)
	}
	_, err := s.client.Call(t.Context(), "late", "run", nil)
	if errors.As(err, &e); e == nil || e.Code != ipc.DeadlineExceeded || e.Details["step"] != "slow" {
		t.Errorf("got %v with %+v", err, e)
	}
	eventually(t, "the late step to be cancelled", func() bool { return s.inFlight("right") == 0 })
	if _, e := call(0); e == nil || e.Reason != "unknown_pool" {
		t.Errorf("a pipeline that is no more: %v", e)
	}
}

// Steps pass the links behind: what takes the place of a step's answer is told in the end.
func TestPipelineStepsFallBack(t *testing.T) {
	s := serve(t, `
pools:
  down:
    command: [/bin/false]
    resilience: {fallback: [{pool: up}]}
  up: {builtin: echo}
pipelines: {p: {steps: {a: {pool: down, action: echo, body: $input.body}, out: {aggregate: $steps.a.body}}}}
`)
	if r := s.run("call", "p", "run", "--data", `"hello"`); r.code != 0 || r.out != "\"hello\"\n" || r.errOut != "degraded: step=a; pool=up; reason=crash_loop\n" {
		t.Errorf("got %+v", r)
	}
}

// The example that needs nothing but the binary does what its comments say.
func TestPipelineExample(t *testing.T) {
	yaml, err := os.ReadFile(filepath.FromSlash("../../examples/pipeline/builtin.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, string(yaml))
	if r := s.run("call", "greet", "run", "--data", `{"name": "world"}`); r.code != 0 || r.out != `{"greeting":"Hello, world!","lang":null,"slept":0.2}`+"\n" {
		t.Errorf("greet: %+v", r)
	}
	if r := s.run("call", "story", "run", "--stream", "--data", `{"name": "world"}`); r.code != 0 || r.out != strings.Repeat("Hello, world! ", 5)+"\n" {
		t.Errorf("story: %+v", r)
	}
	for _, body := range []string{`{"n": 1}`, `{"n": 2}`, `{"n": 3}`} {
		if r := s.run("call", "fragile", "crash", "--data", body); r.code != 0 || r.errOut != "degraded: reply=fixed; reason=worker_lost\n" {
			t.Errorf("crash: %+v", r)
		}
	}
	if r := s.run("call", "fragile", "echo", "--data", `"hello"`); r.code != 0 || r.out != "\"hello\"\n" || r.errOut != "degraded: pool=front; reason=circuit_open\n" {
		t.Errorf("echo: %+v", r)
	}
}

// A tensor in an arena is passed to every step that refers to it as what it is: a place in the client's memory, which is the client's again when all are through with it.
func TestPipelinePassesArenas(t *testing.T) {
	s := serve(t, twoPools+`
pipelines:
  sums:
    steps:
      l: {pool: left, action: checksum, tensors: {x: $input.tensors.image}}
      r: {pool: right, action: checksum, tensors: $input.tensors}
      out: {aggregate: {l: $steps.l.body.x, r: $steps.r.body.image}}
`)
	arena, err := s.client.Arena(t.Context(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	image, err := arena.Tensor("image", "uint8", 1<<19)
	if err != nil {
		t.Fatal(err)
	}
	for i := range image.Data {
		image.Data[i] = byte(i * 7)
	}
	want := crc32.Checksum(image.Data, crc32.MakeTable(crc32.Castagnoli))
	r, err := s.client.Call(t.Context(), "sums", "run", nil, client.WithTensors(image))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]uint32
	if err := r.Decode(&got); err != nil || got["l"] != want || got["r"] != want {
		t.Errorf("got %v, %v; want %d twice", got, err, want)
	}
	arena.Free(image)
	if err := arena.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "the arena to be gone", func() bool { return s.status().Arenas.Regions == 0 })
}
