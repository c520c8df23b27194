package pipeline

import (
	"context"
	"errors"
	"io"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// world is pools in memory.
type world struct {
	link  *Link
	chain chain.Handler

	mu        sync.Mutex
	answers   map[string]func(ctx context.Context, req *ipc.Request) ([]*ipc.Reply, error) // by action
	asked     map[string]ipc.Request
	cancelled []string // actions whose callers went away
	running   int
	most      int // that ran at a time
}

func newWorld(t *testing.T, p Pipeline) *world {
	t.Helper()
	w := &world{link: New(1 << 20), answers: map[string]func(context.Context, *ipc.Request) ([]*ipc.Reply, error){}, asked: map[string]ipc.Request{}}
	if err := w.link.Configure(Config{map[string]Pipeline{"line": p}}, []string{"pool"}); err != nil {
		t.Fatal(err)
	}
	w.chain = chain.New(w.serve, w.link.Link)
	return w
}

func (w *world) serve(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[req.Action] = *req
	f := w.answers[req.Action]
	if f == nil {
		return nil, ipc.Errorf(ipc.NotFound, "unknown_action", "there is no %s", req.Action)
	}
	w.running++
	w.most = max(w.most, w.running)
	return &played{w: w, ctx: ctx, req: req, answer: f}, nil
}

// played makes its replies when the first of them is asked for.
type played struct {
	w       *world
	ctx     context.Context
	req     *ipc.Request
	answer  func(context.Context, *ipc.Request) ([]*ipc.Reply, error)
	replies []*ipc.Reply
	made    bool
}

func (p *played) Recv(ctx context.Context) (*ipc.Reply, error) {
	if !p.made {
		p.made = true
		var err error
		if p.replies, err = p.answer(ctx, p.req); err != nil {
			p.ended()
			if ctx.Err() != nil {
				p.Cancel("")
			}
			return nil, err
		}
	}
	if ctx.Err() != nil {
		p.Cancel("")
		return nil, ipc.AsError(context.Cause(ctx))
	}
	if len(p.replies) == 0 {
		return nil, io.EOF
	}
	r := p.replies[0]
	p.replies = p.replies[1:]
	if r.End {
		p.ended()
	}
	return r, nil
}

func (p *played) ended() {
	p.w.mu.Lock()
	p.w.running--
	p.w.mu.Unlock()
}

func (p *played) Cancel(string) {
	p.w.mu.Lock()
	p.w.cancelled = append(p.w.cancelled, p.req.Action)
	p.w.mu.Unlock()
}

func marshal(t *testing.T, v any) ipc.Body {
	t.Helper()
	b, err := ipc.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// says answers with a body.
func says(t *testing.T, v any) func(context.Context, *ipc.Request) ([]*ipc.Reply, error) {
	b := marshal(t, v)
	return func(context.Context, *ipc.Request) ([]*ipc.Reply, error) {
		return []*ipc.Reply{{End: true, Body: b}}, nil
	}
}

// fails answers with an error.
func fails(e *ipc.Error) func(context.Context, *ipc.Request) ([]*ipc.Reply, error) {
	return func(context.Context, *ipc.Request) ([]*ipc.Reply, error) { return nil, e }
}

// blocks answers when its caller goes away.
func blocks(ctx context.Context, _ *ipc.Request) ([]*ipc.Reply, error) {
	<-ctx.Done()
	return nil, ipc.AsError(context.Cause(ctx))
}

func (w *world) ask(ctx context.Context, req *ipc.Request) ([]*ipc.Reply, error) {
	req.Pool = "line"
	if req.Action == "" {
		req.Action = "run"
	}
	r, err := w.chain(ctx, req)
	if err != nil {
		return nil, err
	}
	var all []*ipc.Reply
	for {
		reply, err := r.Recv(ctx)
		if err != nil {
			return all, err
		}
		if all = append(all, reply); reply.End {
			if _, err := r.Recv(ctx); !errors.Is(err, io.EOF) {
				return all, errors.New("something follows the end")
			}
			return all, nil
		}
	}
}

func decode(t *testing.T, b ipc.Body) (v any) {
	t.Helper()
	if err := b.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func wantError(t *testing.T, err error, code ipc.Code, reason, step string) {
	t.Helper()
	e := ipc.AsError(err)
	if e == nil || e.Code != code || e.Reason != reason || e.Details["step"] != step {
		t.Errorf("got %v with %+v, want %s/%s of step %s", err, e, code, reason, step)
	}
}

// What a step is given is put together from the request and the answers of others, whatever its shape.
func TestValues(t *testing.T) {
	w := newWorld(t, Pipeline{Actions: []string{"run", "chat"}, Steps: []Step{
		{Name: "a", Pool: "pool", Action: "first", Body: "$input.body", All: "$input.tensors"},
		{Name: "out", Pool: "pool", Action: "second", Tensors: map[string]string{"page": "$steps.a.tensors.mask", "x": "$input.tensors.none or null"}, Body: map[string]any{
			"whole":    "$steps.a.body",
			"deep":     "$steps.a.body.lines[1].text",
			"dots":     "$steps.a.body.lines.0.text",
			"quoted":   `$steps.a.body["odd key"]`,
			"none":     "$steps.a.body.nothing.at.all or null",
			"text":     "say $(input.body.word): $(steps.a.body.lines[0].text), $(steps.a.body.n), $(steps.a.body.lines), $$5 for $6, $$(x)",
			"dollar":   "$$input.body",
			"action":   "$input.action",
			"session":  "$input.headers.session",
			"error":    "$steps.a.error",
			"literals": []any{1, 2.5, true, nil, "x", map[string]any{"k": "v"}},
			"list":     []any{"$steps.a.body.n", "y"},
		}},
	}})
	lines := []any{map[string]any{"text": "one"}, map[string]any{"text": "two"}}
	w.answers["first"] = func(_ context.Context, req *ipc.Request) ([]*ipc.Reply, error) {
		mask := req.Tensors[0]
		mask.Name = "mask"
		return []*ipc.Reply{{End: true, Body: marshal(t, map[string]any{"lines": lines, "n": 7, "odd key": "odd"}), Tensors: []ipc.Tensor{mask}}}, nil
	}
	w.answers["second"] = says(t, "done")
	image := ipc.Tensor{Name: "image", DType: "uint8", Shape: []uint64{2}, Data: []byte{1, 2}}
	req := &ipc.Request{Action: "chat", Body: marshal(t, map[string]any{"word": "hello"}), Tensors: []ipc.Tensor{image}, Headers: map[string]string{"session": "s1"}, TraceID: "trace", Client: ipc.Client{UID: 5, PID: 6}, Context: []byte("c"), Credit: 9}
	all, err := w.ask(t.Context(), req)
	if err != nil || len(all) != 1 || decode(t, all[0].Body) != "done" || all[0].Headers["degraded"] != "" {
		t.Fatalf("got %v, %v", all, err)
	}
	got := w.asked["second"]
	want := map[string]any{
		"whole": map[string]any{"lines": lines, "n": int8(7), "odd key": "odd"}, "deep": "two", "dots": "one", "quoted": "odd", "none": nil,
		"text": `say hello: one, 7, [{"text":"one"},{"text":"two"}], $5 for $6, $(x)`, "dollar": "$input.body", "action": "chat", "session": "s1", "error": nil,
		"literals": []any{int8(1), 2.5, true, nil, "x", map[string]any{"k": "v"}}, "list": []any{int8(7), "y"},
	}
	if body := decode(t, got.Body); !reflect.DeepEqual(body, want) {
		t.Errorf("got  %v\nwant %v", body, want)
	}
	if len(got.Tensors) != 1 || got.Tensors[0].Name != "page" || &got.Tensors[0].Data[0] != &image.Data[0] {
		t.Errorf("the tensors are %+v: another name for the same bytes was asked for", got.Tensors)
	}
	for action, r := range w.asked {
		if r.Client != req.Client || r.TraceID != "trace" || string(r.Context) != "c" || r.Headers["session"] != "s1" || r.Pool != "pool" || r.Timeout <= 0 {
			t.Errorf("%s was asked by %+v", action, r)
		}
	}
	if w.asked["second"].Credit != 9 || string(w.asked["first"].Body) != string(req.Body) {
		t.Error("the output has another credit, or a whole body was not passed on as it is")
	}
	if got := testutil.ToFloat64(w.link.meters.steps.WithLabelValues("line", "out", stepOK)); got != 1 {
		t.Errorf("%v outputs are counted", got)
	}
}

// Branches run at the same time: each of these waits for the other.
func TestBranchesRunTogether(t *testing.T) {
	p := Pipeline{Steps: []Step{
		{Name: "l", Pool: "pool", Action: "left"}, {Name: "r", Pool: "pool", Action: "right"},
		{Name: "out", Aggregate: map[string]any{"l": "$steps.l.body", "r": "$steps.r.body"}},
	}}
	w := newWorld(t, p)
	var both sync.WaitGroup
	both.Add(2)
	meet := func(say string) func(context.Context, *ipc.Request) ([]*ipc.Reply, error) {
		return func(ctx context.Context, req *ipc.Request) ([]*ipc.Reply, error) {
			both.Done()
			both.Wait()
			return says(t, say)(ctx, req)
		}
	}
	w.answers["left"], w.answers["right"] = meet("L"), meet("R")
	all, err := w.ask(t.Context(), &ipc.Request{})
	if err != nil || !reflect.DeepEqual(decode(t, all[0].Body), map[string]any{"l": "L", "r": "R"}) {
		t.Errorf("got %v, %v", all, err)
	}
}

// However many steps could run, no more do than the pipeline allows.
func TestFanOutIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := Pipeline{Parallel: 3, Steps: []Step{{Name: "out", Aggregate: map[string]any{}}}}
		sum := map[string]any{}
		for i := range 10 {
			name := string(rune('a' + i))
			p.Steps = append(p.Steps, Step{Name: name, Pool: "pool", Action: name})
			sum[name] = "$steps." + name + ".body"
		}
		p.Steps[0].Aggregate, p.Output = sum, "out"
		w := newWorld(t, p)
		for name := range sum {
			w.answers[name] = func(ctx context.Context, req *ipc.Request) ([]*ipc.Reply, error) {
				<-time.After(time.Second)
				return says(t, name)(ctx, req)
			}
		}
		begun := time.Now()
		if _, err := w.ask(t.Context(), &ipc.Request{}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); w.most != 3 || took != 4*time.Second {
			t.Errorf("%d ran at a time, and all in %v", w.most, took)
		}
	})
}

