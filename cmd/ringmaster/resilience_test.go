package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/ipc"
)

// web is a client of the server's that speaks HTTP.
func (s *server) web() *http.Client {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.socket)
	}}
	return &http.Client{Transport: transport, Timeout: patience}
}

// fetch makes a request by HTTP, POST if there is a body, and returns the response's headers and body.
func (s *server) fetch(path, body string) (http.Header, string) {
	s.t.Helper()
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := s.web().Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	answer, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return r.Header, string(answer)
}

// metric is the value of a line of /metrics, 0 if there is none.
func (s *server) metric(line string) float64 {
	s.t.Helper()
	_, text := s.fetch("/metrics", "")
	for l := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(l, line+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

// occupy has a pool's only worker busy until the function that is returned is called.
func (s *server) occupy(pool string) (release func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = s.client.Call(ctx, pool, "sleep", map[string]any{"seconds": 3600}, client.WithTimeout(time.Hour))
	})
	eventually(s.t, "the worker to be busy", func() bool { return s.inFlight(pool) == 1 })
	return func() {
		cancel()
		wg.Wait()
	}
}

func (s *server) inFlight(pool string) int {
	s.t.Helper()
	for _, p := range s.status().Pools {
		if p.Name == pool {
			return p.InFlight
		}
	}
	return 0
}

