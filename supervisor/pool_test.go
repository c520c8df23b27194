package supervisor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// loads are the requests in flight at each worker.
func (h *harness) loads() []int {
	var loads []int
	p := h.all()[0]
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.slots {
		loads = append(loads, s.inc.inFlight)
	}
	return loads
}

func TestLeastConnectionKeepsWorkersLevel(t *testing.T) {
	const workers, concurrency = 3, 4
	h := run(t, builtin(workers, concurrency)).waitReady()
	h.allReady("test")
	var all []*held
	for range workers * concurrency {
		all = append(all, h.hold("test"))
		if loads := h.loads(); slices.Max(loads)-slices.Min(loads) > 1 {
			t.Fatalf("%v in flight", loads)
		}
	}
	// One worker becomes free: what comes next is its.
	pid := all[0].pid
	for _, hd := range all {
		if hd.pid == pid {
			if err := hd.finish(); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.busy((workers-1)*concurrency, 0)
	for range concurrency {
		hd := h.hold("test")
		if hd.pid != pid {
			t.Errorf("worker %d got a request, %d was free", hd.pid, pid)
		}
		all = append(all, hd)
	}
	for _, hd := range all {
		hd.Cancel("cancelled")
	}
}

func TestWorkersGetNoMoreThanTheirConcurrency(t *testing.T) {
	const workers, concurrency, callers, calls = 2, 3, 32, 20
	h := run(t, builtin(workers, concurrency)).waitReady()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range calls {
				r, err := h.call(testContext(t), request(t, "test", "gauge", nil))
				if err != nil {
					t.Error(err)
					return
				}
				var most int
				if err := r.Body.Decode(&most); err != nil || most < 1 || most > concurrency {
					t.Errorf("%d at a time in one worker (%v), the most is %d", most, err, concurrency)
				}
			}
		})
	}
	wg.Wait()
	st := h.busy(0, 0)
	total := uint64(0)
	for _, w := range st.Workers {
		total += w.Requests
	}
	if total != callers*calls {
		t.Errorf("%d requests counted, %d made", total, callers*calls)
	}
}

// recordRequest is a request whose run leaves a line in a file.
func recordRequest(t testing.TB, file string, line any) *ipc.Request {
	return request(t, "test", "record", recordArgs{file, fmt.Sprint(line)})
}

// recorded are the lines in the file.
func recorded(t testing.TB, file string) []string {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(b))
}

func TestQueueIsFirstInFirstOut(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	first := h.hold("test")
	file := filepath.Join(t.TempDir(), "record")
	var want []string
	var ends []<-chan outcome
	for i := range 20 {
		want = append(want, fmt.Sprint(i))
		ends = append(ends, h.start(testContext(t), recordRequest(t, file, i)))
		h.busy(1, i+1)
	}
	if err := first.finish(); err != nil {
		t.Fatal(err)
	}
	for _, end := range ends {
		if o := <-end; o.err != nil {
			t.Fatal(o.err)
		}
	}
	if got := recorded(t, file); !slices.Equal(got, want) {
		t.Fatalf("they ran in the order %v", got)
	}
}

func TestQueueFull(t *testing.T) {
	for queue, waiting := range map[int]int{2: 2, -1: 0} {
		t.Run(fmt.Sprint(waiting), func(t *testing.T) {
			cfg := builtin(1, 1)
			cfg.Queue = queue
			h := run(t, cfg).waitReady()
			first := h.hold("test")
			var ends []<-chan outcome
			for i := range waiting {
				ends = append(ends, h.start(testContext(t), request(t, "test", "echo", nil)))
				h.busy(1, i+1)
			}
			_, err := h.call(testContext(t), request(t, "test", "echo", nil))
			if e := wantError(t, err, ipc.ResourceExhausted, "queue_full"); e.RetryAfter < 10*time.Millisecond || e.RetryAfter > 10*time.Second {
				t.Errorf("retry after %v", e.RetryAfter)
			}
			h.busy(1, waiting) // the refused one has left no trace
			if err := first.finish(); err != nil {
				t.Fatal(err)
			}
			for _, end := range ends {
				if o := <-end; o.err != nil {
					t.Error(o.err)
				}
			}
			h.must("echo", nil, nil)
		})
	}
}

