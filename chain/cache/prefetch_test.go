package cache

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/ringmasterd/ringmaster/ipc"
)

func valueOf(t *testing.T, c prometheus.Counter) int {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return int(m.GetCounter().GetValue())
}

// reading has an action read, after which its text is embedded.
func reading(body any) Config {
	return Config{Pools: map[string]Pool{
		"ocr":   {Actions: map[string]Action{"read": {Then: []Follow{{Pool: "embed", Action: "embed", Body: body}}}}},
		"embed": {Actions: map[string]Action{"embed": {TTL: testTTL}}},
	}}
}

func ocr(header string) *ipc.Request {
	req := request(map[string]any{"page": 1})
	req.Pool, req.Action = "ocr", "read"
	if header != "" {
		req.Headers = map[string]string{"session": header}
	}
	return req
}

func embed(text, session string) *ipc.Request {
	req := request(map[string]any{"texts": []string{text}})
	req.Pool, req.Action = "embed", "embed"
	if session != "" {
		req.Headers = map[string]string{"session": session}
	}
	return req
}

func ocrWorkers() *workers {
	return &workers{handle: func(_ context.Context, req *ipc.Request) (ipc.Replies, error) {
		if req.Pool == "ocr" {
			return answers(reply(true, map[string]any{"result": map[string]any{"text": "hello"}})), nil
		}
		return answers(&ipc.Reply{End: true, Body: req.Body}), nil
	}}
}

func (h *harness) meters(pool, action string) *meters {
	return h.settings.Load().pools[pool].actions[action].meters
}

func TestPrefetch(t *testing.T) {
	w := ocrWorkers()
	h := start(t, reading(map[string]any{"texts": []any{"$reply.result.text"}}), w)
	h.says("", ocr("s"))
	eventually(t, "the answer in advance", func() bool { return h.store.Load().entries.EstimatedSize() == 1 })
	if last := w.last(); !last.Background || last.Pool != "embed" {
		t.Errorf("in advance: %+v", last)
	}
	h.says(saidPrefetched, embed("hello", "s"))
	h.says(saidPrefetched, embed("hello", "s"))
	h.says(saidMiss, embed("hello", "another session"))
	m := h.meters("embed", "embed")
	if a, b, c := valueOf(t, m.issued), valueOf(t, m.used), valueOf(t, m.wasted); a != 1 || b != 1 || c != 0 {
		t.Errorf("issued %d, used %d, wasted %d", a, b, c)
	}
	// It is known now, so nothing is asked again.
	h.says("", ocr("s"))
	h.Close()
	if w.count() != 4 {
		t.Errorf("%d requests", w.count())
	}
}

func TestPrefetchIsWasted(t *testing.T) {
	h := start(t, reading(map[string]any{"texts": []any{"$reply.result.text"}}), ocrWorkers())
	h.says("", ocr(""))
	eventually(t, "the answer in advance", func() bool { return h.store.Load().entries.EstimatedSize() == 1 })
	m := h.meters("embed", "embed")
	h.Clear("embed")
	if a, b := valueOf(t, m.used), valueOf(t, m.wasted); a != 0 || b != 1 {
		t.Errorf("used %d, wasted %d", a, b)
	}
}

// A busy pool's refusal is the end of it; the one who asks himself is not refused for it.
func TestPrefetchIsRefused(t *testing.T) {
	gate := make(chan struct{})
	w := ocrWorkers()
	inner := w.handle
	w.handle = func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		if req.Background {
			<-gate
			return nil, ipc.Errorf(ipc.ResourceExhausted, "busy", "no")
		}
		return inner(ctx, req)
	}
	h := start(t, reading(map[string]any{"texts": []any{"$reply.result.text"}}), w)
	h.says("", ocr(""))
	eventually(t, "the prefetch", func() bool { return w.count() == 2 })
	joined := h.begin(t.Context(), embed("hello", ""))
	eventually(t, "another to wait for it", func() bool { return h.waiters() == 2 })
	close(gate)
	if o := <-joined; o.err != nil {
		t.Error(o.err)
	}
	eventually(t, "the refusal to be counted", func() bool { return valueOf(t, h.meters("embed", "embed").refused) == 1 })
}

