package supervisor

import (
	"context"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

// hungSoon has a worker killed that is a little late with the end of an abandoned request.
func hungSoon(s *Supervisor) { s.hungGrace = 100 * time.Millisecond }

// Whatever holds a request up, its caller is told when the deadline passes; the worker is killed a little later, and replaced.
func TestHangingWorkerIsReplaced(t *testing.T) {
	for _, how := range []string{"block", "spin", "stop"} {
		t.Run(how, func(t *testing.T) {
			h := runWith(t, hungSoon, builtin(1, 2)).waitReady()
			pid := h.worker("test", 0).PID
			req := request(t, "test", "hang", map[string]string{"how": how})
			req.Timeout = 50 * time.Millisecond
			begin := time.Now()
			_, err := h.call(testContext(t), req)
			wantError(t, err, ipc.DeadlineExceeded, "deadline")
			if took := time.Since(begin); took < req.Timeout || took > 10*time.Second {
				t.Errorf("the caller was told after %v", took)
			}
			w := h.await("test", "a restart", func(p PoolStatus) bool { return p.Workers[0].State == "ready" && p.Workers[0].PID != pid }).Workers[0]
			if w.Restarts != 1 || w.LastExit.Cause != "hung" || !strings.HasPrefix(w.LastExit.Detail, "a request was cancelled or past its deadline") {
				t.Errorf("status %+v, last exit %+v", w, w.LastExit)
			}
			h.must("echo", nil, nil)
		})
	}
}

// Those who share a worker with one that hangs lose it with the worker.
func TestHangingWorkerTakesTheOthersWithIt(t *testing.T) {
	h := runWith(t, hungSoon, builtin(1, 2)).waitReady()
	shared := h.hold("test")
	ctx, cancel := context.WithCancel(testContext(t))
	hung := h.start(ctx, request(t, "test", "hang", nil))
	h.busy(2, 0)
	cancel()
	wantError(t, (<-hung).err, ipc.Cancelled, "cancelled")
	h.lastExit()
	e := wantError(t, shared.finish(), ipc.Aborted, "worker_lost")
	if !strings.Contains(e.Message, "hung") {
		t.Errorf("message %q", e.Message)
	}
	h.must("echo", nil, nil)
}

// A request that is larger than the ring waits for a worker to read; one that is stopped never does.
func TestStoppedWorkerAndALargeRequest(t *testing.T) {
	h := runWith(t, func(s *Supervisor) { s.hungGrace = time.Second }, builtin(1, 4)).waitReady()
	pid := h.worker("test", 0).PID
	kill(t, pid, unix.SIGSTOP)
	large := func() *ipc.Request {
		const n = 2 * ringCapacity
		return &ipc.Request{Pool: "test", Action: "echo", Timeout: 100 * time.Millisecond, Tensors: []ipc.Tensor{{DType: "uint8", Shape: []uint64{n}, Data: make([]byte, n)}}}
	}
	first := h.start(testContext(t), large())
	h.busy(1, 0)
	small := request(t, "test", "echo", nil)
	small.Timeout = 100 * time.Millisecond
	others := []<-chan outcome{h.start(testContext(t), large()), h.start(testContext(t), small)} // stuck behind it
	h.busy(3, 0)
	// Nobody waits for the others when somebody wants to know how the worker is.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if health := h.all()[0].health(ctx); health.OK || !strings.Contains(health.Error, "DEADLINE_EXCEEDED") {
		t.Errorf("health %+v", health)
	}
	for _, end := range append(others, first) {
		wantError(t, (<-end).err, ipc.DeadlineExceeded, "deadline")
	}
	w := h.await("test", "a restart", func(p PoolStatus) bool { return p.Workers[0].State == "ready" && p.Workers[0].PID != pid }).Workers[0]
	if w.LastExit.Cause != "hung" {
		t.Errorf("last exit %+v", w.LastExit)
	}
	h.busy(0, 0)
	req := large()
	req.Timeout = 0
	if _, err := h.call(testContext(t), req); err != nil {
		t.Error(err)
	}
}

// A stream whose caller does not read is held up by its credit, not by the worker: that is no hang.
func TestSlowReaderIsNoHang(t *testing.T) {
	h := runWith(t, func(s *Supervisor) { s.hungGrace, s.tickEvery = time.Millisecond, time.Millisecond }, builtin(1, 2)).waitReady()
	slow := h.hold("test")
	for range 50 {
		h.must("sleep", map[string]any{"seconds": 0.002}, nil)
	}
	if err := slow.finish(); err != nil {
		t.Error(err)
	}
	if w := h.worker("test", 0); w.Restarts != 0 {
		t.Errorf("restarted: %+v", w.LastExit)
	}
}