func TestRetryAfterGrowsWithTheQueue(t *testing.T) {
	var p pace
	if got := p.retryAfter(0, 10); got != 10*time.Millisecond {
		t.Errorf("%v with nothing known", got)
	}
	p.hold = 2 * time.Second
	if got, want := p.retryAfter(50, 10), time.Second; got != want { // a tenth of 50 requests, 10 at a time, 2 s each
		t.Errorf("%v, want %v", got, want)
	}
	p.hold = time.Hour
	if got := p.retryAfter(50, 10); got != 10*time.Second {
		t.Errorf("%v, want the most", got)
	}
}

func TestDeadlineInTheQueue(t *testing.T) {
	cfg := builtin(1, 1)
	cfg.Timeout = 20 * time.Millisecond // of requests that bring none
	h := run(t, cfg).waitReady()
	first := h.hold("test")
	_, err := h.call(testContext(t), request(t, "test", "echo", nil))
	wantError(t, err, ipc.DeadlineExceeded, "deadline")
	req := request(t, "test", "echo", nil)
	req.Timeout = 10 * time.Millisecond
	_, err = h.call(testContext(t), req)
	wantError(t, err, ipc.DeadlineExceeded, "deadline")
	ctx, cancel := context.WithDeadline(testContext(t), time.Now().Add(10*time.Millisecond))
	defer cancel()
	req.Timeout = time.Minute
	_, err = h.call(ctx, req)
	wantError(t, err, ipc.DeadlineExceeded, "deadline")
	h.busy(1, 0)
	if err := first.finish(); err != nil {
		t.Error(err)
	}
}

func TestCancelInTheQueue(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	first := h.hold("test")
	ctx, cancel := context.WithCancel(testContext(t))
	file := filepath.Join(t.TempDir(), "record")
	end := h.start(ctx, recordRequest(t, file, "never"))
	h.busy(1, 1)
	after := h.start(testContext(t), recordRequest(t, file, "after"))
	h.busy(1, 2)
	cancel()
	wantError(t, (<-end).err, ipc.Cancelled, "cancelled")
	h.busy(1, 1)
	if err := first.finish(); err != nil {
		t.Fatal(err)
	}
	if o := <-after; o.err != nil {
		t.Fatal(o.err)
	}
	if got := recorded(t, file); !slices.Equal(got, []string{"after"}) {
		t.Fatalf("ran %v", got)
	}
}

func TestAContextThatHasEndedSendsNothing(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := h.call(ctx, request(t, "test", "echo", nil))
	wantError(t, err, ipc.Cancelled, "cancelled")
	h.must("echo", nil, nil) // which would have come after it
	if w := h.worker("test", 0); w.Requests != 1 {
		t.Errorf("%d requests reached the worker", w.Requests)
	}
}

