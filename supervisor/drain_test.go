package supervisor

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

// command sends a control request on a goroutine of its own.
func (h *harness) command(action, pool string) <-chan outcome {
	body := map[string]any{}
	if pool != "" {
		body["pool"] = pool
	}
	return h.start(testContext(h.t), request(h.t, ControlPool, action, body))
}

func pids(st PoolStatus) []int {
	var all []int
	for _, w := range st.Workers {
		all = append(all, w.PID)
	}
	return all
}

func TestRollingRestartLosesNothing(t *testing.T) {
	for _, order := range []Replace{StartFirst, StopFirst} {
		t.Run(string(order), func(t *testing.T) { testRollingRestart(t, order) })
	}
}

func testRollingRestart(t *testing.T, order Replace) {
	const restarts, callers = 3, 8
	cfg := builtin(2, 4)
	cfg.Replace = order
	h := run(t, cfg).waitReady()
	before := pids(h.allReady("test"))
	ctx, cancel := context.WithCancel(t.Context())
	var calls atomic.Int64
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for ctx.Err() == nil {
				action := "echo"
				if i%2 == 0 {
					action = "count"
				}
				if _, err := h.call(testContext(t), request(t, "test", action, map[string]int{"n": 20})); err != nil {
					t.Error(err)
					return
				}
				calls.Add(1)
			}
		})
	}
	for range restarts {
		if o := <-h.command("restart", "test"); o.err != nil {
			t.Error(o.err)
		}
		st := h.allReady("test")
		for i, w := range st.Workers {
			if slices.Contains(before, w.PID) || w.LastExit == nil || w.LastExit.Cause != "restarted" || w.LastExit.Detail != "exit status 0" {
				t.Errorf("worker %d: pid %d (before: %v), last exit %+v", i, w.PID, before, w.LastExit)
			}
		}
		before = pids(st)
	}
	cancel()
	wg.Wait()
	h.busy(0, 0)
	t.Logf("%d calls", calls.Load())
	if calls.Load() == 0 {
		t.Error("that proves nothing")
	}
}

// A restart waits for what runs, and has queued requests answered by the next process.
func TestRestartWaitsForWhatRuns(t *testing.T) {
	cfg := builtin(1, 1)
	cfg.Replace = StopFirst
	h := runWith(t, func(s *Supervisor) { s.endGrace = 20 * time.Millisecond }, cfg, other()).waitReady()
	running := h.hold("test")
	queued := h.start(testContext(t), request(t, "test", "echo", nil))
	h.busy(1, 1)
	restarted := h.command("restart", "test")
	h.await("test", "the worker to drain", func(p PoolStatus) bool { return p.Workers[0].State == "draining" })
	if _, err := h.call(testContext(t), request(t, "other", "sleep", map[string]float64{"seconds": 0.2})); err != nil { // much longer than the grace, which has not begun
		t.Error(err)
	}
	if w := h.worker("test", 0); w.PID != running.pid || w.InFlight != 1 {
		t.Errorf("status %+v", w)
	}
	if err := running.finish(); err != nil {
		t.Error(err)
	}
	if o := <-queued; o.err != nil {
		t.Error(o.err)
	}
	if o := <-restarted; o.err != nil {
		t.Error(o.err)
	}
	if w := h.worker("test", 0); w.PID == running.pid || w.Restarts != 1 {
		t.Errorf("status %+v", w)
	}
}

// A worker that does not go when told to is made to go, without a backoff.
func TestRestartOfAWorkerThatIgnoresDrain(t *testing.T) {
	for name, stop := range map[string]unix.Signal{"and obeys SIGTERM": 0, "and is stopped": unix.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			grace := 500 * time.Millisecond
			if stop != 0 {
				grace = 20 * time.Millisecond
			}
			h := runWith(t, func(s *Supervisor) { s.endGrace, s.backoffFirst = grace, time.Hour }, villainPool(t, "deaf")).waitReady()
			if stop != 0 {
				kill(t, h.worker("test", 0).PID, stop)
			}
			if o := <-h.command("restart", "test"); o.err != nil {
				t.Fatal(o.err)
			}
			want := "signal: terminated"
			if stop != 0 {
				want = "it ignored SIGTERM (signal: killed)"
			}
			if exit := h.lastExit(); exit.Cause != "restarted" || exit.Detail != want {
				t.Errorf("last exit %+v", exit)
			}
		})
	}
}

func TestRestartOfAFailedPool(t *testing.T) {
	file := filepath.Join(t.TempDir(), "model")
	h := run(t, needsFile(t, file))
	failed := func(p PoolStatus) bool { return p.State == "failed" }
	h.await("test", "it to fail", failed)
	e := wantError(t, (<-h.command("restart", "test")).err, ipc.Unavailable, "crash_loop")
	if !strings.Contains(e.Message, "is missing") {
		t.Errorf("message %q", e.Message)
	}
	h.await("test", "it to fail again", failed)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if o := <-h.command("restart", "test"); o.err != nil {
		t.Fatal(o.err)
	}
	h.must("echo", nil, nil)
}

