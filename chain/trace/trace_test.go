package trace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/internal/collector"
	"github.com/ringmasterd/ringmaster/internal/traceparent"
	"github.com/ringmasterd/ringmaster/ipc"
)

// scripted answers with replies, then with err or an END; like a supervisor it notes a try.
type scripted struct {
	req     *ipc.Request
	replies []*ipc.Reply
	err     error
}

func (s *scripted) call(_ context.Context, req *ipc.Request) (ipc.Replies, error) {
	if id := req.Times.Wait(time.Now()); id != "" {
		req.TraceID = id
	}
	if s.err != nil {
		req.Times.Done(ipc.AsError(s.err))
		return nil, s.err
	}
	req.Times.Send(time.Now(), req.Pool, 1, 4711, 0)
	copied := *s
	copied.req = req
	return &copied, nil
}

func (s *scripted) Recv(context.Context) (*ipc.Reply, error) {
	if len(s.replies) == 0 {
		return nil, io.EOF
	}
	r := s.replies[0]
	s.replies = s.replies[1:]
	s.req.Times.Reply(r.End && r.Err == nil)
	if r.Err != nil {
		s.req.Times.Done(r.Err)
		return nil, r.Err
	}
	return r, nil
}

func (s *scripted) Cancel(string) {
	s.req.Times.Done(ipc.Errorf(ipc.Cancelled, "cancelled", "it was cancelled"))
}

func ok() *scripted { return &scripted{replies: []*ipc.Reply{{End: true}}} }

func newTracer(t *testing.T, cfg Config) *Tracer {
	t.Helper()
	tracer, err := New(cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tracer.Close(); err != nil {
			t.Error(err)
		}
	})
	return tracer
}

// ask sends a request through a chain and takes its replies.
func ask(t *testing.T, h chain.Handler, req *ipc.Request) error {
	t.Helper()
	ctx := chain.WithPeer(t.Context(), chain.Peer{UID: 7, PID: 99})
	replies, err := h(ctx, req)
	if err != nil {
		return err
	}
	for {
		r, err := replies.Recv(ctx)
		if err != nil || r.End {
			return err
		}
	}
}

func latest(t *Tracer) *record { return &t.recent.list(everything)[0] }

const theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestSpansReachTheCollectorWithTheirParents(t *testing.T) {
	c := collector.New(t)
	tracer := newTracer(t, Config{OTLP: c.URL, Sample: -1})
	inner := func(next chain.Handler) chain.Handler {
		return func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
			ctx, span := Start(ctx, "cache")
			span.Set("ringmaster.cache", "miss")
			defer span.End(nil)
			return next(ctx, req)
		}
	}
	body, err := ipc.Marshal(map[string]any{"text": "hi", "usage": map[string]any{"prompt_tokens": 11, "completion_tokens": 3}})
	if err != nil {
		t.Fatal(err)
	}
	backend := &scripted{replies: []*ipc.Reply{{Body: body}, {End: true}}}
	h := chain.New(backend.call, tracer.Link, inner, tracer.Reach)
	req := &ipc.Request{Pool: "smollm2", Action: "chat", TraceID: theirs, Protocol: "native", Headers: map[string]string{"tracestate": "rojo=00f067aa0ba902b7"}}
	if err := ask(t, h, req); err != nil {
		t.Fatal(err)
	}
	spans := c.Await(t, "four spans", func(s []collector.Span) bool { return len(s) == 4 })
	request, cache, queue, work := collector.Named(t, spans, "chat smollm2"), collector.Named(t, spans, "cache"), collector.Named(t, spans, "queue"), collector.Named(t, spans, "worker")
	if request.Parent() != "b7ad6b7169203331" || request.Kind != pb.Span_SPAN_KIND_SERVER || request.TraceState != "rojo=00f067aa0ba902b7" {
		t.Errorf("the request's span: %v", request)
	}
	for _, s := range spans {
		if s.Trace() != "0af7651916cd43dd8448eb211c80319c" {
			t.Errorf("%s is of another trace, %s", s.Name, s.Trace())
		}
		if s.StartTimeUnixNano < request.StartTimeUnixNano || s.EndTimeUnixNano > request.EndTimeUnixNano || s.EndTimeUnixNano < s.StartTimeUnixNano {
			t.Errorf("%s is not within the request", s.Name)
		}
	}
	if cache.Parent() != request.ID() || queue.Parent() != cache.ID() || work.Parent() != cache.ID() {
		t.Error("the tree is another one")
	}
	told, valid := traceparent.Parse(req.TraceID)
	if !valid || hexadecimal(told.Span[:]) != work.ID() || told.Flags != traceparent.Sampled {
		t.Errorf("the worker was told %s; its span is %s", req.TraceID, work.ID())
	}
	for key, want := range map[string]any{
		"gen_ai.operation.name": "chat", "gen_ai.request.model": "smollm2", "gen_ai.usage.input_tokens": int64(11), "gen_ai.usage.output_tokens": int64(3),
		"ringmaster.pool": "smollm2", "ringmaster.protocol": "native", "ringmaster.client.uid": int64(7), "ringmaster.client.pid": int64(99), "ringmaster.chunks": int64(1),
	} {
		if got := request.Attributes[key]; got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
	if got := work.Attributes; got["ringmaster.worker.slot"] != int64(1) || got["ringmaster.worker.pid"] != int64(4711) || got["ringmaster.first_reply_ms"] == nil {
		t.Errorf("the worker's attributes: %v", got)
	}
	if cache.Attributes["ringmaster.cache"] != "miss" {
		t.Errorf("the cache's attributes: %v", cache.Attributes)
	}
}