func TestPartialFailure(t *testing.T) {
	broken := ipc.Errorf(ipc.Internal, "handler", "broken")
	broken.Details = map[string]string{"type": "ValueError"}
	line := func(s Step) Pipeline {
		s.Name, s.Pool, s.Action = "a", "pool", "first"
		return Pipeline{Steps: []Step{s, {Name: "b", Pool: "pool", Action: "other"}, {Name: "out", Aggregate: map[string]any{
			"a": "$steps.a.body", "text": "$steps.a.body.text or null", "why": "$steps.a.error.reason or null", "b": "$steps.b.body",
		}}}}
	}
	t.Run("fail", func(t *testing.T) {
		w := newWorld(t, line(Step{}))
		w.answers["first"], w.answers["other"] = fails(broken), blocks
		_, err := w.ask(t.Context(), &ipc.Request{})
		wantError(t, err, ipc.Internal, "handler", "a")
		if e := ipc.AsError(err); e.Details["type"] != "ValueError" || len(broken.Details) != 1 {
			t.Errorf("the details are %v, and the step's own %v", e.Details, broken.Details)
		}
		if !slices.Equal(w.cancelled, []string{"other"}) {
			t.Errorf("cancelled were %q", w.cancelled)
		}
	})
	for _, c := range []struct {
		name     string
		step     Step
		want     map[string]any
		degraded string
	}{
		{"skip", Step{OnError: Skip}, map[string]any{"a": nil, "text": nil, "why": "handler", "b": "B"}, "step=a; skip; reason=handler"},
		{"default", Step{OnError: Default, Default: marshal(t, map[string]any{"text": "none"})}, map[string]any{"a": map[string]any{"text": "none"}, "text": "none", "why": "handler", "b": "B"}, "step=a; default; reason=handler"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, line(c.step))
			w.answers["first"], w.answers["other"] = fails(broken), says(t, "B")
			all, err := w.ask(t.Context(), &ipc.Request{})
			if err != nil || !reflect.DeepEqual(decode(t, all[0].Body), c.want) || all[0].Headers["degraded"] != c.degraded {
				t.Errorf("got %v, %v", all, err)
			}
			if testutil.ToFloat64(w.link.meters.steps.WithLabelValues("line", "a", stepReplaced)) != 1 {
				t.Error("it is not counted")
			}
		})
	}
}

