package client_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/gateway"
	"github.com/ringmasterd/ringmaster/supervisor"
)

func ExampleClient_Call() {
	address, stop := serveBuiltins()
	defer stop()
	ctx := context.Background()

	c, err := client.Dial(ctx, client.WithAddress(address))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	reply, err := c.Call(ctx, "demo", "echo", map[string]any{"hello": "world"})
	if err != nil {
		log.Fatal(err)
	}
	var body map[string]string
	if err := reply.Decode(&body); err != nil {
		log.Fatal(err)
	}
	fmt.Println(body["hello"])
	// Output: world
}

func ExampleClient_Stream() {
	address, stop := serveBuiltins()
	defer stop()
	ctx := context.Background()

	c, err := client.Dial(ctx, client.WithAddress(address))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for chunk, err := range c.Stream(ctx, "demo", "count", map[string]any{"n": 3, "text": "tick"}) {
		if err != nil {
			log.Fatal(err)
		}
		var body struct {
			I    int    `msgpack:"i"`
			Text string `msgpack:"text"`
		}
		if err := chunk.Decode(&body); err != nil {
			log.Fatal(err)
		}
		fmt.Println(body.I, body.Text)
	}
	// Output:
	// 0 tick
	// 1 tick
	// 2 tick
}

// serveBuiltins does what `ringmaster serve` does for a pool `demo: {builtin: echo}`.
func serveBuiltins() (address string, stop func()) {
	dir, err := os.MkdirTemp("", "ringmaster")
	if err != nil {
		log.Fatal(err)
	}
	executable, err := os.Executable()
	if err != nil {
		log.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	sup, err := supervisor.New(supervisor.Config{
		Pools:      []supervisor.PoolConfig{{Name: "demo", Builtin: "echo"}},
		Executable: executable,
		Logger:     quiet,
	})
	if err != nil {
		log.Fatal(err)
	}
	ln, err := gateway.Listen(filepath.Join(dir, "rm.sock"), "")
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = sup.Run(ctx) })
	wg.Go(func() { _ = gateway.Serve(ctx, ln, sup, gateway.Config{Logger: quiet}) })
	if err := sup.WaitReady(ctx); err != nil {
		log.Fatal(err)
	}
	return "unix://" + ln.Path(), func() {
		cancel()
		wg.Wait()
		_ = os.RemoveAll(dir)
	}
}
