package supervisor

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

func TestDo(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	ctx := testContext(t)
	for _, tt := range []struct {
		name string
		req  *ipc.Request
		code ipc.Code // of the error; "": none
		why  string
	}{
		{"one answer", request(t, "test", "echo", "hello"), "", ""},
		{"a stream", request(t, "test", "count", map[string]int{"n": 3}), ipc.Unimplemented, "stream"},
		{"no such pool", request(t, "tset", "echo", nil), ipc.NotFound, "unknown_pool"},
		{"no such action", request(t, "test", "ohce", nil), ipc.NotFound, "unknown_action"},
		{"the supervisor itself", request(t, ControlPool, "status", nil), "", ""},
		{"and again", request(t, "test", "echo", "hello"), "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := h.Do(ctx, tt.req)
			if tt.code != "" {
				var e *ipc.Error
				if !errors.As(err, &e) || e.Code != tt.code || e.Reason != tt.why {
					t.Fatalf("%v, %v, want %s/%s", r, err, tt.code, tt.why)
				}
				return
			}
			if err != nil || tt.req.Action == "echo" && !bytes.Equal(r.Body, tt.req.Body) {
				t.Fatalf("%v, %v", r, err)
			}
		})
	}
	ended, end := context.WithCancel(ctx)
	end()
	if _, err := h.Do(ended, request(t, "test", "echo", nil)); ipc.AsError(err).Code != ipc.Cancelled {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// streamed returns the END, or gives up after so many chunks.
func streamed(ctx context.Context, h *harness, req *ipc.Request, most int) (*ipc.Reply, error) {
	replies, err := h.Call(ctx, req)
	if err != nil {
		return nil, err
	}
	for n := 0; ; n++ {
		r, err := replies.Recv(ctx)
		switch {
		case err != nil || r.End:
			return r, err
		case n == most:
			replies.Cancel("cancelled")
			return nil, ipc.Errorf(ipc.Cancelled, "cancelled", "enough")
		}
	}
}

// The memory of requests that are over is that of others. Whatever ends otherwise in between, cancelled, late, in the queue or with its worker, each gets its own answer.
func TestRequestsThatShareMemoryAreKeptApart(t *testing.T) {
	h := run(t, builtin(2, 4)).waitReady()
	ctx := testContext(t)
	stop := make(chan struct{})
	var answered, ended atomic.Int64
	var asking sync.WaitGroup
	for g := range 32 {
		asking.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				own, cancel := ctx, context.CancelFunc(func() {})
				switch rand.IntN(8) {
				case 0:
					own, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(500))*time.Microsecond)
				case 1:
					own, cancel = context.WithCancel(ctx)
					context.AfterFunc(own, func() {})
					go cancel()
				}
				req := request(t, "test", "echo", []int{g, n})
				var r *ipc.Reply
				var err error
				switch rand.IntN(8) {
				case 0: // what is in the list of background work
					req.Background = true
					r, err = h.Do(own, req)
				case 1: // a stream, which may be left in its midst
					r, err = streamed(own, h, request(t, "test", "count", map[string]int{"n": rand.IntN(4)}), rand.IntN(4))
					if r != nil {
						r.Body = req.Body
					}
				default:
					r, err = h.Do(own, req)
				}
				cancel()
				if err != nil {
					ended.Add(1)
					continue
				}
				answered.Add(1)
				if !bytes.Equal(r.Body, req.Body) {
					t.Errorf("request %d of %d was answered with %x", n, g, r.Body)
					return
				}
			}
		})
	}
	for range 5 {
		next := answered.Load() + 500
		eventually(t, "answers", func() bool { return answered.Load() >= next })
		if st := h.await("test", "a worker that can be killed", func(p PoolStatus) bool { return p.Workers[0].State == "ready" }); st.Workers[0].PID > 1 {
			kill(t, st.Workers[0].PID, unix.SIGKILL)
		}
	}
	close(stop)
	asking.Wait()
	t.Logf("%d answered, %d ended otherwise", answered.Load(), ended.Load())
	h.busy(0, 0)
}