// A step that was answered by something else says so in the end.
func TestDegradedStepsAreTold(t *testing.T) {
	w := newWorld(t, Pipeline{Steps: []Step{{Name: "a", Pool: "pool", Action: "first"}, {Name: "out", Pool: "pool", Action: "last", Body: "$steps.a.body"}}})
	degraded := func(ctx context.Context, req *ipc.Request) ([]*ipc.Reply, error) {
		all, err := says(t, 1)(ctx, req)
		all[0].Headers = map[string]string{"degraded": "pool=" + req.Action}
		return all, err
	}
	w.answers["first"], w.answers["last"] = degraded, degraded
	all, err := w.ask(t.Context(), &ipc.Request{})
	if err != nil || all[0].Headers["degraded"] != "step=a; pool=first, step=out; pool=last" {
		t.Errorf("got %v, %v", all[0].Headers, err)
	}
}

func TestWhatIsMissing(t *testing.T) {
	for _, c := range []struct {
		name, ref    string
		code         ipc.Code
		reason, step string
	}{
		{"of the request", "$input.body.word", ipc.InvalidArgument, "invalid_argument", "out"},
		{"of its headers", "$input.headers.session", ipc.InvalidArgument, "invalid_argument", "out"},
		{"of an answer", "$steps.a.body.word", ipc.Internal, "pipeline", "out"},
		{"in a text", "x $(steps.a.body[3])", ipc.Internal, "pipeline", "out"},
	} {
		w := newWorld(t, Pipeline{Steps: []Step{{Name: "a", Pool: "pool", Action: "first"}, {Name: "out", Aggregate: []any{c.ref, "$steps.a.body"}}}})
		w.answers["first"] = says(t, []any{1})
		_, err := w.ask(t.Context(), &ipc.Request{})
		wantError(t, err, c.code, c.reason, c.step)
	}
	w := newWorld(t, Pipeline{Steps: []Step{{Name: "out", Pool: "pool", Action: "first", Tensors: map[string]string{"x": "$input.tensors.image"}}}})
	_, err := w.ask(t.Context(), &ipc.Request{})
	wantError(t, err, ipc.InvalidArgument, "invalid_argument", "out")
	_, err = w.ask(t.Context(), &ipc.Request{Action: "fly"})
	wantError(t, err, ipc.NotFound, "unknown_action", "")
}

