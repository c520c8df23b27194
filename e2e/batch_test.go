package e2e

import (
	endian "encoding/binary"
	"math"
	"sync"
	"testing"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/ipc"
)

const batches = `
pools:
  py:
    command: ["${PYTHON}", "${ROOT}/e2e/testdata/worker.py"]
    actions: {means: {batch: {max: 8, delay: 1s}}, total: {batch: {max: 8}}}
`

// Requests of many callers are run together by one Python worker; each gets the answer to its own, in two shapes, and those that fail fail alone.
func TestBatches(t *testing.T) {
	s := serve(t, batches, "py")
	c := s.dial()
	ctx := testContext(t)
	var mu sync.Mutex
	most := 0
	var callers sync.WaitGroup
	for i := range 33 {
		callers.Go(func() {
			n := 4 + i%2*3
			var data []byte
			for range n {
				data = endian.LittleEndian.AppendUint32(data, math.Float32bits(float32(i)))
			}
			x := client.Tensor{Name: "x", DType: "float32", Shape: []uint64{uint64(n)}, Data: data}
			r, err := c.Call(ctx, "py", "means", nil, client.WithTensors(x))
			if i == 0 {
				if e := ipc.AsError(err); e == nil || e.Code != ipc.Internal || e.Reason != "handler" {
					t.Errorf("%v, want INTERNAL/handler", err)
				}
				return
			}
			var got struct {
				Mean float64 `msgpack:"mean"`
				Of   int     `msgpack:"of"`
			}
			if err == nil {
				err = r.Decode(&got)
			}
			if err != nil || got.Mean != float64(i) {
				t.Errorf("request %d: %+v, %v", i, got, err)
			}
			mu.Lock()
			defer mu.Unlock()
			most = max(most, got.Of)
		})
	}
	callers.Wait()
	if most < 2 {
		t.Error("no two requests were run together")
	}
	if _, errs, code := s.output("call", "py", "echo"); code != 0 {
		t.Error(errs)
	}
}
