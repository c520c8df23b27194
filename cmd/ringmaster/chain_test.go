package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/gateway"
	"github.com/ringmasterd/ringmaster/internal/config"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// Pools of one worker each, without the record of recent requests, which takes 1 to 2 µs of each. What stands beside it is configured for the second, so that each link has something to do.
const chained = `
auth: {roles: {app: {allow: [{pools: ["*"], actions: ["*"]}]}}, users: {"*": [app]}, owner: false}
sessions: {store: memory}
tracing: {recent: 0}
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

// servedChain is a supervisor with its chain, at work until the benchmark ends.
func servedChain(b *testing.B) (*supervisor.Supervisor, *callChain) {
	b.Helper()
	file, err := config.Parse("chained.yaml", []byte(chained), os.LookupEnv)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func(percent int) func() { return func() { debug.SetGCPercent(percent) } }(debug.SetGCPercent(garbagePercent))) // as in serve
	quiet := slog.New(slog.DiscardHandler)
	cfg := file.Supervisor
	cfg.Executable, cfg.Logger = binary, quiet
	sup, err := supervisor.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	links, err := newCallChain(sup, file, quiet)
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- sup.Run(ctx) }()
	b.Cleanup(func() {
		stop()
		if err := errors.Join(<-ended, links.close()); err != nil {
			b.Error(err)
		}
	})
	if err := sup.WaitReady(b.Context()); err != nil {
		b.Fatal(err)
	}
	return sup, links
}

// BenchmarkLinks is what each link of the call chain costs a request of its own: beside a handler that answers at once, for a pool that has nothing configured for it, and one that has.
//
//	go test ./cmd/ringmaster -run '^$' -bench Links -benchmem
func BenchmarkLinks(b *testing.B) {
	_, links := servedChain(b)
	reply := &atOnce{ipc.Reply{End: true}}
	null := func(context.Context, *ipc.Request) (ipc.Replies, error) { return reply, nil }
	ctx := chain.WithPeer(b.Context(), chain.Peer{PID: 1, UID: 12345, GID: 12345, Standing: chain.Stranger, Memo: new(atomic.Value)})
	for _, link := range []struct {
		name  string
		links []chain.Link
	}{
		{"none", nil},
		{"auth", []chain.Link{links.auth.Link}},
		{"session", []chain.Link{links.sessions.Link}},
		{"pipeline", []chain.Link{links.pipelines.Link}},
		{"cache", []chain.Link{links.cache.Link}},
		{"resilience", []chain.Link{links.resilience.Link}},
		{"all", []chain.Link{links.auth.Link, links.sessions.Link, links.pipelines.Link, links.cache.Link, links.resilience.Link}},
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

// BenchmarkChain is the echo of 64 bytes from a client through the gateway to a worker and back, 64 at a time, with and without the call chain between gateway and supervisor.
//
//	go test ./cmd/ringmaster -run '^$' -bench Chain -count 6
func BenchmarkChain(b *testing.B) {
	sup, links := servedChain(b)
	for _, way := range []struct {
		name    string
		backend gateway.Backend
		pool    string
	}{{"without", sup, "bare"}, {"through, nothing configured", links, "bare"}, {"through, all configured", links, "full"}} {
		b.Run(way.name, func(b *testing.B) {
			ln, err := gateway.Listen(filepath.Join(b.TempDir(), "s"), "")
			if err != nil {
				b.Fatal(err)
			}
			ctx, stop := context.WithCancel(context.Background())
			served := make(chan error, 1)
			cfg := gateway.Config{Logger: slog.New(slog.DiscardHandler)}
			if way.backend == gateway.Backend(links) {
				cfg.Gate = links.auth
			}
			go func() { served <- gateway.Serve(ctx, ln, way.backend, cfg) }()
			defer func() {
				stop()
				if err := <-served; err != nil {
					b.Error(err)
				}
			}()
			c, err := client.Dial(b.Context(), client.WithAddress(ln.Path()))
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			body := make([]byte, 64)
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			b.ResetTimer()
			for range 64 {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := c.Call(b.Context(), way.pool, "echo", body); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
		})
	}
}
