package trace

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

var noon = time.Unix(1_800_000_000, 0)

func TestWindow(t *testing.T) {
	var w window
	for i := range 100 {
		w.add(time.Duration(i+1)*time.Millisecond, i < 10, noon.Add(time.Duration(i)*100*time.Millisecond))
	}
	now := noon.Add(10 * time.Second)
	r := w.rates(10*time.Second, now)
	if r.Requests != 100 || r.PerSecond < 9.9 || r.PerSecond > 10.1 || r.Failed < 0.99 || r.Failed > 1.01 || r.P50MS < 49 || r.P50MS > 52 || r.P99MS < 98 || r.P99MS > 101 || r.MaxMS < 100 || r.MaxMS > 102 {
		t.Errorf("%+v", r)
	}
	if r := w.rates(time.Minute, now.Add(55*time.Second)); r.Requests != 50 {
		t.Errorf("when the minute has passed for half of them, the others count: %+v", r)
	}
	if r := w.rates(time.Minute, now.Add(2*time.Minute)); r.Requests != 0 || r.PerSecond != 0 || r.P99MS != 0 {
		t.Errorf("two minutes later none does: %+v", r)
	}
	w.add(time.Hour*24, false, now.Add(2*time.Minute))
	if r := w.rates(time.Minute, now.Add(2*time.Minute)); r.Requests != 1 {
		t.Errorf("a day is counted as what can be told: %+v", r)
	}
}

func TestSlowIsWhatFewAre(t *testing.T) {
	var s stats
	s.pools.Store(&map[string]*poolStats{})
	if s.add("p", time.Hour, false, true, noon) || len(*s.pools.Load()) != 0 {
		t.Error("a pool that no worker of is known is kept")
	}
	for i := range slowAfter {
		if s.add("p", time.Duration(10+i%10)*time.Millisecond, true, false, noon) {
			t.Error("slow before it is known what that is")
		}
	}
	later := noon.Add(2 * slowRefresh)
	if s.add("p", 15*time.Millisecond, true, false, later) || !s.add("p", time.Second, true, false, later) {
		t.Error("what is ordinary is slow, or what is not is not")
	}
	if r := s.rates(later); len(r) != 1 || r[0].Name != "p" || r[0].Minute.Requests != slowAfter+2 {
		t.Errorf("%+v", r)
	}
}

func TestAccessLog(t *testing.T) {
	log := &syncBuffer{}
	tracer, err := New(Config{Requests: true}, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	backend := &scripted{replies: []*ipc.Reply{{Body: ipc.Body("abc")}, {End: true}}}
	if err := ask(t, chain.New(backend.call, tracer.Link, tracer.Reach), &ipc.Request{Pool: "p", Action: "a", TraceID: theirs, Protocol: "native", Body: ipc.Body("12345")}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"level=INFO msg=request pool=p action=a trace_id=0af7651916cd43dd8448eb211c80319c uid=7 pid=99 protocol=native code=OK bytes_in=5 bytes_out=3 chunks=1 queue_ms=", "took_ms=", "worker=p/1 worker_pid=4711",
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("it lacks %q: %s", want, log)
		}
	}
	failing := &scripted{err: ipc.Errorf(ipc.Unavailable, "draining", "no")}
	_ = ask(t, chain.New(failing.call, tracer.Link, tracer.Reach), &ipc.Request{Pool: "p", Action: "a"})
	if !strings.Contains(log.String(), "code=UNAVAILABLE reason=draining") {
		t.Errorf("a failure: %s", log)
	}
	h := chain.New((&scripted{replies: []*ipc.Reply{{}, {}}}).call, tracer.Link, tracer.Reach)
	replies, err := h(t.Context(), &ipc.Request{Pool: "p", Action: "given-up"})
	if err != nil {
		t.Fatal(err)
	}
	replies.Cancel("disconnected")
	replies.Cancel("disconnected")
	if strings.Count(log.String(), "action=given-up") != 1 || !strings.Contains(log.String(), "code=CANCELLED reason=disconnected") {
		t.Errorf("one that is cancelled: %s", log)
	}
	if err := tracer.Configure(Config{}); err != nil {
		t.Fatal(err)
	}
	before := log.String()
	_ = ask(t, chain.New(backend.call, tracer.Link, tracer.Reach), &ipc.Request{Pool: "p", Action: "a"})
	if log.String() != before {
		t.Error("it is logged though nobody wants it")
	}
}

