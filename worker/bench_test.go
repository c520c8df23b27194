package worker

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/ringmasterd/ringmaster/ipc"
)

// BenchmarkEcho is a call to a worker in a process of its own.
func BenchmarkEcho(b *testing.B) {
	for _, outstanding := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("64 bytes/%d outstanding", outstanding), func(b *testing.B) {
			c := start(b, setup{env: map[string]string{ipc.ConcurrencyVariable: "64"}})
			c.ready()
			body, err := ipc.Marshal(make([]byte, 64))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var group sync.WaitGroup
			for g := range outstanding {
				group.Go(func() {
					for range (b.N + outstanding - 1 - g) / outstanding {
						call, err := c.caller.Start(&ipc.Request{Pool: "p", Action: "echo", Body: body}, nil)
						if err == nil {
							_, err = call.Recv(context.Background())
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
			b.StopTimer()
		})
	}
}