// A worker that is still loading has nothing to finish: a restart does not wait for it.
func TestRestartWhileLoading(t *testing.T) {
	file := filepath.Join(t.TempDir(), "model")
	cfg := shell(`test -e "$FILE" || { ` + handshake + ` exec sleep 1000; }; exec "$WORKER" worker --builtin echo`)
	cfg.Env = map[string]string{"FILE": file, "WORKER": testBinary(t)}
	h := runWith(t, func(s *Supervisor) { s.backoffFirst = time.Hour }, cfg)
	h.await("test", "it to load", func(p PoolStatus) bool { return p.State == "loading" && p.Workers[0].State == "loading" })
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if o := <-h.command("restart", "test"); o.err != nil {
		t.Fatal(o.err)
	}
	h.must("echo", nil, nil)
}

func TestDrainAndBack(t *testing.T) {
	h := run(t, builtin(2, 1), other()).waitReady()
	h.allReady("test")
	running := []*held{h.hold("test"), h.hold("test")}
	queued := h.start(testContext(t), request(t, "test", "echo", nil))
	h.busy(2, 1)
	drained := h.command("drain", "test")
	h.await("test", "it to drain", func(p PoolStatus) bool { return p.State == "draining" })
	_, err := h.call(testContext(t), request(t, "test", "echo", nil))
	if e := wantError(t, err, ipc.Unavailable, "draining"); !strings.Contains(e.Message, "ringmaster restart test") {
		t.Errorf("message %q", e.Message)
	}
	h.busy(2, 1)
	for _, hd := range running {
		if err := hd.finish(); err != nil {
			t.Error(err)
		}
	}
	if o := <-queued; o.err != nil {
		t.Error(o.err)
	}
	if o := <-drained; o.err != nil {
		t.Fatal(o.err)
	}
	st := h.Status().Pools
	if st[0].Name != "other" || st[0].State != "ready" || st[1].State != "drained" {
		t.Errorf("status %+v", st)
	}
	for _, w := range st[1].Workers {
		if w.State != "stopped" || w.PID != 0 || w.LastExit.Cause != "stopped" || w.LastExit.Detail != "exit status 0" {
			t.Errorf("worker %+v, last exit %+v", w, w.LastExit)
		}
	}
	_, err = h.call(testContext(t), request(t, "test", "echo", nil))
	wantError(t, err, ipc.Unavailable, "draining")
	if o := <-h.command("drain", "test"); o.err != nil { // is drained already
		t.Error(o.err)
	}

	if o := <-h.command("restart", "test"); o.err != nil {
		t.Fatal(o.err)
	}
	if st := h.allReady("test"); st.State != "ready" {
		t.Errorf("status %+v", st)
	}
	h.must("echo", nil, nil)
}

// Nobody serves what is queued in a pool whose workers do not come up.
func TestDrainOfAFailedPool(t *testing.T) {
	h := run(t, shell("exit 3"))
	h.await("test", "it to fail", func(p PoolStatus) bool { return p.State == "failed" })
	if o := <-h.command("drain", ""); o.err != nil {
		t.Fatal(o.err)
	}
	if st := h.Status().Pools[0]; st.State != "drained" {
		t.Errorf("status %+v", st)
	}
}

func TestRunsEndDrains(t *testing.T) {
	h := run(t, builtin(1, 1), other()).waitReady()
	running := h.hold("test")
	queued := h.start(testContext(t), request(t, "test", "echo", nil))
	h.busy(1, 1)
	h.end()
	h.await("test", "it to drain", func(p PoolStatus) bool { return p.State == "draining" })
	_, err := h.call(testContext(t), request(t, "test", "echo", nil))
	wantError(t, err, ipc.Unavailable, "draining")
	if err := running.finish(); err != nil {
		t.Error(err)
	}
	if o := <-queued; o.err != nil {
		t.Error(o.err)
	}
	h.stop()
	for _, p := range h.Status().Pools {
		if p.State != "drained" {
			t.Errorf("status %+v", p)
		}
	}
	_, err = h.call(testContext(t), request(t, "test", "echo", nil))
	wantError(t, err, ipc.Unavailable, "draining")
}

// When the time for draining is up, requests are cut off.
func TestRunsEndIsNotForEver(t *testing.T) {
	for _, how := range []string{"block", "stop"} {
		t.Run(how, func(t *testing.T) {
			h := runWith(t, func(s *Supervisor) { s.drainTimeout, s.endGrace = 50*time.Millisecond, 50*time.Millisecond }, builtin(1, 1)).waitReady()
			running := h.start(testContext(t), request(t, "test", "hang", map[string]string{"how": how}))
			h.busy(1, 0)
			queued := h.start(testContext(t), request(t, "test", "echo", nil))
			h.busy(1, 1)
			begin := time.Now()
			h.stop()
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("Run took %v to end", took)
			}
			wantError(t, (<-running).err, ipc.Aborted, "worker_lost")
			wantError(t, (<-queued).err, ipc.Unavailable, "draining")
		})
	}
}

// Workers that are not ready yet, or wait for their next start, do not hold the end up.
func TestRunEndsWhileNothingIsReady(t *testing.T) {
	for name, script := range map[string]string{"starting": "sleep 1000", "loading": handshake + "sleep 1000", "backoff": "exit 1"} {
		t.Run(name, func(t *testing.T) {
			h := runWith(t, func(s *Supervisor) { s.backoffFirst, s.drainTimeout = time.Hour, time.Hour }, shell(script))
			h.await("test", name, func(p PoolStatus) bool { return p.Workers[0].State == name })
			h.stop()
		})
	}
}
