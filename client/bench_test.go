package client_test

import (
	"fmt"
	"testing"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/gateway"
)

// BenchmarkTensor is a round trip with one tensor, all of which the worker reads: in the message, copied into an arena for the call as the client does by itself from arenaThreshold on, and written there in the first place.
//
//	go test ./client -run '^$' -bench Tensor -benchtime 1s -count 3
//
// docs/decisions/0011-arenas.md has the figures.
func BenchmarkTensor(b *testing.B) {
	h := serveHouse(b, gateway.Config{}, pools()...)
	c := h.dial()
	for _, kib := range []int{4, 16, 32, 64, 128, 256, 1024, 6144} {
		n := kib << 10
		data := make([]byte, n)
		heap := client.Tensor{Name: "x", DType: "uint8", Shape: []uint64{uint64(n)}, Data: data}
		run := func(name string, prepare func(a *client.Arena) func() client.Tensor) {
			b.Run(fmt.Sprintf("%s/%dKiB", name, kib), func(b *testing.B) {
				var a *client.Arena
				if name != "message" {
					a = h.arena(c, 2*n)
					defer a.Close()
				}
				next := prepare(a)
				b.SetBytes(int64(n))
				for b.Loop() {
					x := next()
					if _, err := c.Call(b.Context(), "p", "checksum", nil, client.WithTensors(x)); err != nil {
						b.Fatal(err)
					}
					if name == "copied" {
						a.Free(x)
					}
				}
			})
		}
		run("message", func(*client.Arena) func() client.Tensor { return func() client.Tensor { return heap } })
		run("copied", func(a *client.Arena) func() client.Tensor {
			return func() client.Tensor {
				x := tensorOf(b, a, n)
				copy(x.Data, data)
				return x
			}
		})
		run("in place", func(a *client.Arena) func() client.Tensor {
			x := tensorOf(b, a, n)
			return func() client.Tensor { return x }
		})
	}
}

func tensorOf(t testing.TB, a *client.Arena, n int) client.Tensor {
	t.Helper()
	x, err := a.Tensor("x", "uint8", uint64(n))
	if err != nil {
		t.Fatal(err)
	}
	return x
}