// What is put together is no larger than a message may be, however often something large is referred to.
func TestBodiesAreBounded(t *testing.T) {
	w := newWorld(t, Pipeline{Steps: []Step{{Name: "out", Aggregate: []any{"$input.body", "$input.body", "$input.body"}}}})
	_, err := w.ask(t.Context(), &ipc.Request{Body: marshal(t, make([]byte, 400<<10))})
	wantError(t, err, ipc.ResourceExhausted, "too_large", "out")
	w = newWorld(t, Pipeline{Steps: []Step{{Name: "out", Aggregate: "$(input.body)$(input.body)$(input.body)"}}})
	_, err = w.ask(t.Context(), &ipc.Request{Body: marshal(t, string(make([]byte, 400<<10)))})
	wantError(t, err, ipc.ResourceExhausted, "too_large", "out")
}

// The output's replies come as it makes them; a step before it that streams becomes one answer.
func TestStreams(t *testing.T) {
	chunks := func(context.Context, *ipc.Request) ([]*ipc.Reply, error) {
		return []*ipc.Reply{
			{Body: marshal(t, map[string]any{"text": "Hel"}), Headers: map[string]string{"k": "v"}}, {Body: marshal(t, map[string]any{"text": "lo"})},
			{Body: marshal(t, map[string]any{"text": "", "finish": "stop"})}, {End: true},
		}, nil
	}
	p := Pipeline{Steps: []Step{{Name: "a", Pool: "pool", Action: "chat", Gather: "text"}, {Name: "out", Pool: "pool", Action: "chat2", Body: "$steps.a.body"}}}
	w := newWorld(t, p)
	w.answers["chat"], w.answers["chat2"] = chunks, chunks
	all, err := w.ask(t.Context(), &ipc.Request{})
	if err != nil || len(all) != 4 || !all[3].End || all[0].Headers["k"] != "v" {
		t.Fatalf("got %d replies, %v", len(all), err)
	}
	if got := decode(t, w.asked["chat2"].Body); !reflect.DeepEqual(got, map[string]any{"text": "Hello", "finish": "stop"}) {
		t.Errorf("the stream became %v", got)
	}
	p.Steps[0].Gather = ""
	w = newWorld(t, p)
	w.answers["chat"] = chunks
	_, err = w.ask(t.Context(), &ipc.Request{})
	wantError(t, err, ipc.Unimplemented, "stream", "a")
	if !slices.Equal(w.cancelled, []string{"chat"}) {
		t.Errorf("cancelled were %q", w.cancelled)
	}
	broken := func(ctx context.Context, req *ipc.Request) ([]*ipc.Reply, error) {
		all, _ := chunks(ctx, req)
		return all[:2], nil
	}
	w = newWorld(t, Pipeline{Steps: []Step{{Name: "out", Pool: "pool", Action: "chat", OnError: Skip}}})
	w.answers["chat"] = broken
	if all, err = w.ask(t.Context(), &ipc.Request{}); len(all) != 2 || ipc.AsError(err).Details["step"] != "out" {
		t.Errorf("of a stream that broke off came %d replies and %v; what was begun is not replaced", len(all), err)
	}
}

