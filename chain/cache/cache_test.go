package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringmasterd/ringmaster/ipc"
)

func TestHitAndTTL(t *testing.T) {
	w := echoing()
	h := start(t, one(nil), w)
	req := request("x")
	h.says(saidMiss, req)
	h.clock.pass(1500 * time.Millisecond)
	r := h.says(saidHit, req)
	var text string
	if err := r.Body.Decode(&text); err != nil || text != "x" || r.Headers["age"] != "1" {
		t.Errorf("%+v, %v", r, err)
	}
	h.clock.pass(testTTL - 1500*time.Millisecond - 1)
	h.says(saidHit, req)
	h.clock.pass(1)
	h.says(saidMiss, req)
	h.says(saidHit, req)
	h.says(saidMiss, request("y"))
	if w.count() != 3 {
		t.Errorf("%d requests got through", w.count())
	}
}

func TestWishes(t *testing.T) {
	w := echoing()
	h := start(t, one(nil), w)
	req := request("x")
	for i, step := range []struct {
		wish, want string
		through    int
	}{
		{bypass, "", 1}, {noStore, "", 2}, {"", saidMiss, 3}, {"", saidHit, 3}, {noStore, saidHit, 3}, {bypass, "", 4}, {refresh, saidMiss, 5}, {"", saidHit, 5},
	} {
		r := req
		if step.wish != "" {
			r = with(req, "cache", step.wish)
		}
		h.says(step.want, r)
		if w.count() != step.through {
			t.Errorf("step %d: %d got through, want %d", i, w.count(), step.through)
		}
	}
	_, err := h.handler(t.Context(), with(req, "cache", "often"))
	var e *ipc.Error
	if !errors.As(err, &e) || e.Code != ipc.InvalidArgument {
		t.Error(err)
	}
}

// What refresh brings takes the place of what was there, and is not undone by what was under way before.
func TestRefreshWins(t *testing.T) {
	gates := []chan struct{}{make(chan struct{}, 1), make(chan struct{}, 1)}
	var n atomic.Int32
	w := &workers{handle: func(context.Context, *ipc.Request) (ipc.Replies, error) {
		i := n.Add(1) - 1
		return &scripted{replies: []*ipc.Reply{reply(true, i)}, gate: gates[i]}, nil
	}}
	h := start(t, one(nil), w)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _, _ = h.all(context.Background(), request("x")) })
	eventually(t, "the first", func() bool { return w.count() == 1 })
	wg.Go(func() { _, _ = h.all(context.Background(), with(request("x"), "cache", refresh)) })
	eventually(t, "the second", func() bool { return w.count() == 2 })
	gates[1] <- struct{}{}
	eventually(t, "the second's answer", func() bool { return h.store.Load().entries.EstimatedSize() == 1 })
	gates[0] <- struct{}{}
	wg.Wait()
	var got int
	if r := h.says(saidHit, request("x")); r.Body.Decode(&got) != nil || got != 1 {
		t.Errorf("%d is kept", got)
	}
}

// Errors, answers that others have made up, and streams that break off are not kept.
func TestWhatIsNotKept(t *testing.T) {
	broken := ipc.Errorf(ipc.Internal, "handler", "no")
	for what, answer := range map[string]func() (ipc.Replies, error){
		"refused": func() (ipc.Replies, error) { return nil, broken },
		"error":   func() (ipc.Replies, error) { return &scripted{err: broken}, nil },
		"broken off": func() (ipc.Replies, error) {
			return &scripted{replies: []*ipc.Reply{reply(false, 1)}, err: broken}, nil
		},
		"no END": func() (ipc.Replies, error) { return answers(reply(false, 1)), nil },
		"degraded": func() (ipc.Replies, error) {
			r := reply(true, 1)
			r.Headers = map[string]string{"degraded": "stale"}
			return answers(r), nil
		},
		"of another pool": func() (ipc.Replies, error) {
			r := reply(true, 1)
			r.Headers = map[string]string{"pool": "small"}
			return answers(r), nil
		},
		"from elsewhere": func() (ipc.Replies, error) {
			return answers(&ipc.Reply{End: true, Tensors: []ipc.Tensor{{Name: "t", DType: "uint8", Shape: []uint64{1 << 20}}}}), nil
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := &workers{handle: func(context.Context, *ipc.Request) (ipc.Replies, error) { return answer() }}
			h := start(t, one(nil), w)
			for range 2 {
				got, err := h.all(t.Context(), request("x"))
				if (what == "degraded" || what == "of another pool" || what == "from elsewhere") != (err == nil) {
					t.Errorf("%v, %v", got, err)
				}
			}
			if n := h.store.Load().entries.EstimatedSize(); w.count() != 2 || n != 0 {
				t.Errorf("%d got through, %d entries", w.count(), n)
			}
		})
	}
}

