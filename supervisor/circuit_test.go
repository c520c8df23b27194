package supervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// A pool whose workers die before they have answered anything refuses requests at once, says why, and comes back by itself once they work.
func TestCircuitOpensAndCloses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "model")
	h := runWith(t, func(s *Supervisor) { s.backoffMax = 100 * time.Millisecond }, needsFile(t, file))
	h.await("test", "it to fail", func(p PoolStatus) bool { return p.State == "failed" })
	_, err := h.call(testContext(t), request(t, "test", "echo", nil))
	e := wantError(t, err, ipc.Unavailable, "crash_loop")
	if e.RetryAfter < minCrashRetry || !strings.Contains(e.Message, "is missing") {
		t.Errorf("%v, retry after %v", e, e.RetryAfter)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.await("test", "it to be ready", func(p PoolStatus) bool { return p.State == "ready" })
	h.must("echo", nil, nil)
}

// While a process is tried the circuit stays open, and one that is ready gets a single request until it has answered.
func TestCircuitIsTriedWithOneRequest(t *testing.T) {
	dir := t.TempDir()
	model, load := filepath.Join(dir, "model"), filepath.Join(dir, "load")
	cfg := shell(`test -e "$MODEL" || exit 3; while ! test -e "$LOAD"; do sleep 0.01; done; exec "$WORKER" worker --builtin echo`)
	cfg.Env = map[string]string{"MODEL": model, "LOAD": load, "WORKER": testBinary(t)}
	cfg.Concurrency = 8
	h := runWith(t, func(s *Supervisor) { s.backoffMax = 50 * time.Millisecond }, cfg)
	h.await("test", "it to fail", func(p PoolStatus) bool { return p.State == "failed" })
	if err := os.WriteFile(model, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.await("test", "a process to be tried", func(p PoolStatus) bool { return p.Workers[0].State == "starting" && p.Workers[0].PID != 0 })
	_, err := h.call(testContext(t), request(t, "test", "echo", nil))
	wantError(t, err, ipc.Unavailable, "crash_loop")
	if err := os.WriteFile(load, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.await("test", "it to be ready", func(p PoolStatus) bool { return p.State == "ready" })
	probe := h.hold("test")
	second := h.start(testContext(t), request(t, "test", "echo", nil))
	h.busy(1, 1)
	if err := probe.finish(); err != nil {
		t.Fatal(err)
	}
	if o := <-second; o.err != nil {
		t.Fatal(o.err)
	}
	a, b := h.hold("test"), h.hold("test") // all of its places are open now
	h.busy(2, 0)
	for _, hd := range []*held{a, b} {
		if err := hd.finish(); err != nil {
			t.Error(err)
		}
	}
}

// Workers that become ready and die of their first request are a crash loop as well; ones that answer in between are not.
func TestCircuitOfWorkersThatDieOfTheirFirstRequest(t *testing.T) {
	cfg := builtin(1, 1)
	h := run(t, cfg).waitReady()
	for i := range failedAfter {
		_, err := h.call(testContext(t), request(t, "test", "crash", map[string]any{"how": "exit", "code": i + 1}))
		wantError(t, err, ipc.Aborted, "worker_lost")
	}
	h.await("test", "it to fail", func(p PoolStatus) bool { return p.State == "failed" })
	_, err := h.call(testContext(t), request(t, "test", "echo", nil))
	if e := wantError(t, err, ipc.Unavailable, "crash_loop"); !strings.Contains(e.Message, "exit status 5") {
		t.Errorf("message %q", e.Message)
	}
}

func TestNoCircuitForWorkersThatWork(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	for i := range 2 * failedAfter {
		h.must("echo", nil, nil)
		_, err := h.call(testContext(t), request(t, "test", "crash", map[string]any{"how": "exit", "code": i + 1}))
		wantError(t, err, ipc.Aborted, "worker_lost")
	}
	h.must("echo", nil, nil)
}