// One deadline for all, and the error says which step was late; a step may have less.
func TestDeadlines(t *testing.T) {
	p := Pipeline{Timeout: 3 * time.Second, Steps: []Step{{Name: "a", Pool: "pool", Action: "first"}, {Name: "out", Pool: "pool", Action: "last", Body: "$steps.a.body"}}}
	late := func(d time.Duration) func(context.Context, *ipc.Request) ([]*ipc.Reply, error) {
		return func(ctx context.Context, req *ipc.Request) ([]*ipc.Reply, error) {
			select {
			case <-time.After(d):
				return says(t, 1)(ctx, req)
			case <-ctx.Done():
				return nil, ipc.AsError(context.Cause(ctx))
			}
		}
	}
	for _, c := range []struct {
		name        string
		first, last time.Duration
		timeout     time.Duration // of the request
		own         time.Duration // of the first step
		on          OnError
		took        time.Duration
		step        string // whose deadline passed; "": none
	}{
		{"the pipeline's, in a step", time.Hour, 0, 0, 0, "", 3 * time.Second, "a"},
		{"the pipeline's, in the output", 2 * time.Second, 2 * time.Second, 0, 0, "", 3 * time.Second, "out"},
		{"the request's", time.Hour, 0, time.Second, 0, "", time.Second, "a"},
		{"the step's", time.Hour, 0, 0, 2 * time.Second, "", 2 * time.Second, "a"},
		{"the step's, replaced", time.Hour, 0, 0, 2 * time.Second, Skip, 2 * time.Second, ""},
		{"nobody's", time.Second, time.Second, 0, 2 * time.Second, "", 2 * time.Second, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := p
				p.Steps = slices.Clone(p.Steps)
				p.Steps[0].Timeout, p.Steps[0].OnError = c.own, c.on
				w := newWorld(t, p)
				w.answers["first"], w.answers["last"] = late(c.first), late(c.last)
				ctx := t.Context()
				if c.timeout > 0 { // as the gateway does
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.timeout)
					defer cancel()
				}
				begun := time.Now()
				_, err := w.ask(ctx, &ipc.Request{Timeout: c.timeout})
				if took := time.Since(begun); took != c.took {
					t.Errorf("took %v, want %v", took, c.took)
				}
				if c.step == "" && err != nil {
					t.Error(err)
				} else if c.step != "" {
					wantError(t, err, ipc.DeadlineExceeded, "deadline", c.step)
				}
				if r, asked := w.asked["last"]; asked && r.Timeout > w.asked["first"].Timeout {
					t.Errorf("the second step had %v left, the first %v", r.Timeout, w.asked["first"].Timeout)
				}
			})
		})
	}
}

// paced makes a chunk every second until there were so many, then the end; 0: it never makes any.
type paced struct {
	ctx  context.Context
	n    int
	told chan<- error // why it was not asked for more
}

func (p *paced) Recv(ctx context.Context) (*ipc.Reply, error) {
	pause := time.Second
	if p.n == 0 {
		pause = time.Hour
	}
	select {
	case <-time.After(pause):
	case <-ctx.Done():
		<-p.ctx.Done() // by which a supervisor is told, too
		p.told <- p.ctx.Err()
		return nil, ipc.AsError(context.Cause(ctx))
	}
	if p.n--; p.n == 0 {
		return &ipc.Reply{End: true}, nil
	}
	return &ipc.Reply{Body: ipc.Body{7}}, nil
}

func (p *paced) Cancel(string) {}