// The caller is free at once; its place is taken until the worker has ended the request, and then goes to the next one.
func TestAbandonedRequestKeepsItsPlace(t *testing.T) {
	for _, how := range []string{"cancel", "ctx", "ctx of Call", "timeout"} {
		t.Run(how, func(t *testing.T) {
			h := run(t, builtin(1, 1)).waitReady()
			file := filepath.Join(t.TempDir(), "go")
			req := request(t, "test", "until", map[string]string{"file": file})
			if how == "timeout" {
				req.Timeout = 50 * time.Millisecond
			}
			ctx, cancel := context.WithCancel(testContext(t))
			defer cancel()
			replies, err := h.Call(ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			switch how {
			case "cancel":
				replies.Cancel("cancelled")
			case "ctx":
				other, cancelOther := context.WithCancel(testContext(t))
				cancelOther()
				_, err := replies.Recv(other)
				wantError(t, err, ipc.Cancelled, "cancelled")
			case "ctx of Call":
				cancel()
				_, err := replies.Recv(ctx)
				wantError(t, err, ipc.Cancelled, "cancelled")
			case "timeout":
				_, err := replies.Recv(ctx)
				wantError(t, err, ipc.DeadlineExceeded, "deadline")
			}
			next := h.start(testContext(t), request(t, "test", "echo", nil))
			h.busy(1, 1)
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if o := <-next; o.err != nil {
				t.Fatal(o.err)
			}
			if w := h.worker("test", 0); w.Restarts != 0 || w.InFlight != 0 || w.Requests != 2 {
				t.Errorf("status %+v", w)
			}
		})
	}
}

// A handler that listens to its context ends at once, and so does the place it had.
func TestCancelReachesTheWorker(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	ctx, cancel := context.WithCancel(testContext(t))
	end := h.start(ctx, request(t, "test", "sleep", map[string]any{"seconds": 1000}))
	h.busy(1, 0)
	cancel()
	wantError(t, (<-end).err, ipc.Cancelled, "cancelled")
	h.must("echo", nil, nil)
}

func TestBadRequestsDoNotReachTheWorker(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	deep := func(n int) ipc.Body { return append(slices.Repeat(ipc.Body{0x91}, n), 0xc0) }
	for name, c := range map[string]struct {
		req    ipc.Request
		code   ipc.Code
		reason string
	}{
		"body: cut off":     {ipc.Request{Body: ipc.Body{0x92, 1}}, ipc.InvalidArgument, "bad_body"},
		"body: two values":  {ipc.Request{Body: ipc.Body{1, 2}}, ipc.InvalidArgument, "bad_body"},
		"body: reserved":    {ipc.Request{Body: ipc.Body{0xc1}}, ipc.InvalidArgument, "bad_body"},
		"body: deep":        {ipc.Request{Body: deep(65)}, ipc.InvalidArgument, "bad_body"},
		"body: a bit deep":  {ipc.Request{Body: deep(64)}, ipc.InvalidArgument, "bad_body"}, // with the message's own array it is 65
		"tensor: dtype":     {ipc.Request{Tensors: []ipc.Tensor{{DType: "float"}}}, ipc.InvalidArgument, "bad_tensor"},
		"tensor: size":      {ipc.Request{Tensors: []ipc.Tensor{{DType: "int8", Shape: []uint64{2}}}}, ipc.InvalidArgument, "bad_tensor"},
		"message too large": {ipc.Request{Tensors: []ipc.Tensor{{DType: "int8", Shape: []uint64{64 << 20}, Data: make([]byte, 64<<20)}}}, ipc.ResourceExhausted, "too_large"},
	} {
		c.req.Pool, c.req.Action = "test", "echo"
		_, err := h.call(testContext(t), &c.req)
		if e := ipc.AsError(err); e == nil || e.Code != c.code || e.Reason != c.reason {
			t.Errorf("%s: %v, want %s/%s", name, err, c.code, c.reason)
		}
	}
	h.busy(0, 0)
	req := request(t, "test", "echo", nil)
	req.Body = deep(63)
	if _, err := h.call(testContext(t), req); err != nil {
		t.Errorf("the deepest body there may be: %v", err)
	}
	if w := h.worker("test", 0); w.Restarts != 0 {
		t.Errorf("the worker was restarted: %+v", w.LastExit)
	}
}

func TestWorkersGetABoundedCredit(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	for given, want := range map[uint32]uint32{0: 1, 1: 1, maxCredit: maxCredit, 1 << 20: maxCredit} {
		req := request(t, "test", "credit", nil)
		req.Credit = given
		r, err := h.call(testContext(t), req)
		if err != nil {
			t.Fatal(err)
		}
		var got uint32
		if err := r.Body.Decode(&got); err != nil || got != want {
			t.Errorf("a credit of %d is %d in the worker (%v), want %d", given, got, err, want)
		}
	}
}

// Whoever has seen the end of a request may rely on its place being free, even where nobody may wait.
func TestOneAfterTheOtherNeedsNoQueue(t *testing.T) {
	cfg := builtin(1, 1)
	cfg.Queue = -1
	h := run(t, cfg).waitReady()
	for range 500 {
		h.must("echo", nil, nil)
	}
}