func TestFailuresAreToldInSpans(t *testing.T) {
	c := collector.New(t)
	tracer := newTracer(t, Config{OTLP: c.URL, Sample: 1})
	backend := &scripted{err: ipc.Errorf(ipc.ResourceExhausted, "queue_full", "there is no room")}
	if err := ask(t, chain.New(backend.call, tracer.Link, tracer.Reach), &ipc.Request{Pool: "p", Action: "a"}); err == nil {
		t.Fatal("it went well")
	}
	spans := c.Await(t, "two spans", func(s []collector.Span) bool { return len(s) == 2 })
	for _, name := range []string{"p.a", "queue"} {
		s := collector.Named(t, spans, name)
		if s.Status.Code != pb.Status_STATUS_CODE_ERROR || s.Attributes["error.type"] != "RESOURCE_EXHAUSTED" || s.Attributes["ringmaster.reason"] != "queue_full" {
			t.Errorf("%s: %v", name, s)
		}
	}
}

// A request without a traceparent gets one, which is sampled as its number says; one that brings one decides for itself; where tracing is off nothing is changed.
func TestWhoIsSampled(t *testing.T) {
	for _, tt := range []struct {
		name, given string
		cfg         Config
		want        byte // flags of what the worker is told; 0xff: what was given
	}{
		{"all", "", Config{Sample: 1}, 1},
		{"none", "", Config{Sample: -1}, 0},
		{"a parent that is sampled", theirs, Config{Sample: -1}, 1},
		{"a parent that is not", theirs[:54] + "0", Config{Sample: 1}, 0},
		{"rubbish", "rubbish", Config{Sample: 1}, 1},
		{"off", theirs, Config{Recent: -1}, 0xff},
		{"off, without one", "", Config{Recent: -1}, 0xff},
		{"seen by nobody", "", Config{}, 0xff},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.want != 0xff {
				tt.cfg.File = filepath.Join(t.TempDir(), "traces.jsonl")
			}
			tracer := newTracer(t, tt.cfg)
			req := &ipc.Request{Pool: "p", Action: "a", TraceID: tt.given}
			if err := ask(t, chain.New(ok().call, tracer.Link, tracer.Reach), req); err != nil {
				t.Fatal(err)
			}
			p, valid := traceparent.Parse(req.TraceID)
			switch {
			case tt.want == 0xff:
				if req.TraceID != tt.given {
					t.Errorf("the worker is told %q", req.TraceID)
				}
			case !valid || p.Flags != tt.want:
				t.Errorf("the worker is told %q, want the flags %d", req.TraceID, tt.want)
			case tt.given == theirs && hexadecimal(p.Trace[:]) != theirs[3:35]:
				t.Errorf("the trace is another one, %s", p)
			}
		})
	}
}