// What is kept is a copy, and who gets it may change what is his.
func TestEntriesAreCopies(t *testing.T) {
	buffer := []byte("\xa5hello")
	data := []byte{1, 2, 3}
	w := &workers{handle: func(context.Context, *ipc.Request) (ipc.Replies, error) {
		return answers(&ipc.Reply{End: true, Body: buffer, Headers: map[string]string{"k": "v"}, Tensors: []ipc.Tensor{{Name: "t", DType: "uint8", Shape: []uint64{3}, Data: data}}}), nil
	}}
	h := start(t, one(nil), w)
	first := h.says(saidMiss, request("x"))
	clear(buffer) // as a transport might that uses it again
	clear(data)
	for _, r := range []*ipc.Reply{first, h.says(saidHit, request("x"))} {
		r.Headers["k"], r.Headers["more"] = "changed", ""
		r.Tensors[0].Name, r.Tensors[0].Data = "changed", nil
		r.Body = nil
	}
	r := h.says(saidHit, request("x"))
	if string(r.Body) != "\xa5hello" || r.Headers["k"] != "v" || len(r.Headers) != 3 || r.Tensors[0].Name != "t" || string(r.Tensors[0].Data) != "\x01\x02\x03" {
		t.Errorf("%+v", r)
	}
}

func TestStreamIsReplayed(t *testing.T) {
	var script []*ipc.Reply
	for i := range 50 {
		script = append(script, reply(false, i))
	}
	w := &workers{handle: func(context.Context, *ipc.Request) (ipc.Replies, error) {
		return answers(append(script, &ipc.Reply{End: true})...), nil
	}}
	h := start(t, one(nil), w)
	for i, said := range []string{saidMiss, saidHit, saidHit} {
		got, err := h.all(t.Context(), request("x"))
		if err != nil || len(got) != 51 || got[0].Headers["cache"] != said {
			t.Fatalf("%d: %d replies, %v, %v", i, len(got), got[0].Headers, err)
		}
		for j, r := range got[:50] {
			var n int
			if r.Body.Decode(&n) != nil || n != j || j > 0 && len(r.Headers) > 0 {
				t.Errorf("%d: reply %d is %d, %v", i, j, n, r.Headers)
			}
		}
	}
	if w.count() != 1 {
		t.Errorf("%d got through", w.count())
	}
	// A replay can be given up, and ends with its contexts.
	ctx, cancel := context.WithCancel(t.Context())
	replies, err := h.handler(ctx, request("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := replies.Recv(t.Context()); err != nil {
		t.Error(err)
	}
	cancel()
	if _, err := replies.Recv(t.Context()); ipc.AsError(err).Code != ipc.Cancelled {
		t.Error(err)
	}
	if _, err := replies.Recv(t.Context()); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestIsolation(t *testing.T) {
	for _, shared := range []bool{false, true} {
		w := echoing()
		h := start(t, one(func(a *Action) { a.Shared = shared }), w)
		mine, other := request("x"), request("x")
		other.Client.UID = 2
		h.says(saidMiss, mine)
		want := saidMiss
		if shared {
			want = saidHit
		}
		h.says(want, other)
		if _, _, ok := h.Stale(t.Context(), &ipc.Request{Pool: "p", Action: "a", Body: mine.Body, Client: ipc.Client{UID: 3}}); ok != shared {
			t.Errorf("shared %v: another user's stale answer: %v", shared, ok)
		}
	}
}

func TestStale(t *testing.T) {
	h := start(t, one(func(a *Action) { a.Stale = time.Hour }), echoing())
	req := request("x")
	if _, _, ok := h.Stale(t.Context(), req); ok {
		t.Error("out of nothing")
	}
	h.says(saidMiss, req)
	for _, step := range []struct {
		pass time.Duration
		ok   bool
	}{{0, true}, {testTTL, true}, {time.Hour - 1, true}, {1, false}} {
		h.clock.pass(step.pass)
		r, age, ok := h.Stale(t.Context(), with(req, "cache", noStore))
		if ok != step.ok {
			t.Fatalf("after %v: %v", step.pass, ok)
		}
		if !ok {
			break
		}
		if !r.End || string(r.Body) != string(req.Body) || r.Headers["cache"] != saidStale || r.Headers["age"] != fmt.Sprint(int(age.Seconds())) {
			t.Errorf("%+v", r)
		}
	}
	if _, _, ok := h.Stale(t.Context(), with(req, "cache", bypass)); ok {
		t.Error("though the request does not want any")
	}
	h.says(saidMiss, req)
}

// What was told from a stale answer is not kept as a new one.
func TestStaleIsNotKeptAgain(t *testing.T) {
	var h *harness
	var down atomic.Bool
	w := &workers{handle: func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		if !down.Load() {
			return answers(reply(true, 1)), nil
		}
		r, _, ok := h.Stale(ctx, req)
		if !ok {
			return nil, ipc.Errorf(ipc.Unavailable, "crash_loop", "no")
		}
		return answers(r), nil
	}}
	h = start(t, one(func(a *Action) { a.Stale = testTTL }), w)
	h.says(saidMiss, request("x"))
	down.Store(true)
	h.clock.pass(testTTL)
	h.says(saidStale, request("x"))
	h.says(saidStale, request("x"))
	h.clock.pass(testTTL)
	if _, err := h.all(t.Context(), request("x")); ipc.AsError(err).Reason != "crash_loop" {
		t.Error(err)
	}
}

func TestClear(t *testing.T) {
	gate := make(chan struct{})
	w := echoing()
	h := start(t, one(nil), w)
	for _, pool := range []string{"p", ""} {
		h.says(saidMiss, request("x"))
		if n := h.Clear("other"); n != 0 {
			t.Errorf("%d entries of another pool", n)
		}
		h.says(saidHit, request("x"))
		if n := h.Clear(pool); n != 1 {
			t.Errorf("%d entries", n)
		}
		h.says(saidMiss, request("x"))
		h.Clear("")
	}
	// What is under way when the cache is cleared is not kept.
	w.handle = func(context.Context, *ipc.Request) (ipc.Replies, error) {
		return &scripted{replies: []*ipc.Reply{reply(true, 1)}, gate: gate}, nil
	}
	before := w.count()
	done := make(chan error)
	go func() {
		_, err := h.all(context.Background(), request("late"))
		done <- err
	}()
	eventually(t, "the request", func() bool { return w.count() == before+1 })
	h.Clear("p")
	close(gate)
	if err := <-done; err != nil {
		t.Error(err)
	}
	h.says(saidMiss, request("late"))
}

func TestConfigure(t *testing.T) {
	h := start(t, Config{}, echoing())
	configure := func(cfg Config) {
		t.Helper()
		if err := h.Configure(cfg); err != nil {
			t.Fatal(err)
		}
	}
	h.says("", request("x"))
	configure(one(nil))
	h.says(saidMiss, request("x"))
	configure(one(nil))
	h.says(saidHit, request("x"))
	configure(one(func(a *Action) { a.TTL = time.Second })) // a shorter life counts at once
	h.clock.pass(time.Second)
	h.says(saidMiss, request("x"))
	cfg := one(nil)
	cfg.Pools["p"] = Pool{Version: "2", Actions: cfg.Pools["p"].Actions}
	configure(cfg)
	h.says(saidMiss, request("x"))
	configure(one(nil)) // and back: the old answers are gone all the same
	h.says(saidMiss, request("x"))
	configure(Config{})
	h.says("", request("x"))
	if n := h.store.Load().entries.EstimatedSize(); n != 0 {
		t.Errorf("%d entries of pools that are not cached any more", n)
	}
}

func TestValidate(t *testing.T) {
	for field, change := range map[string]func(*Config){
		"cache.max_bytes":                   func(c *Config) { c.MaxBytes = 1 },
		"prefetch.concurrency":              func(c *Config) { c.Prefetch.Concurrency = 65 },
		"pools.p.actions.a.cache.ttl":       func(c *Config) { c.Pools["p"].Actions["a"] = Action{Stale: 1} },
		"pools.p.actions.a.cache.stale":     func(c *Config) { c.Pools["p"].Actions["a"] = Action{TTL: 1, Stale: -1} },
		"pools.p.actions.a.cache.max_entry": func(c *Config) { c.Pools["p"].Actions["a"] = Action{TTL: 1, MaxEntry: 17 << 20} },
		"pools.p.actions.a.then[0].action":  func(c *Config) { c.Pools["p"].Actions["a"] = Action{TTL: 1, Then: []Follow{{Pool: "p", Action: "b"}}} },
		"pools.p.actions.a.then[0].body": func(c *Config) {
			c.Pools["p"].Actions["a"] = Action{TTL: 1, Then: []Follow{{Pool: "p", Action: "a", Body: []any{"$replay"}}}}
		},
		"pools.p.actions.a.then": func(c *Config) { c.Pools["p"].Actions["a"] = Action{TTL: 1, Then: make([]Follow, 17)} },
		"":                       func(*Config) {},
	} {
		cfg := one(nil)
		change(&cfg)
		c, err := New(cfg, Options{})
		var e *FieldError
		if field == "" && err == nil {
			c.Close()
			continue
		}
		if !errors.As(err, &e) || e.Field != field || e.Want == "" {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// Requests that the cache has nothing to do with pass as they are, and so do their replies.
func TestOthersPass(t *testing.T) {
	replies := answers()
	w := &workers{handle: func(context.Context, *ipc.Request) (ipc.Replies, error) { return replies, nil }}
	h := start(t, one(nil), w)
	arena := request(nil)
	arena.Tensors = []ipc.Tensor{{Name: "t", DType: "uint8", Shape: []uint64{1 << 20}}}
	inArena := request(nil)
	inArena.Tensors = []ipc.Tensor{{Name: "t", DType: "uint8", Shape: []uint64{2}, Data: []byte{1, 2}, At: ipc.Range{Region: 1, Length: 2}}}
	wants := request(nil)
	wants.Outputs = []ipc.Output{{Name: "t", At: ipc.Range{Region: 1, Length: 2}}}
	for what, req := range map[string]*ipc.Request{
		"tensors in an arena": inArena, "a reply into an arena": wants,
		"control": {Pool: "ringmaster", Action: "status"}, "another pool": {Pool: "q", Action: "a"}, "another action": {Pool: "p", Action: "b"},
		"background": {Pool: "p", Action: "a", Background: true}, "tensors elsewhere": arena,
	} {
		got, err := h.handler(t.Context(), req)
		if err != nil || got != ipc.Replies(replies) || w.asked[len(w.asked)-1] != req {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
}

func TestMetrics(t *testing.T) {
	h := start(t, one(nil), echoing())
	registry := prometheus.NewRegistry()
	registry.MustRegister(h.Collectors()...)
	h.says(saidMiss, request("x"))
	h.says(saidHit, request("x"))
	h.says(saidHit, request("x"))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			got[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	bytes := got["ringmaster_cache_bytes"]
	delete(got, "ringmaster_cache_bytes")
	want := map[string]float64{
		"ringmaster_cache_hits_total": 2, "ringmaster_cache_misses_total": 1, "ringmaster_cache_coalesced_total": 0, "ringmaster_cache_evictions_total": 0, "ringmaster_cache_entries": 1,
		"ringmaster_prefetch_issued_total": 0, "ringmaster_prefetch_refused_total": 0, "ringmaster_prefetch_used_total": 0, "ringmaster_prefetch_wasted_total": 0,
	}
	if !maps.Equal(got, want) || bytes < 100 {
		t.Errorf("got %v and %v bytes, want %v", got, bytes, want)
	}
}
