package supervisor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

// frailRequest is one whose first runs die; see frail.
func frailRequest(t *testing.T, action, file, line string, deaths, chunks int) *ipc.Request {
	t.Helper()
	return request(t, "test", action, map[string]any{"file": file, "line": line, "deaths": deaths, "chunks": chunks})
}

// A request that a dying worker had read is tried once more if its action may run twice, and nobody notices.
func TestIdempotentRequestIsTriedOnceMore(t *testing.T) {
	h := run(t, builtin(2, 4)).waitReady()
	h.allReady("test")
	file := filepath.Join(t.TempDir(), "record")
	if _, err := h.call(testContext(t), frailRequest(t, "frail", file, "a", 1, 0)); err != nil {
		t.Fatal(err)
	}
	if got := recorded(t, file); !slices.Equal(got, []string{"a", "a"}) {
		t.Errorf("ran %v, want twice", got)
	}
	// It is cleared by its success: a like one that dies once more is not poison.
	other := filepath.Join(t.TempDir(), "record")
	if _, err := h.call(testContext(t), frailRequest(t, "frail", other, "a", 1, 0)); err != nil {
		t.Fatal(err)
	}
	h.allReady("test")
	h.must("echo", nil, nil)
}

// One that may not run twice is lost, and runs once.
func TestOtherRequestsAreNotRepeated(t *testing.T) {
	h := run(t, builtin(2, 1)).waitReady()
	file := filepath.Join(t.TempDir(), "record")
	_, err := h.call(testContext(t), frailRequest(t, "fatal", file, "a", 1, 0))
	wantError(t, err, ipc.Aborted, "worker_lost")
	if got := recorded(t, file); !slices.Equal(got, []string{"a"}) {
		t.Errorf("ran %v, want once", got)
	}
}

// A stream whose caller has seen a chunk is not begun again; one that had not said anything is.
func TestStreamsAreNotRestarted(t *testing.T) {
	h := run(t, builtin(2, 1)).waitReady()
	file := filepath.Join(t.TempDir(), "record")
	ctx := testContext(t)
	replies, err := h.Call(ctx, frailRequest(t, "frail", file, "a", 1, 1))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := replies.Recv(ctx); err != nil || r.End {
		t.Fatalf("%+v, %v", r, err)
	}
	_, err = last(ctx, replies)
	wantError(t, err, ipc.Aborted, "worker_lost")
	if got := recorded(t, file); !slices.Equal(got, []string{"a"}) {
		t.Errorf("ran %v, want once", got)
	}
}