// An output with a timeout of its own streams, and the timeout is that of the whole stream.
func TestOutputWithTimeoutStreams(t *testing.T) {
	for _, c := range []struct {
		name     string
		n        int
		own, all time.Duration
		on       OnError
		child    bool // Recv has another context than the request
		chunks   int
		took     time.Duration
		late     bool
	}{
		{"in time", 3, 10 * time.Second, 0, "", false, 3, 3 * time.Second, false},
		{"in its midst", 9, 2500 * time.Millisecond, 0, "", false, 2, 2500 * time.Millisecond, true},
		{"in its midst, by another context", 9, 2500 * time.Millisecond, 0, "", true, 2, 2500 * time.Millisecond, true},
		{"in its midst, which nothing replaces", 9, 2500 * time.Millisecond, 0, Skip, false, 2, 2500 * time.Millisecond, true},
		{"before anything came", 0, 2500 * time.Millisecond, 0, "", false, 0, 2500 * time.Millisecond, true},
		{"before anything came, replaced", 0, 2500 * time.Millisecond, 0, Skip, true, 1, 2500 * time.Millisecond, false},
		{"the pipeline's is shorter", 9, 5 * time.Second, 1500 * time.Millisecond, "", true, 1, 1500 * time.Millisecond, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				told := make(chan error, 1)
				var asked ipc.Request
				link := New(1 << 20)
				p := Pipeline{Timeout: c.all, Steps: []Step{{Name: "out", Pool: "pool", Action: "tell", Timeout: c.own, OnError: c.on}}}
				if err := link.Configure(Config{map[string]Pipeline{"line": p}}, []string{"pool"}); err != nil {
					t.Fatal(err)
				}
				handler := chain.New(func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
					asked = *req
					return &paced{ctx, c.n, told}, nil
				}, link.Link)
				begun := time.Now()
				r, err := handler(t.Context(), &ipc.Request{Pool: "line", Action: "run", Credit: 5})
				if err != nil {
					t.Fatal(err)
				}
				ctx := t.Context()
				if c.child {
					var cancel context.CancelFunc
					ctx, cancel = context.WithCancel(ctx)
					defer cancel()
				}
				chunks := 0
				for err == nil {
					var reply *ipc.Reply
					if reply, err = r.Recv(ctx); err != nil {
						break
					}
					chunks++
					if at := time.Since(begun); c.n > 0 && at != time.Duration(chunks)*time.Second {
						t.Errorf("chunk %d came after %v", chunks, at)
					}
					if reply.End {
						break
					}
				}
				if took := time.Since(begun); chunks != c.chunks || took != c.took {
					t.Errorf("%d chunks in %v, want %d in %v", chunks, took, c.chunks, c.took)
				}
				if asked.Credit != 5 || asked.Timeout != min(c.own, r.(*run).plan.timeout) {
					t.Errorf("it was asked with credit %d and %v", asked.Credit, asked.Timeout)
				}
				if c.late {
					wantError(t, err, ipc.DeadlineExceeded, "deadline", "out")
				} else if err != nil {
					t.Error(err)
				}
				if c.took%time.Second != 0 {
					if err := <-told; !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("the pool's context has %v", err)
					}
				}
				if _, err := r.Recv(ctx); !errors.Is(err, io.EOF) {
					t.Errorf("after the end: %v", err)
				}
				outcome := stepOK
				switch {
				case c.late:
					outcome = stepFailed
				case c.on == Skip:
					outcome = stepReplaced
				}
				if got := testutil.ToFloat64(link.meters.steps.WithLabelValues("line", "out", outcome)); got != 1 {
					t.Errorf("%v are counted as %s", got, outcome)
				}
			})
		})
	}
}

// A client that goes away has every running step told, and the request has ended when they have.
func TestCancelReachesEveryStep(t *testing.T) {
	p := Pipeline{Steps: []Step{
		{Name: "l", Pool: "pool", Action: "left"}, {Name: "r", Pool: "pool", Action: "right"},
		{Name: "out", Aggregate: []any{"$steps.l.body", "$steps.r.body"}},
	}}
	for _, how := range []string{"cancel", "context"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, p)
			w.answers["left"], w.answers["right"] = blocks, blocks
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, err := w.chain(ctx, &ipc.Request{Pool: "line", Action: "run"})
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // both run
			if how == "cancel" {
				r.Cancel("enough")
			} else {
				cancel()
				_, err = r.Recv(ctx)
				wantError(t, err, ipc.Cancelled, "cancelled", "")
			}
			slices.Sort(w.cancelled)
			if w.running != 0 || !slices.Equal(w.cancelled, []string{"left", "right"}) {
				t.Errorf("%s: %d run on; cancelled were %q", how, w.running, w.cancelled)
			}
		})
	}
}

// A request that runs goes on by the pipeline that it began with.
func TestConfigureWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Pipeline{Steps: []Step{{Name: "a", Pool: "pool", Action: "first"}, {Name: "out", Aggregate: "$steps.a.body"}}})
		w.answers["first"] = func(ctx context.Context, req *ipc.Request) ([]*ipc.Reply, error) {
			<-time.After(time.Second)
			return says(t, "old")(ctx, req)
		}
		answered := make(chan any, 1)
		go func() {
			all, _ := w.ask(t.Context(), &ipc.Request{})
			answered <- decode(t, all[0].Body)
		}()
		synctest.Wait()
		if err := w.link.Configure(Config{map[string]Pipeline{"line": {Steps: []Step{{Name: "out", Aggregate: "new"}}}}}, nil); err != nil {
			t.Fatal(err)
		}
		all, err := w.ask(t.Context(), &ipc.Request{})
		if err != nil || decode(t, all[0].Body) != "new" || <-answered != "old" {
			t.Errorf("got %v, %v", all, err)
		}
		if got := w.link.Status(); !reflect.DeepEqual(got, []Status{{"line", []string{"run"}, []string{"out"}}}) {
			t.Errorf("the status is %v", got)
		}
		if err := w.link.Configure(Config{}, nil); err != nil {
			t.Fatal(err)
		}
		if r, err := w.chain(t.Context(), &ipc.Request{Pool: "line", Action: "first"}); err != nil {
			t.Errorf("what is no pipeline any more is not passed on: %v", err)
		} else {
			r.Cancel("")
		}
	})
}