// No more run at a time than may, none is queued, and the cache's end is theirs.
func TestPrefetchesAreBoundedAndCancelled(t *testing.T) {
	var mu sync.Mutex
	running, ended := 0, 0
	w := ocrWorkers()
	inner := w.handle
	w.handle = func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		if !req.Background {
			return inner(ctx, req)
		}
		mu.Lock()
		running++
		mu.Unlock()
		<-ctx.Done()
		mu.Lock()
		ended++
		mu.Unlock()
		return nil, ipc.AsError(context.Cause(ctx))
	}
	cfg := reading(map[string]any{"texts": []any{"$request.page"}})
	cfg.Prefetch.Concurrency = 2
	h := start(t, cfg, w)
	for i := range 10 {
		req := request(map[string]any{"page": i})
		req.Pool, req.Action = "ocr", "read"
		h.says("", req)
	}
	eventually(t, "two to run", func() bool { mu.Lock(); defer mu.Unlock(); return running == 2 })
	h.Close()
	if running != 2 || ended != 2 {
		t.Errorf("%d ran, %d were cancelled", running, ended)
	}
}

func TestRender(t *testing.T) {
	req, _ := ipc.Marshal(map[string]any{"lang": "de", "n": 3})
	rep, _ := ipc.Marshal(map[string]any{"text": "x", "list": []int{1, 2}, "deep": map[string]any{"a": map[string]any{"b": 1.5}}})
	for _, tt := range []struct {
		template any
		want     any // nil: there is none
	}{
		{"$reply.text", "x"}, {"$request.n", 3}, {"$reply.list", []int{1, 2}}, {"$reply.deep.a.b", 1.5}, {"$reply.deep.a", map[string]any{"b": 1.5}},
		{map[string]any{"t": "$reply.text", "l": "$request.lang", "k": 7, "c": "$$reply", "s": []any{"$reply.list", true}}, map[string]any{"t": "x", "l": "de", "k": 7, "c": "$reply", "s": []any{[]int{1, 2}, true}}},
		{"$reply.none", nil}, {"$reply.text.more", nil}, {[]any{"$request.none"}, nil}, {map[string]any{"a": "$reply.list.0"}, nil},
		{"plain", "plain"},
	} {
		got, ok := render(tt.template, req, rep)
		if ok != (tt.want != nil) {
			t.Errorf("%v: %v", tt.template, ok)
			continue
		}
		want, err := ipc.Marshal(tt.want)
		if err != nil {
			t.Fatal(err)
		}
		var a, b canonical
		if ok && (!a.encode(got) || !b.encode(want) || string(a.out) != string(b.out)) {
			t.Errorf("%v: %x, want %x", tt.template, got, want)
		}
	}
	if whole, ok := render("$reply", req, rep); !ok || string(whole) != string(rep) {
		t.Errorf("the whole reply: %x", whole)
	}
	if whole, ok := render(map[string]any{"a": "$request"}, nil, rep); !ok || string(whole) != "\x81\xa1a\xc0" {
		t.Errorf("no body: %x", whole)
	}
	for _, bad := range []any{"$", "$rep", "$reply.", "$reply..a", "$replyx", map[string]any{"a": []any{"$x"}}} {
		if checkTemplate(bad) == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
}

func learning() Config {
	cfg := one(nil)
	cfg.Prefetch.Learn = true
	return cfg
}

// What has followed twice is asked in advance the third time: for the session's user, also in another session, but for nobody else.
func TestLearns(t *testing.T) {
	w := echoing()
	h := start(t, learning(), w)
	from := func(uid uint32, pid int32, what any) *ipc.Request {
		req := request(what)
		req.Client = ipc.Client{UID: uid, PID: pid}
		return with(req, "cache", refresh) // so that each is asked again
	}
	asks := func(want string, req *ipc.Request) {
		t.Helper()
		h.says(want, req)
		h.work.Wait() // for what is asked in advance
	}
	for range 2 {
		asks(saidMiss, from(1, 10, "a"))
		asks(saidMiss, from(1, 10, "b"))
	}
	h.Clear("") // forgets the answers, and what was learned
	asks(saidMiss, from(1, 10, "a"))
	if n := w.count(); n != 5 {
		t.Fatalf("%d requests", n)
	}
	for range 2 {
		asks(saidMiss, from(1, 10, "b"))
		asks(saidMiss, from(1, 10, "a"))
	}
	h.clock.pass(testTTL) // nothing of it is good any more
	asks(saidMiss, from(2, 10, "b"))
	if last := w.last(); last.Background {
		t.Errorf("asked in advance for another user: %+v", last)
	}
	asks(saidMiss, from(1, 99, "b"))
	if last := w.last(); !last.Background || string(last.Body) != "\xa1a" {
		t.Errorf("asked last: %+v", last)
	}
	req := request("a")
	req.Client.PID = 99
	h.says(saidPrefetched, req)
}

// A step is forgotten with time, replaced by another that is seen more often, and the oldest of too many goes first.
func TestLearner(t *testing.T) {
	clock := newClock()
	s := newStore(64<<20, clock)
	defer s.close()
	key := func(n int) (k Key) {
		k[0], k[1], k[2] = byte(n), byte(n>>8), byte(n>>16)
		return k
	}
	var l learner
	session := key(1 << 20)
	see := func(n int) { l.see(session, key(n), request(n), s) }
	expect := func(after int, want any) {
		t.Helper()
		got := l.after(key(after), clock.NowNano())
		if (got == nil) != (want == nil) || got != nil && string(got.Body) != string(request(want).Body) {
			t.Errorf("after %d: %+v, want %v", after, got, want)
		}
	}
	see(1)
	see(2)
	expect(1, nil)
	see(1)
	see(2)
	expect(1, 2)
	expect(2, nil) // 1 has followed once
	clock.pass(stepHalf)
	expect(1, nil)
	for range 2 {
		see(1)
		see(2)
	}
	expect(1, 2)
	for range 5 {
		see(1)
		see(3)
	}
	expect(1, 3)
	clock.pass(togetherness)
	see(9)
	if l.steps[key(3)].Value.(*step).to == key(9) {
		t.Error("what came a minute later is said to have followed")
	}
	for n := range 3 * maxSteps {
		see(n)
	}
	if len(l.steps) != maxSteps || l.used.Len() != maxSteps || l.bytes > maxStepBytes || s.room.held.Load() != int64(l.bytes) {
		t.Errorf("%d steps, %d bytes", len(l.steps), l.bytes)
	}
	for n := range 3 * maxSequences {
		l.see(key(n), key(n), request(n), s)
	}
	if len(l.sequences) != maxSequences || l.recent.Len() != maxSequences {
		t.Errorf("%d sequences", len(l.sequences))
	}
}

func TestSurely(t *testing.T) {
	if a, b := surely(4, stepHalf), surely(4, 0); a != 2 || b != 4 {
		t.Errorf("%v, %v", a, b)
	}
	if got := surely(8, 24*time.Hour); got > 0.01 {
		t.Errorf("%v after a day", got)
	}
}

// What is asked in advance is given up for others as long as nobody has asked for it himself, and after that nobody may join it; if it comes to its end all the same, its answer is kept.
func TestPrefetchYields(t *testing.T) {
	for _, joined := range []bool{false, true} {
		begun, finish := make(chan *ipc.Request, 2), make(chan struct{})
		w := &workers{handle: func(_ context.Context, req *ipc.Request) (ipc.Replies, error) {
			if req.Pool == "ocr" {
				return answers(reply(true, map[string]any{"result": map[string]any{"text": "hello"}})), nil
			}
			begun <- req
			if req.Background {
				<-finish
			}
			return answers(&ipc.Reply{End: true, Body: req.Body}), nil
		}}
		h := start(t, reading(map[string]any{"texts": []any{"$reply.result.text"}}), w)
		h.says("", ocr("s"))
		ahead := <-begun
		var wg sync.WaitGroup
		if joined {
			wg.Go(func() { h.says(saidCoalesced, embed("hello", "s")) })
			eventually(t, "somebody to join", func() bool { return h.waiters() == 2 })
		}
		if ahead.Yield() == joined {
			t.Errorf("joined %v: given up %v", joined, !joined)
		}
		if !joined {
			h.says(saidMiss, embed("hello", "s")) // he asks by himself
			if req := <-begun; req.Background || req.Yield != nil {
				t.Errorf("%+v", req)
			}
			h.says(saidHit, embed("hello", "s"))
		}
		close(finish)
		wg.Wait()
		h.Close()
	}
}

// A worker that does not listen finishes what was given up: that is kept.
func TestPrefetchThatYieldsInVain(t *testing.T) {
	w := ocrWorkers()
	yielded := make(chan struct{})
	answer := w.handle
	w.handle = func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		if req.Background {
			if !req.Yield() {
				t.Error("it is not given up")
			}
			close(yielded)
		}
		return answer(ctx, req)
	}
	h := start(t, reading(map[string]any{"texts": []any{"$reply.result.text"}}), w)
	h.says("", ocr("s"))
	<-yielded
	eventually(t, "the answer in advance", func() bool { return h.store.Load().entries.EstimatedSize() == 1 })
	h.says(saidPrefetched, embed("hello", "s"))
}
