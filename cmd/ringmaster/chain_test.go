package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/gateway"
	"github.com/ringmasterd/ringmaster/internal/config"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// Pools of one worker each. What stands beside it is configured for the second, so that each link has something to do.
const chained = `
auth: {roles: {app: {allow: [{pools: ["*"], actions: ["*"]}]}}, users: {"*": [app]}, owner: false}
sessions: {store: memory}
pools:
  bare: {builtin: echo, concurrency: 64}
  full:
    builtin: echo
    concurrency: 64
    session: {conversation: true}
    actions: {checksum: {cache: {ttl: 1m}}}
    resilience: {retry: {max: 3}, breaker: {failures: 5, window: 30s, open: 10s}, fallback: [{reply: {text: "later"}}]}
pipelines:
  twice: {steps: {a: {pool: bare, action: echo, body: $input.body}, out: {pool: bare, action: echo, body: $steps.a.body}}}
`

// atOnce answers with nothing.
type atOnce struct{ reply ipc.Reply }

func (r *atOnce) Recv(context.Context) (*ipc.Reply, error) { return &r.reply, nil }
func (*atOnce) Cancel(string)                              {}

// servedPools is a supervisor at work until the benchmark ends, and the file that says of what.
func servedPools(b *testing.B, text string) (*supervisor.Supervisor, *config.File) {
	b.Helper()
	file, err := config.Parse("chained.yaml", []byte(text), os.LookupEnv)
	if err != nil {
		b.Fatal(err)
	}
	cfg := file.Supervisor
	cfg.Executable, cfg.Logger = binary, slog.New(slog.DiscardHandler)
	sup, err := supervisor.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- sup.Run(ctx) }()
	b.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	})
	if err := sup.WaitReady(b.Context()); err != nil {
		b.Fatal(err)
	}
	return sup, file
}

// newLinks is the call chain before a supervisor, until the benchmark ends.
func newLinks(b *testing.B, sup *supervisor.Supervisor, file *config.File) *callChain {
	b.Helper()
	links, err := newCallChain(sup, file, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := links.close(); err != nil {
			b.Error(err)
		}
	})
	return links
}

// BenchmarkLinks is what each link of the call chain costs a request of its own: beside a handler that answers at once, for a pool that has nothing configured for it, and one that has.
//
//	go test ./cmd/ringmaster -run '^$' -bench Links -benchmem
func BenchmarkLinks(b *testing.B) {
	sup, file := servedPools(b, chained)
	links := newLinks(b, sup, file)
	reply := &atOnce{ipc.Reply{End: true}}
	null := func(context.Context, *ipc.Request) (ipc.Replies, error) { return reply, nil }
	ctx := chain.WithPeer(b.Context(), chain.Peer{PID: 1, UID: 12345, GID: 12345, Standing: chain.Stranger, Memo: new(atomic.Value)})
	for _, link := range []struct {
		name  string
		links []chain.Link
	}{
		{"none", nil},
		{"trace", []chain.Link{links.trace.Link, links.trace.Reach}},
		{"auth", []chain.Link{links.auth.Link}},
		{"session", []chain.Link{links.sessions.Link}},
		{"pipeline", []chain.Link{links.pipelines.Link}},
		{"cache", []chain.Link{links.cache.Link}},
		{"resilience", []chain.Link{links.resilience.Link}},
		{"all", []chain.Link{links.trace.Link, links.auth.Link, links.sessions.Link, links.pipelines.Link, links.cache.Link, links.resilience.Link, chain.Silence, links.restarts, links.trace.Reach}},
	} {
		h := chain.New(null, link.links...)
		for _, pool := range []string{"bare", "full"} {
			b.Run(link.name+"/"+pool, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					replies, err := h(ctx, &ipc.Request{Pool: pool, Action: "echo"})
					if err == nil {
						_, err = replies.Recv(ctx)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkChain is the echo of 64 bytes from a client through the gateway to a worker and back, 64 at a time, with and without the call chain between gateway and supervisor. The ways take turns, so that a busy machine is busy for
// all of them; what is reported is the median turn of each, for one request. Of the pools, each a process of its own, bare has nothing configured but auth.
//
//	go test ./cmd/ringmaster -run '^$' -bench Chain -benchtime 150x
func BenchmarkChain(b *testing.B) {
	sup, file := servedPools(b, chained)
	forgetful := *file
	forgetful.Tracing.Recent = -1
	links, without := newLinks(b, sup, file), newLinks(b, sup, &forgetful)
	ways := []*way{{name: "bare:without", pool: "bare"}, {name: "bare:no-record", pool: "bare"}, {name: "bare:chain", pool: "bare"}, {name: "full:without", pool: "full"}, {name: "full:chain", pool: "full"}}
	for i, backend := range []gateway.Backend{sup, without, links, sup, links} {
		ways[i].open(b, backend)
	}
	for b.Loop() {
		for _, w := range ways {
			w.turn(b)
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, w := range ways {
		slices.Sort(w.took)
		b.ReportMetric(float64(w.took[len(w.took)/2].Nanoseconds())/turnLength, w.name+"-ns")
	}
}

// turnLength is how many requests a turn has.
const turnLength = 2000

// way is one way from a client to a worker.
type way struct {
	name, pool string
	client     *client.Client
	took       []time.Duration // the turns
}

// open serves the backend until the benchmark ends, for a client.
func (w *way) open(b *testing.B, backend gateway.Backend) {
	b.Helper()
	ln, err := gateway.Listen(filepath.Join(b.TempDir(), "s"), "")
	if err != nil {
		b.Fatal(err)
	}
	cfg := gateway.Config{Logger: slog.New(slog.DiscardHandler)}
	if links, ok := backend.(*callChain); ok {
		cfg.Gate = links.auth
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- gateway.Serve(ctx, ln, backend, cfg) }()
	b.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			b.Error(err)
		}
	})
	if w.client, err = client.Dial(b.Context(), client.WithAddress(ln.Path())); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = w.client.Close() })
}

// turn asks so many times.
func (w *way) turn(b *testing.B) {
	body := make([]byte, 64)
	var left atomic.Int64
	left.Store(turnLength)
	var wg sync.WaitGroup
	begin := time.Now()
	for range 64 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := w.client.Call(b.Context(), w.pool, "echo", body); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	w.took = append(w.took, time.Since(begin))
}