// A request that the link has nothing to do with costs it nothing.
func TestOthersPass(t *testing.T) {
	w := newWorld(t, Pipeline{Steps: []Step{{Name: "out", Aggregate: 1}}})
	reply := &played{w: w}
	h := w.link.Link(func(context.Context, *ipc.Request) (ipc.Replies, error) { return reply, nil })
	req := &ipc.Request{Pool: "pool"}
	if n := testing.AllocsPerRun(100, func() { _, _ = h(context.Background(), req) }); n != 0 {
		t.Errorf("it allocates %v times", n)
	}
}

func TestMistakes(t *testing.T) {
	ask := func(name string, body any) Step { return Step{Name: name, Pool: "pool", Action: "x", Body: body} }
	step := func(s Step) Pipeline { return Pipeline{Steps: []Step{s}} }
	for _, c := range []struct {
		p    Pipeline
		want string
	}{
		{Pipeline{}, "pipelines.line.steps: (none): name at least one step, as in {answer: {pool: smollm2, action: chat, body: $input.body}}"},
		{Pipeline{Actions: []string{}, Steps: []Step{ask("a", nil)}}, "pipelines.line.actions: []: name at least one action, as in [run]; or remove the key"},
		{Pipeline{Parallel: 65, Steps: []Step{ask("a", nil)}}, "pipelines.line.parallel: 65: use 1 to 64"},
		{Pipeline{Output: "b", Steps: []Step{ask("a", nil)}}, "pipelines.line.output: b: there is no such step"},
		{step(Step{Name: "a.b", Aggregate: 1}), `pipelines.line.steps.a.b: "a.b": a step's name consists of letters, digits, '_' and '-'`},
		{step(Step{Name: "a"}), "pipelines.line.steps.a.pool: (none): give `pool: NAME` and `action: NAME`, or `aggregate: {…}`"},
		{step(Step{Name: "a", Pool: "pol", Action: "x"}), "pipelines.line.steps.a.pool: pol: there is no such pool; there are pool"},
		{step(Step{Name: "a", Pool: "pool"}), "pipelines.line.steps.a.action: (none): name the pool's action"},
		{step(Step{Name: "a", Pool: "pool", Aggregate: 1}), "pipelines.line.steps.a.aggregate: (given): a step puts an object together, or asks a pool: give either aggregate, or pool, action and body"},
		{step(Step{Name: "a", Pool: "pool", Action: "x", OnError: "ignore"}), "pipelines.line.steps.a.on_error: ignore: use fail, skip or default"},
		{step(Step{Name: "a", Pool: "pool", Action: "x", OnError: Default}), "pipelines.line.steps.a.default: (none): say what the step's answer is when it fails, as in {text: \"\"}"},
		{step(Step{Name: "a", Pool: "pool", Action: "x", Default: null}), "pipelines.line.steps.a.default: (given): it counts with on_error: default only"},
		{step(ask("a", "$steps.b.body")), "pipelines.line.steps.a.body: $steps.b.body: there is no step b"},
		{step(ask("a", "$steps.a.body")), "pipelines.line.steps.a.body: $steps.a.body: the step refers to itself"},
		{step(ask("a", "$foo.body")), "pipelines.line.steps.a.body: $foo.body: a reference begins with $input or $steps.NAME; write $$ for a literal $"},
		{step(ask("a", "$steps")), "pipelines.line.steps.a.body: $steps: name the step, as in $steps.ocr.body"},
		{step(ask("a", "$input.text")), "pipelines.line.steps.a.body: $input.text: use body, tensors, action or headers of $input, as in $input.body.text"},
		{step(ask("a", "$input.error")), "pipelines.line.steps.a.body: $input.error: use body, tensors, action or headers of $input, as in $input.body.text"},
		{step(ask("a", "$input.action.x")), "pipelines.line.steps.a.body: $input.action.x: use body, tensors, action or headers of $input, as in $input.body.text"},
		{step(ask("a", "$input.tensors.x")), "pipelines.line.steps.a.body: $input.tensors.x: a tensor cannot be in a body; give it under `tensors`"},
		{step(ask("a", "$input.tensors.x.y")), "pipelines.line.steps.a.body: $input.tensors.x.y: a tensor has a name and no parts, as in $input.tensors.image"},
		{step(ask("a", []any{1, map[string]any{"k": "x $(input.body"}})), "pipelines.line.steps.a.body[1].k: x $(input.body: $( without ); write $$( for a literal $("},
		{step(ask("a", "$input.body.a b")), `pipelines.line.steps.a.body: $input.body.a b: "a b" is no name; write ["a b"] for a key with other signs in it than letters, digits, '_' and '-'`},
		{step(ask("a", "$input.body[x]")), `pipelines.line.steps.a.body: $input.body[x]: in brackets comes an element's number, from 0, or a key in quotes, as in [0] or ["key"]`},
		{step(ask("a", "$input.body[0]x")), `pipelines.line.steps.a.body: $input.body[0]x: after ] comes a dot or a bracket, not "x"`},
		{step(ask("a", "$input.body.")), `pipelines.line.steps.a.body: $input.body.: "" is no name; write [""] for a key with other signs in it than letters, digits, '_' and '-'`},
		{step(Step{Name: "a", Pool: "pool", Action: "x", All: "$input.tensors.x"}), "pipelines.line.steps.a.tensors: $input.tensors.x: refer to tensors: all of them, as in $input.tensors, or each by its name, as in {image: $input.tensors.page}"},
		{step(Step{Name: "a", Pool: "pool", Action: "x", Tensors: map[string]string{"t": "$input.body"}}), "pipelines.line.steps.a.tensors.t: $input.body: refer to tensors: all of them, as in $input.tensors, or each by its name, as in {image: $input.tensors.page}"},
		{Pipeline{Steps: []Step{ask("a", nil), ask("b", nil)}}, "pipelines.line.steps.a: unused: no step refers to its answer, and it is not the output; remove it, or name it under `output`"},
		{Pipeline{Output: "a", Steps: []Step{ask("a", nil), ask("b", "$steps.a.body")}}, "pipelines.line.output: a: the output is what nobody else needs; step b refers to it"},
		{Pipeline{Steps: []Step{ask("a", "$steps.c.body"), ask("b", "$steps.a.body"), ask("c", "$steps.b.body"), ask("out", "$steps.a.body")}}, "pipelines.line.steps.a: a → c → b → a: these steps need each other's answers; take one reference away"},
	} {
		cfg := Config{map[string]Pipeline{"line": c.p}}
		err := cfg.Validate([]string{"pool"})
		var field *FieldError
		if !errors.As(err, &field) || err.Error() != c.want {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
	for name, want := range map[string]string{
		"pool":       "pipelines.pool: pool: there is a pool of this name; choose another",
		"ringmaster": "pipelines.ringmaster: ringmaster: this name is reserved for control requests; choose another",
		"a b":        `pipelines.a b: "a b": a pipeline's name is 1 to 64 letters, digits, '-', '_' or '.', beginning with a letter or digit`,
	} {
		cfg := Config{map[string]Pipeline{name: step(ask("a", nil))}}
		if err := cfg.Validate([]string{"pool"}); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// Whatever path is taken through whatever value, it leads to a value, or nowhere.
func FuzzPaths(f *testing.F) {
	f.Add("input.body.a[0].b", []byte("\x81\xa1a\x91\x81\xa1b\x01"))
	f.Add(`steps.x.body["a b"].1 or null`, []byte("\x81\xa3a b\x92\xc0\xc7\x01\x05x"))
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		r, err := parseRef(path)
		if err != nil || ipc.Scan(body) != nil {
			return
		}
		got, err := at(body, r.path)
		if err != nil || got != nil && ipc.Scan(got) != nil {
			t.Errorf("%s leads to %x in %x, %v", path, got, body, err)
		}
	})
}

func TestAt(t *testing.T) {
	whole := map[string]any{"a": []any{1, map[string]any{"0": "digit"}}, "": "empty", "n": nil}
	b := marshal(t, whole)
	for path, want := range map[string]any{"body.a[1]": whole["a"].([]any)[1], "body.a.1.0": "digit", `body[""]`: "empty", "body.n": nil} {
		r, err := parseRef("input." + path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := at(b, r.path)
		if err != nil || got == nil || !reflect.DeepEqual(decode(t, got), want) {
			t.Errorf("%s leads to %x, %v", path, got, err)
		}
	}
	for _, path := range []string{"body.b", "body.a[2]", "body.a.b", "body.n.x", "body[0]", `body.a["0"]`, "body.a[1][0]"} {
		r, err := parseRef("input." + path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := at(b, r.path); got != nil || err != nil {
			t.Errorf("%s leads to %x, %v", path, got, err)
		}
	}
	if got, err := at(nil, nil); err != nil || !reflect.DeepEqual(got, null) {
		t.Errorf("nothing is %x, %v", got, err)
	}
}