func errorReason(err error) string {
	var e *ipc.Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// What finds no room is tried again until it does, and the reply says how often.
func TestRetryUntilThereIsRoom(t *testing.T) {
	s := serve(t, `
pools:
  busy:
    builtin: echo
    queue: 0
    resilience: {retry: {max: 100, backoff: 1s, max_backoff: 10s, budget: 100%}}
`)
	release := s.occupy("busy")
	type answer struct {
		reply *client.Reply
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		r, err := s.client.Call(context.Background(), "busy", "echo", "hello")
		answered <- answer{r, err}
	}()
	eventually(t, "a retry", func() bool { return s.metric(`ringmaster_retries_total{pool="busy"}`) >= 1 })
	release()
	a := <-answered
	if a.err != nil || a.reply.Headers["attempts"] < "2" || a.reply.Headers["degraded"] != "" {
		t.Fatalf("got %+v", a)
	}
}

// An outage of everything does not become a storm: what is tried again is a share of what was asked.
func TestRetryBudgetInAnOutage(t *testing.T) {
	s := serve(t, `
pools:
  down:
    builtin: echo
    queue: 0
    resilience: {retry: {max: 3, backoff: 1ms, max_backoff: 20ms, budget: 20%}}
`)
	defer s.occupy("down")()
	const requests = 200
	var wg sync.WaitGroup
	for range requests {
		wg.Go(func() {
			if _, err := s.client.Call(t.Context(), "down", "echo", "hello"); errorReason(err) != "queue_full" {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	retries, spent := s.metric(`ringmaster_retries_total{pool="down"}`), s.metric(`ringmaster_retry_budget_exhausted_total{pool="down"}`)
	if retries < 1 || retries > requests/5+10 || spent == 0 {
		t.Errorf("%d requests were tried again %v times, and the budget was spent %v times", requests, retries, spent)
	}
}

// Workers that die open the circuit; what takes the pool's place says so, in every protocol; a probe that succeeds closes it.
func TestCircuitOpensAndCloses(t *testing.T) {
	s := serve(t, `
pools:
  big:
    builtin: echo
    resilience:
      breaker: {failures: 3, window: 1m, open: 2s}
      fallback: [{pool: small}]
  small: {builtin: echo}
`)
	crashes := 0
	crash := func() error {
		crashes++ // each another request, or they would be poison
		_, err := s.client.Call(t.Context(), "big", "crash", map[string]int{"n": crashes})
		return err
	}
	for range 3 {
		if err := crash(); errorReason(err) != "worker_lost" { // it may not run twice, so that nothing takes its place
			t.Fatal(err)
		}
	}
	const open = `ringmaster_circuit_state{pool="big",state="open"}`
	if s.metric(open) != 1 || s.metric(`ringmaster_circuit_opened_total{pool="big"}`) != 1 {
		t.Fatal("three workers died, and the circuit is not open")
	}
	const degraded = "pool=small; reason=circuit_open"
	r, err := s.client.Call(t.Context(), "big", "echo", "hello")
	if err != nil || r.Headers["degraded"] != degraded || r.Headers["pool"] != "small" || r.Headers["attempts"] != "1" {
		t.Fatalf("got %+v, %v", r, err)
	}
	web, body := s.fetch("/rpc", `{"jsonrpc": "2.0", "id": 1, "method": "big.echo", "params": {"hello": "world"}}`)
	if web.Get("X-Ringmaster-Degraded") != degraded || web.Get("X-Ringmaster-Pool") != "small" || !strings.Contains(body, `"world"`) {
		t.Errorf("by HTTP: %v, %s", web, body)
	}
	if r := s.run("call", "big", "echo", "--data", "1"); r.code != 0 || r.errOut != "degraded: "+degraded+"\n" {
		t.Errorf("on the command line: %+v", r)
	}
	if got := s.metric(`ringmaster_fallbacks_total{by="pool",pool="big"}`); got != 3 {
		t.Errorf("%v fallbacks are counted", got)
	}

	eventually(t, "a probe, which fails", func() bool { return errorReason(crash()) == "worker_lost" })
	if s.metric(`ringmaster_circuit_opened_total{pool="big"}`) != 2 {
		t.Error("a probe failed, and the circuit is not open again")
	}
	eventually(t, "a probe that succeeds", func() bool {
		r, err := s.client.Call(t.Context(), "big", "echo", "hello")
		return err == nil && r.Headers["degraded"] == ""
	})
	if s.metric(`ringmaster_circuit_state{pool="big",state="closed"}`) != 1 {
		t.Error("a probe succeeded, and the circuit is not closed")
	}
	s.logged("the pool is not asked for a while", "the pool is asked again: it answers")
}

// A second worker answers where the first is slow, and the first is told to stop.
func TestHedgeWinsOverASlowWorker(t *testing.T) {
	s := serve(t, `
pools:
  pair:
    builtin: echo
    workers: 2
    grace: 1h
    resilience: {hedge: {after: 50ms, max: 1}}
`)
	slow := s.worker().PID
	if err := syscall.Kill(slow, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(slow, syscall.SIGCONT) }()
	eventually(t, "a request that the stopped worker got", func() bool {
		r, err := s.client.Call(t.Context(), "pair", "echo", "hello")
		if err != nil {
			t.Fatal(err)
		}
		return r.Headers["attempts"] == "2"
	})
	if s.metric(`ringmaster_hedges_total{outcome="won",pool="pair"}`) < 1 {
		t.Error("no hedge has won")
	}
	if err := syscall.Kill(slow, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loser to be ended", func() bool { return s.inFlight("pair") == 0 })
}

// A fixed reply, where workers do not even start, by way of OpenAI's paths; and what a reload makes of it.
func TestFixedReply(t *testing.T) {
	const pool = "pools:\n  model:\n    command: [/bin/false]\n    resilience: {fallback: [{reply: {text: %}}]}\n"
	s := serve(t, strings.Replace(pool, "%", "later", 1))
	web, body := s.fetch("/v1/chat/completions", `{"model": "model", "messages": [{"role": "user", "content": "hello"}]}`)
	if web.Get("X-Ringmaster-Degraded") != "reply=fixed; reason=crash_loop" || !strings.Contains(body, `"content":"later"`) {
		t.Errorf("got %v, %s", web, body)
	}
	writeConfig(t, s.dir, strings.Replace(pool, "%", "sorry", 1))
	if r := s.run("reload"); r.code != 0 || r.out != "changed: model\n" {
		t.Errorf("reload: %+v", r)
	}
	if r := s.run("call", "model", "chat"); r.code != 0 || r.out != "{\"text\":\"sorry\"}\n" {
		t.Errorf("after the reload: %+v", r)
	}
	if r := s.run("call", "model", "chat", "--stream"); r.code != 0 || r.out != "sorry\n" {
		t.Errorf("as a stream: %+v", r)
	}
}

// While a pool is not asked, what its cache still has of before stands in, and says that it is old.
func TestStaleAnswerStandsIn(t *testing.T) {
	s := serve(t, `
pools:
  big:
    builtin: echo
    actions: {echo: {cache: {ttl: 50ms, stale: 1h}}}
    resilience:
      breaker: {failures: 1, open: 1h}
      fallback: [{stale: 30m}, {reply: nothing}]
`)
	if _, err := s.client.Call(t.Context(), "big", "echo", "hello"); err != nil {
		t.Fatal(err)
	}
	if r, err := s.client.Call(t.Context(), "big", "crash", nil); err != nil || r.Headers["degraded"] != "reply=fixed; reason=worker_lost" {
		t.Fatalf("got %+v, %v", r, err)
	}
	eventually(t, "the answer to be older than its ttl", func() bool {
		r, err := s.client.Call(t.Context(), "big", "echo", "hello")
		var said string
		if err != nil || r.Decode(&said) != nil || said != "hello" {
			t.Fatalf("got %+v, %v", r, err)
		}
		return strings.HasPrefix(r.Headers["degraded"], "stale=") && strings.HasSuffix(r.Headers["degraded"], "; reason=circuit_open") && r.Headers["cache"] == "stale"
	})
	if s.metric(`ringmaster_fallbacks_total{by="stale",pool="big"}`) != 1 {
		t.Error("it is not counted")
	}
}