func TestSampleTakesItsPart(t *testing.T) {
	s, taken := newSampler(0.25), 0
	const n = 20000
	for range n {
		if s.takes(traceparent.NewTrace()) {
			taken++
		}
	}
	if taken < n/5 || taken > n*3/10 {
		t.Errorf("%d of %d", taken, n)
	}
	if newSampler(0).takes([16]byte{15: 1}) || !newSampler(1).takes([16]byte{8: 0xff, 9: 0xff, 10: 0xff, 11: 0xff, 12: 0xff, 13: 0xff, 14: 0xff, 15: 0xff}) {
		t.Error("none is some, or all are not all")
	}
}

// Nobody listens: requests are answered as ever, and what is lost is counted.
func TestCollectorThatIsDown(t *testing.T) {
	for _, how := range []string{"gone", "broken"} {
		t.Run(how, func(t *testing.T) {
			c := collector.New(t)
			if how == "gone" {
				c.Close()
			} else {
				c.Fail(http.StatusInternalServerError)
			}
			log := &syncBuffer{}
			tracer, err := New(Config{OTLP: c.URL, Sample: 1}, slog.New(slog.NewTextHandler(log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			h := chain.New(ok().call, tracer.Link, tracer.Reach)
			const n = 3 * maxPending
			begin := time.Now()
			for range n {
				if err := ask(t, h, &ipc.Request{Pool: "p", Action: "a"}); err != nil {
					t.Fatal(err)
				}
			}
			took := time.Since(begin)
			if err := tracer.Close(); err != nil {
				t.Error(err)
			}
			// On a slow machine Close gives up on the last ones before they have failed.
			poll := time.NewTicker(time.Millisecond)
			defer poll.Stop()
			e := tracer.Stats(time.Now()).Export
			for deadline := time.Now().Add(30 * time.Second); e.Failed+e.Dropped < 3*n && time.Now().Before(deadline); e = tracer.Stats(time.Now()).Export {
				<-poll.C
			}
			if e.Sent != 0 || e.Failed+e.Dropped != 3*n {
				t.Errorf("after %d spans in %v: %+v", 3*n, took, e)
			}
			if how == "broken" && !strings.Contains(log.String(), "spans cannot be exported") {
				t.Errorf("the log does not say so: %s", log)
			}
		})
	}
}

func TestFileHasLinesOfOTLP(t *testing.T) {
	path := filepath.Join(t.TempDir(), "traces.jsonl")
	tracer, err := New(Config{File: path, Sample: 1}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(t, chain.New(ok().call, tracer.Link, tracer.Reach), &ipc.Request{Pool: "p", Action: "a", TraceID: theirs}); err != nil {
		t.Fatal(err)
	}
	if err := tracer.Close(); err != nil {
		t.Fatal(err)
	}
	spans := readLines(t, path)
	if len(spans) != 3 || spans[0].Name != "worker" || spans[2].Name != "p.a" || hexadecimal(spans[2].TraceId) != theirs[3:35] || hexadecimal(spans[2].ParentSpanId) != theirs[36:52] {
		t.Errorf("the file has %v", spans)
	}
	if _, err := New(Config{File: filepath.Join(path, "below-a-file")}, quiet()); err == nil || !strings.Contains(err.Error(), "tracing.file") {
		t.Errorf("a file that cannot be: %v", err)
	}
}

func TestFileIsRotated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "traces.jsonl")
	tracer, err := New(Config{File: path, Sample: 1}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(t, chain.New(ok().call, tracer.Link, tracer.Reach), &ipc.Request{Pool: "p", Action: "a"}); err != nil {
		t.Fatal(err)
	}
	if err := tracer.Close(); err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := openLines(path)
	if err != nil {
		t.Fatal(err)
	}
	l.most = int64(2*len(line) + 10)
	for range 11 {
		l.mu.Lock()
		if l.size+int64(len(line)) > l.most {
			err = l.rotate()
		}
		if err == nil {
			_, err = l.file.Write(line)
			l.size += int64(len(line))
		}
		l.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(path + "*")
	if len(names) != 1+fileCount {
		t.Errorf("there are %q", names)
	}
	for _, n := range names {
		if got := len(readLines(t, n)); got != 6 {
			t.Errorf("%s has %d spans", n, got)
		}
	}
}

func TestRecentIsBounded(t *testing.T) {
	tracer := newTracer(t, Config{Recent: 10})
	good, bad := chain.New(ok().call, tracer.Link, tracer.Reach), chain.New((&scripted{err: errors.New("no")}).call, tracer.Link, tracer.Reach)
	if err := ask(t, bad, &ipc.Request{Pool: "p", Action: "fails"}); err == nil {
		t.Fatal("it went well")
	}
	for i := range 100 {
		if err := ask(t, good, &ipc.Request{Pool: "p", Action: fmt.Sprint("a", i)}); err != nil {
			t.Fatal(err)
		}
	}
	all := tracer.recent.list(everything)
	if len(all) != 10 || all[0].action != "a99" || all[9].action != "a90" {
		t.Errorf("%d are remembered, first %v", len(all), all[0].summary())
	}
	if failed := tracer.recent.list(theFailed); len(failed) != 1 || failed[0].action != "fails" {
		t.Errorf("of the failed, %d are remembered", len(failed))
	}
	for _, n := range []int{3, 20, -1} {
		if err := tracer.Configure(Config{Recent: n}); err != nil {
			t.Fatal(err)
		}
		if got := len(tracer.recent.list(everything)); got != max(0, min(3, n)) {
			t.Errorf("with %d, %d are remembered", n, got)
		}
	}
}

// However many steps a request takes, and whoever still works on it when it has ended, what is remembered has a bound and does not change.
func TestSpansAreBounded(t *testing.T) {
	tracer := newTracer(t, Config{})
	var late Span
	steps := func(next chain.Handler) chain.Handler {
		return func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
			for range 10 * maxSpans {
				_, span := Start(ctx, "step")
				span.End(nil)
			}
			_, late = Start(ctx, "beyond")
			return next(ctx, req)
		}
	}
	if err := ask(t, chain.New(ok().call, tracer.Link, steps, tracer.Reach), &ipc.Request{Pool: "p", Action: "a"}); err != nil {
		t.Fatal(err)
	}
	late.Set("a", "b")
	late.End(errors.New("late"))
	tree := latest(tracer).tree()
	if len(tree.Spans) != maxSpans || tree.Spans[0].Attributes["ringmaster.spans_left_out"] == nil {
		t.Errorf("there are %d spans", len(tree.Spans))
	}
}

func TestHedgedAttemptsAreBothThere(t *testing.T) {
	tracer := newTracer(t, Config{})
	hedge := func(next chain.Handler) chain.Handler {
		return func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
			var wg sync.WaitGroup
			answers := make([]ipc.Replies, 2)
			for i := range answers {
				wg.Go(func() {
					ctx, span := Start(ctx, fmt.Sprint("attempt ", i))
					mine := *req
					answers[i], _ = next(ctx, &mine)
					span.End(nil)
				})
			}
			wg.Wait()
			answers[1].Cancel("hedged")
			return answers[0], nil
		}
	}
	if err := ask(t, chain.New(ok().call, tracer.Link, hedge, tracer.Reach), &ipc.Request{Pool: "p", Action: "a"}); err != nil {
		t.Fatal(err)
	}
	tree := latest(tracer).tree()
	names := map[string]int{}
	for _, s := range tree.Spans {
		names[s.Name]++
		if s.Name == "worker" && !strings.HasPrefix(tree.Spans[s.Within].Name, "attempt") {
			t.Errorf("a worker's span is within %q", tree.Spans[s.Within].Name)
		}
	}
	if names["queue"] != 2 || names["worker"] != 2 || tree.Attempts != 2 {
		t.Errorf("%v, %d attempts", names, tree.Attempts)
	}
}

// The supervisor sees the same context in a call and when replies are asked for, whatever spans were begun between.
func TestTheSupervisorKnowsItsContextAgain(t *testing.T) {
	tracer := newTracer(t, Config{})
	seen := make([]context.Context, 0, 2)
	backend := func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		seen = append(seen, ctx)
		replies, err := ok().call(ctx, req)
		return watching{replies, &seen}, err
	}
	steps := func(next chain.Handler) chain.Handler {
		return func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
			ctx, span := Start(ctx, "step")
			defer span.End(nil)
			return next(ctx, req)
		}
	}
	if err := ask(t, chain.New(backend, tracer.Link, steps, tracer.Reach), &ipc.Request{Pool: "p", Action: "a"}); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2 || seen[0] != seen[1] {
		t.Errorf("it sees %v", seen)
	}
}