// A flood is logged in part, and the next line says how many lines are missing; failures have room of their own.
func TestAccessLogUnderAFlood(t *testing.T) {
	var a access
	written := 0
	for range 3 * accessBurst {
		if _, ok := a.admit(false, noon); ok {
			written++
		}
	}
	if written != accessBurst {
		t.Errorf("%d lines", written)
	}
	if n, ok := a.admit(true, noon); !ok || n != 2*accessBurst {
		t.Errorf("the failure's line says that %d are missing; %v", n, ok)
	}
	if n, ok := a.admit(false, noon.Add(time.Second)); !ok || n != 0 {
		t.Errorf("a second later: %d, %v", n, ok)
	}
	written = 0
	for range 2 * accessRate {
		if _, ok := a.admit(false, noon.Add(time.Second)); ok {
			written++
		}
	}
	if written != accessRate-1 {
		t.Errorf("a second has room for %d lines", written)
	}
}

func TestControl(t *testing.T) {
	tracer := newTracer(t, Config{})
	h := chain.New(ok().call, tracer.Link, tracer.Reach)
	if err := ask(t, h, &ipc.Request{Pool: "p", Action: "a", TraceID: theirs}); err != nil {
		t.Fatal(err)
	}
	_ = ask(t, chain.New((&scripted{err: ipc.Errorf(ipc.NotFound, "unknown_pool", "no")}).call, tracer.Link, tracer.Reach), &ipc.Request{Pool: "q", Action: "b"})
	tell := func(action string, body, into any) error {
		t.Helper()
		b, err := ipc.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		replies, err := h(t.Context(), &ipc.Request{Pool: controlPool, Action: action, Body: b})
		if err != nil {
			return err
		}
		r, err := replies.Recv(t.Context())
		if err != nil {
			return err
		}
		return r.Body.Decode(into)
	}
	var found Found
	if err := tell("trace", map[string]any{"id": "0af7"}, &found); err != nil || len(found.Traces) != 1 || found.Traces[0].TraceID != theirs[3:35] || len(found.Traces[0].Spans) != 3 || found.Traces[0].Worker != "p/1" {
		t.Errorf("trace: %v, %+v", err, found)
	}
	if err := tell("trace", map[string]any{"id": theirs}, &found); err != nil {
		t.Errorf("by its traceparent: %v", err)
	}
	for id, reason := range map[string]string{"": "invalid_argument", "xyz": "invalid_argument", "ffffffffffffffffffff": "unknown_trace"} {
		if err := tell("trace", map[string]any{"id": id}, &found); ipc.AsError(err).Reason != reason {
			t.Errorf("trace %q: %v", id, err)
		}
	}
	var recent Recent
	if err := tell("recent", nil, &recent); err != nil || len(recent.Requests) != 2 || recent.Requests[0].Outcome != "NOT_FOUND/unknown_pool" || recent.Requests[1].Outcome != "OK" {
		t.Errorf("recent: %v, %+v", err, recent)
	}
	if err := tell("recent", map[string]any{"only": "errors"}, &recent); err != nil || len(recent.Requests) != 1 {
		t.Errorf("recent errors: %v, %+v", err, recent)
	}
	if err := tell("recent", map[string]any{"pool": "p"}, &recent); err != nil || len(recent.Requests) != 1 || recent.Requests[0].Pool != "p" {
		t.Errorf("recent of a pool: %v, %+v", err, recent)
	}
	var s Stats
	if err := tell("stats", nil, &s); err != nil || len(s.Pools) != 1 || s.Pools[0].TenSeconds.Requests != 1 || len(s.Errors) != 1 {
		t.Errorf("stats: %v, %+v", err, s)
	}
	if err := tracer.Configure(Config{Recent: -1}); err != nil {
		t.Fatal(err)
	}
	if err := tell("recent", nil, &recent); ipc.AsError(err).Reason != "tracing_off" {
		t.Errorf("without any: %v", err)
	}
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		body any
		want usage
		ok   bool
	}{
		{map[string]any{"usage": map[string]any{"prompt_tokens": 3, "completion_tokens": 4}}, usage{true, 3, 4}, true},
		{map[string]any{"usage": map[string]any{"input_tokens": 3}}, usage{true, 3, -1}, true},
		{map[string]any{"usage": "a lot"}, usage{}, false},
		{map[string]any{"usage": map[string]any{}}, usage{true, -1, -1}, false},
		{map[string]any{"usage": nil}, usage{}, false},
		{"text", usage{}, false},
		{[]int{1}, usage{}, false},
	} {
		b, err := ipc.Marshal(tt.body)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := usageOf(b); ok != tt.ok || got != tt.want {
			t.Errorf("%v: %+v, %v", tt.body, got, ok)
		}
	}
}
