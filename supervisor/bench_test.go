package supervisor

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ringmasterd/ringmaster/ipc"
)

// BenchmarkCall is the way of a 64-byte echo through a worker process and back, asked by one or by many callers at a time.
//
//	go test -run '^$' -bench Call -benchmem ./supervisor
func BenchmarkCall(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			h := run(b, builtin(1, 64)).waitReady()
			body, err := ipc.Marshal(bytes.Repeat([]byte{'x'}, 62)) // with its header 64 bytes
			if err != nil {
				b.Fatal(err)
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					ctx := b.Context()
					for left.Add(-1) >= 0 {
						replies, err := h.Call(ctx, &ipc.Request{Pool: "test", Action: "echo", Body: body})
						if err == nil {
							_, err = replies.Recv(ctx)
						}
						if err != nil {
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