type watching struct {
	ipc.Replies
	seen *[]context.Context
}

func (w watching) Recv(ctx context.Context) (*ipc.Reply, error) {
	*w.seen = append(*w.seen, ctx)
	return w.Replies.Recv(ctx)
}

func TestStartCostsNothingWhereNobodyFollows(t *testing.T) {
	ctx := chain.WithPeer(t.Context(), chain.Peer{})
	if n := testing.AllocsPerRun(100, func() {
		_, span := Start(ctx, "cache")
		span.Set("a", "b")
		span.End(nil)
	}); n != 0 {
		t.Errorf("it allocates %v times", n)
	}
}

// What every request has is one piece of memory, and what is remembered of it none.
func TestARequestIsFollowedInOnePieceOfMemory(t *testing.T) {
	tracer := newTracer(t, Config{})
	answer := &one{}
	h := chain.New(func(_ context.Context, req *ipc.Request) (ipc.Replies, error) {
		req.Times.Wait(noon)
		req.Times.Send(noon, "p", 1, 4711, 0)
		answer.done = false
		return answer, nil
	}, tracer.Link, tracer.Reach)
	ctx, req := chain.WithPeer(t.Context(), chain.Peer{UID: 7}), &ipc.Request{Pool: "p", Action: "a", Protocol: native}
	ask := func() {
		replies, err := h(ctx, req)
		if err == nil {
			_, err = replies.Recv(ctx)
		}
		if err != nil {
			t.Error(err)
		}
	}
	ask()
	if n := testing.AllocsPerRun(1000, ask); n > 2 { // the other is the reply
		t.Errorf("it allocates %v times", n)
	}
}

func BenchmarkStartOff(b *testing.B) {
	ctx := chain.WithPeer(context.Background(), chain.Peer{})
	b.ReportAllocs()
	for b.Loop() {
		_, span := Start(ctx, "cache")
		span.End(nil)
	}
}

func BenchmarkRequest(b *testing.B) {
	for name, cfg := range map[string]Config{"off": {Recent: -1}, "recent": {Sample: -1}, "sampled": {Sample: 1, File: os.DevNull}} {
		b.Run(name, func(b *testing.B) {
			tracer, err := New(cfg, quiet())
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = tracer.Close() }()
			h := chain.New((&scripted{replies: []*ipc.Reply{{End: true}}}).call, tracer.Link, tracer.Reach)
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				replies, err := h(ctx, &ipc.Request{Pool: "p", Action: "a", Protocol: native})
				if err == nil {
					_, err = replies.Recv(ctx)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("without", func(b *testing.B) {
		h := (&scripted{replies: []*ipc.Reply{{End: true}}}).call
		ctx := context.Background()
		b.ReportAllocs()
		for b.Loop() {
			replies, err := h(ctx, &ipc.Request{Pool: "p", Action: "a", Protocol: native})
			if err == nil {
				_, err = replies.Recv(ctx)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
