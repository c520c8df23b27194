package cache

import (
	"context"
	"fmt"
	"testing"

	"github.com/ringmasterd/ringmaster/ipc"
)

// nothing is replies that are never taken.
type nothing struct{}

func (nothing) Recv(context.Context) (*ipc.Reply, error) { return nil, nil }
func (nothing) Cancel(string)                            {}

func benchmark(b *testing.B, cfg Config, req func(i int) *ipc.Request) {
	out := &ipc.Reply{End: true, Body: ipc.Body("\xa2ok")}
	w := &workers{}
	h := start(b, cfg, w)
	var handler = h.Link(func(context.Context, *ipc.Request) (ipc.Replies, error) { return answers(out), nil })
	ctx := b.Context()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		r := req(i)
		i++
		replies, err := handler(ctx, r)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := replies.Recv(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHit(b *testing.B) {
	for _, size := range []int{16, 1 << 10, 64 << 10, 1 << 20} {
		req := request(map[string]any{"text": string(make([]byte, size)), "model": "m", "n": 3})
		b.Run(fmt.Sprint(size), func(b *testing.B) { benchmark(b, one(nil), func(int) *ipc.Request { return req }) })
	}
}

func BenchmarkMiss(b *testing.B) {
	benchmark(b, one(nil), func(i int) *ipc.Request { return request(i) })
}

// passing measures what a request pays that the cache has nothing to do with.
func passing(b *testing.B, cfg Config, req *ipc.Request) {
	h := start(b, cfg, echoing())
	handler := h.Link(func(context.Context, *ipc.Request) (ipc.Replies, error) { return nothing{}, nil })
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := handler(ctx, req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUncacheable(b *testing.B) {
	other := request("x")
	other.Action = "other"
	b.Run("no cache", func(b *testing.B) { passing(b, Config{}, request("x")) })
	b.Run("another action", func(b *testing.B) { passing(b, one(nil), other) })
}

// Requests that the cache has nothing to do with cost no memory, and a key costs none either.
func TestAllocations(t *testing.T) {
	if raceFlag {
		t.Skip("the race detector allocates")
	}
	h := start(t, one(nil), echoing())
	off := start(t, Config{}, echoing())
	next := func(context.Context, *ipc.Request) (ipc.Replies, error) { return nothing{}, nil }
	other := request("x")
	other.Action = "other"
	ctx := t.Context()
	p := h.settings.Load().pools["p"]
	req := with(request(map[string]any{"b": 1, "a": []any{1.5, "x", map[string]any{"z": 1, "y": 2}}}), "lang", "de")
	without, beside := off.Link(next), h.Link(next)
	for what, f := range map[string]func(){
		"no cache":       func() { _, _ = without(ctx, req) },
		"another action": func() { _, _ = beside(ctx, other) },
		"a key":          func() { h.key(ctx, req, p, p.actions["a"]) },
	} {
		if n := testing.AllocsPerRun(200, f); n > 0 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
}
