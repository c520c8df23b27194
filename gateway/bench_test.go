package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/ringmasterd/ringmaster/ipc"
)

// One request's way through the front door and back, with nothing behind it.
func BenchmarkRoundTrip(b *testing.B) {
	for _, size := range []int{64, 64 << 10} {
		for _, outstanding := range []int{1, 64} {
			b.Run(fmt.Sprintf("%dB/%d", size, outstanding), func(b *testing.B) { benchRoundTrip(b, size, outstanding) })
		}
	}
}

func benchRoundTrip(b *testing.B, size, outstanding int) {
	ln, err := Listen(b.TempDir()+"/rm.sock", "")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, ln, newFake(), Config{Logger: slog.New(slog.DiscardHandler)}) }()
	c := dial(b, ln.Path())
	body := ipc.Body(append([]byte{0xc6, byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)}, make([]byte, size)...))
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.SetParallelism(outstanding)
	if outstanding == 1 {
		for b.Loop() {
			roundTrip(b, c, body)
		}
	} else {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				roundTrip(b, c, body)
			}
		})
	}
	c.hangUp()
	cancel()
	if err := <-served; err != nil {
		b.Error(err)
	}
}

func roundTrip(b *testing.B, c *testClient, body ipc.Body) {
	call, err := c.Start(&ipc.Request{Pool: "p", Action: "echo", Body: body}, nil)
	if err == nil {
		_, err = call.Recv(context.Background())
	}
	if err != nil {
		b.Error(err)
	}
}

// The same echo by each protocol, one at a time: what translating costs. Frames are the control.
func BenchmarkProtocols(b *testing.B) {
	s := start(b, newFake(), Config{})
	c := dial(b, s.path)
	b.Run("frames", func(b *testing.B) {
		for b.Loop() {
			roundTrip(b, c, ipc.Body{42})
		}
	})
	for version := 1; version <= 2; version++ {
		c := browser(b, s.path, version)
		b.Run(fmt.Sprintf("rpc/HTTP%d", version), func(b *testing.B) {
			for b.Loop() {
				if r := rpc(b, c, "p.echo", "42"); string(r.Result) != "42" {
					b.Fatal(r)
				}
			}
		})
		b.Run(fmt.Sprintf("healthz/HTTP%d", version), func(b *testing.B) { // HTTP alone
			for b.Loop() {
				ask(b, c, "GET", "h/healthz", "")
			}
		})
	}
}