// A request that two workers died of is refused from then on, whoever sends it; the pool loses no third worker by it.
func TestPoison(t *testing.T) {
	for action, first := range map[string]string{
		"frail": "poison_request", // both deaths in one call
		"fatal": "worker_lost",    // the caller has tried again itself
	} {
		t.Run(action, func(t *testing.T) {
			h := run(t, builtin(2, 2)).waitReady()
			file := filepath.Join(t.TempDir(), "record")
			poison := func() *ipc.Request { return frailRequest(t, action, file, "a", 1000, 0) }
			_, err := h.call(testContext(t), poison())
			wantError(t, err, ipc.Aborted, first)
			for range 3 {
				_, err := h.call(testContext(t), poison())
				if e := wantError(t, err, ipc.Aborted, "poison_request"); e.RetryAfter <= 0 || e.RetryAfter > suspectTTL {
					t.Errorf("retry after %v", e.RetryAfter)
				}
			}
			if got := recorded(t, file); !slices.Equal(got, []string{"a", "a"}) {
				t.Errorf("ran %v, want twice", got)
			}
			st := h.allReady("test")
			if n := st.Workers[0].Restarts + st.Workers[1].Restarts; n != 2 {
				t.Errorf("%d workers were lost", n)
			}
			// Another request of the same action is another request.
			if action == "frail" {
				if _, err := h.call(testContext(t), frailRequest(t, action, file, "b", 0, 0)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A request that makes workers hang until they are killed is as bad as one that crashes them, though its callers have long gone.
func TestRequestThatHangsTwoWorkersIsPoison(t *testing.T) {
	h := runWith(t, hungSoon, builtin(2, 1)).waitReady()
	h.allReady("test")
	for range 2 {
		restarts := h.restarts()
		req := request(t, "test", "hang", map[string]string{"how": "block"})
		req.Timeout = 20 * time.Millisecond
		_, err := h.call(testContext(t), req)
		wantError(t, err, ipc.DeadlineExceeded, "deadline")
		eventually(t, "the worker to be replaced", func() bool { return h.restarts() == restarts+1 })
	}
	h.allReady("test")
	_, err := h.call(testContext(t), request(t, "test", "hang", map[string]string{"how": "block"}))
	wantError(t, err, ipc.Aborted, "poison_request")
}

func (h *harness) restarts() int {
	n := 0
	for _, w := range h.Status().Pools[0].Workers {
		n += w.Restarts
	}
	return n
}

// Requests that share their worker with a poisonous one get away with it: a suspect is tried again alone.
func TestInnocentBystandersSurvivePoison(t *testing.T) {
	const bystanders = 6
	cfg := builtin(1, bystanders+1)
	h := run(t, cfg).waitReady()
	dir := t.TempDir()
	wait := func(i int) *ipc.Request {
		return request(t, "test", "quiet", map[string]any{"file": filepath.Join(dir, fmt.Sprint(i)), "line": "x", "times": 1, "deaf": true})
	}
	var ends []<-chan outcome
	for i := range bystanders {
		ends = append(ends, h.start(testContext(t), wait(i)))
	}
	eventually(t, "them to run", func() bool {
		begun := 0
		for _, file := range glob(t, filepath.Join(dir, "*")) {
			if line, _ := os.ReadFile(file); len(line) > 0 { // else it is about to be written
				begun++
			}
		}
		return begun == bystanders
	})
	file := filepath.Join(t.TempDir(), "record")
	_, err := h.call(testContext(t), frailRequest(t, "frail", file, "a", 1000, 0))
	wantError(t, err, ipc.Aborted, "poison_request")
	for i, end := range ends {
		if o := <-end; o.err != nil {
			t.Errorf("bystander %d: %v", i, o.err)
		}
	}
}

// One that has to run alone is not kept waiting by those that keep all workers busy, nor does it stop them.
func TestWhoRunsAloneIsNotStarved(t *testing.T) {
	h := run(t, builtin(2, 4)).waitReady()
	h.allReady("test")
	ctx, cancel := context.WithCancel(testContext(t))
	var ends []<-chan error
	for range 16 {
		end := make(chan error, 1)
		ends = append(ends, end)
		go func() {
			var err error
			for ctx.Err() == nil && err == nil {
				_, err = h.call(testContext(t), request(t, "test", "sleep", map[string]float64{"seconds": 0.001}))
			}
			end <- err
		}()
	}
	for i := range 5 {
		file := filepath.Join(t.TempDir(), "record")
		if _, err := h.call(testContext(t), frailRequest(t, "frail", file, fmt.Sprint(i), 1, 0)); err != nil {
			t.Error(err)
		}
	}
	cancel()
	for _, end := range ends {
		if err := <-end; err != nil {
			t.Error(err)
		}
	}
	p := h.all()[0]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reserved != nil || p.again.Len() > 0 || p.queue.len > 0 {
		t.Errorf("reserved %v, %d again, %d queued", p.reserved, p.again.Len(), p.queue.len)
	}
}

// A worker that is stopped before it reads the only request it has been sent is found out long before the deadline, and the request moved.
func TestUnreadRequestOfAStoppedWorkerMoves(t *testing.T) {
	cfg := builtin(2, 1)
	cfg.Grace = 100 * time.Millisecond
	h := run(t, cfg).waitReady()
	st := h.allReady("test")
	stopped := st.Workers[0].PID
	kill(t, stopped, unix.SIGSTOP)
	for range 4 {
		h.must("echo", nil, nil)
	}
	w := h.await("test", "its end", func(p PoolStatus) bool { return p.Workers[0].PID != stopped && p.Workers[0].State == "ready" }).Workers[0]
	if w.LastExit.Cause != "hung" {
		t.Errorf("last exit %+v", w.LastExit)
	}
}

func TestSuspects(t *testing.T) {
	var s suspects
	now := time.Now()
	digest := func(r ipc.Request) uint64 { return s.digest(&r) }
	a := digest(ipc.Request{Action: "a", Body: ipc.Body("x")})
	for name, r := range map[string]ipc.Request{
		"action":  {Action: "b", Body: ipc.Body("x")},
		"body":    {Action: "a", Body: ipc.Body("y")},
		"context": {Action: "a", Body: ipc.Body("x"), Context: []byte("c")},
		"tensor":  {Action: "a", Body: ipc.Body("x"), Tensors: []ipc.Tensor{{Name: "t", DType: "uint8", Shape: []uint64{1}, Data: []byte{0}}}},
		"arena":   {Action: "a", Body: ipc.Body("x"), Tensors: []ipc.Tensor{{Name: "t", DType: "uint8", Shape: []uint64{1}, At: ipc.Range{Region: 1, Offset: 64, Length: 1}}}},
		"slot":    {Action: "a", Body: ipc.Body("x"), Outputs: []ipc.Output{{Name: "t", At: ipc.Range{Region: 1, Offset: 64, Length: 1}}}},
	} {
		if digest(r) == a {
			t.Errorf("another %s, the same digest", name)
		}
	}
	if digest(ipc.Request{Action: "a", Body: ipc.Body("x"), TraceID: "t", Pool: "p", ID: 7, Timeout: 1}) != a {
		t.Error("the digest depends on what does not matter")
	}
	if s.any() {
		t.Error("a digest alone makes no suspect")
	}
	if n := s.died(a, 1, now); n != 1 || !s.any() {
		t.Errorf("%d deaths", n)
	}
	if n := s.died(a, 1, now); n != 1 { // a like request, in the same process
		t.Errorf("%d deaths of one process", n)
	}
	s.clear(a)
	if n, _ := s.look(a, now); n != 0 || s.any() {
		t.Errorf("%d deaths after it was cleared", n)
	}
	s.died(a, 1, now)
	if n := s.died(a, 2, now.Add(time.Second)); n != poisonDeaths {
		t.Errorf("%d deaths", n)
	}
	s.clear(a) // too late
	if n, left := s.look(a, now.Add(time.Minute)); n != poisonDeaths || left != suspectTTL-59*time.Second {
		t.Errorf("%d deaths, for %v", n, left)
	}
	if n, _ := s.look(a, now.Add(time.Second+suspectTTL)); n != 0 || s.any() {
		t.Errorf("%d deaths after its time", n)
	}
	for i := range maxSuspects + 10 {
		s.died(uint64(i+1), 3, now.Add(time.Duration(i)))
	}
	if n := len(s.list); n != maxSuspects {
		t.Errorf("%d suspects are remembered, want %d", n, maxSuspects)
	}
	if n, _ := s.look(10, now); n != 0 {
		t.Error("an old one is remembered")
	}
	if n, _ := s.look(maxSuspects+10, now); n != 1 {
		t.Error("the newest one is not")
	}
}
