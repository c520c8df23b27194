package supervisor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ringmasterd/ringmaster/ipc"
)

// reload reloads pools, which has to succeed.
func (h *harness) reload(pools ...PoolConfig) Reloaded {
	h.t.Helper()
	r, err := h.Reload(testContext(h.t), Config{Pools: pools})
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// underLoad calls echo on pool test from several goroutines until the returned function is called, which reports any failure.
func (h *harness) underLoad() (end func()) {
	ctx, cancel := context.WithCancel(testContext(h.t))
	var wg sync.WaitGroup
	for i := range 6 {
		begun := make(chan struct{})
		begin := sync.OnceFunc(func() { close(begun) })
		wg.Go(func() {
			defer begin()
			for ctx.Err() == nil {
				if _, err := h.call(testContext(h.t), request(h.t, "test", "echo", i)); err != nil {
					h.t.Error(err)
					return
				}
				begin()
			}
		})
		<-begun
	}
	return func() {
		h.t.Helper()
		cancel()
		wg.Wait()
	}
}

// What no process needs to know changes in place.
func TestReloadInPlace(t *testing.T) {
	h := run(t, builtin(2, 1), other()).waitReady()
	before := pids(h.allReady("test"))
	end := h.underLoad()
	cfg := builtin(2, 1)
	cfg.Queue, cfg.Limits.Requests, cfg.Balance = 7, 1e9, RoundRobin
	r := h.reload(cfg, other())
	if !slices.Equal(r.Changed, []string{"test"}) || !slices.Equal(r.Unchanged, []string{"other"}) || r.Added != nil || r.Removed != nil || r.Kept != nil {
		t.Errorf("%+v", r)
	}
	if got := h.byName("test").config(); got.Queue != 7 || got.Balance != RoundRobin {
		t.Errorf("%+v", got)
	}
	end()
	if got := pids(h.allReady("test")); !slices.Equal(got, before) {
		t.Errorf("pids %v, before %v", got, before)
	}
	if r := h.reload(cfg, other()); !slices.Equal(r.Unchanged, []string{"other", "test"}) || r.Changed != nil {
		t.Errorf("the same again: %+v", r)
	}
}

// What a process needs to know gets a new process, and no request notices.
func TestReloadRolls(t *testing.T) {
	for _, order := range []Replace{StartFirst, StopFirst} {
		t.Run(string(order), func(t *testing.T) {
			cfg := builtin(2, 2)
			cfg.Replace = order
			h := run(t, cfg, other()).waitReady()
			before, others := pids(h.allReady("test")), pids(h.allReady("other"))
			end := h.underLoad()
			cfg.Env = map[string]string{"COLOUR": "blue"}
			cfg.Concurrency = 3
			r := h.reload(cfg, other())
			if !slices.Equal(r.Changed, []string{"test"}) || r.Kept != nil {
				t.Errorf("%+v", r)
			}
			end()
			st := h.allReady("test")
			for i, w := range st.Workers {
				if slices.Contains(before, w.PID) || w.LastExit.Cause != "reloaded" || w.Restarts != 1 {
					t.Errorf("worker %d: %+v, last exit %+v", i, w, w.LastExit)
				}
			}
			if got := pids(h.allReady("other")); !slices.Equal(got, others) {
				t.Errorf("the other pool: pids %v, before %v", got, others)
			}
			var process struct {
				Env map[string]string `msgpack:"env"`
			}
			h.must("env", map[string]any{"names": []string{"COLOUR", ipc.ConcurrencyVariable}}, &process)
			if process.Env["COLOUR"] != "blue" || process.Env[ipc.ConcurrencyVariable] != "3" {
				t.Errorf("environment %v", process.Env)
			}
		})
	}
}

func TestReloadAddsAndRemovesPools(t *testing.T) {
	h := run(t, builtin(1, 1), other()).waitReady()
	running := h.hold("test")
	queued := h.start(testContext(t), request(t, "test", "echo", nil))
	h.busy(1, 1)
	pool := h.byName("test")
	added := builtin(1, 1)
	added.Name = "added"
	reloaded := make(chan Reloaded, 1)
	go func() {
		r, err := h.Reload(testContext(t), Config{Pools: []PoolConfig{added, other()}})
		if err != nil {
			t.Error(err)
		}
		reloaded <- r
	}()
	eventually(t, "the pool to be gone", func() bool { _, err := h.pool("test"); return err != nil })
	_, err := h.call(testContext(t), request(t, "test", "echo", nil))
	wantError(t, err, ipc.NotFound, "unknown_pool")
	if _, err := h.Reload(testContext(t), Config{Pools: []PoolConfig{other()}}); ipc.AsError(err).Reason != "reloading" {
		t.Errorf("a second reload beside the first: %v", err)
	}
	if _, err := h.call(testContext(t), request(t, "added", "echo", nil)); err != nil { // waits until it is ready
		t.Error(err)
	}
	if err := running.finish(); err != nil {
		t.Error(err)
	}
	if o := <-queued; o.err != nil {
		t.Error(o.err)
	}
	if r := <-reloaded; !slices.Equal(r.Added, []string{"added"}) || !slices.Equal(r.Removed, []string{"test"}) || !slices.Equal(r.Unchanged, []string{"other"}) {
		t.Errorf("%+v", r)
	}
	pool.mu.Lock()
	defer pool.mu.Unlock()
	if n := pool.inFlight(); n != 0 || pool.slots[0].inc != nil {
		t.Errorf("the removed pool has %d requests", n)
	}
}

func TestReloadChangesTheNumberOfWorkers(t *testing.T) {
	h := run(t, builtin(2, 1)).waitReady()
	before := pids(h.allReady("test"))
	end := h.underLoad()
	h.reload(builtin(4, 1))
	st := h.await("test", "four workers", func(p PoolStatus) bool {
		return len(p.Workers) == 4 && !slices.ContainsFunc(p.Workers, func(w WorkerStatus) bool { return w.State != "ready" })
	})
	if got := pids(st); !slices.Equal(got[:2], before) {
		t.Errorf("pids %v, before %v", got, before)
	}
	h.reload(builtin(1, 1))
	st = h.await("test", "one worker", func(p PoolStatus) bool { return len(p.Workers) == 1 })
	if got := pids(st); got[0] != before[0] {
		t.Errorf("pids %v, before %v", got, before)
	}
	end()
}

// A configuration that is not valid changes nothing.
func TestReloadOfABadConfiguration(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	before := pids(h.allReady("test"))
	bad := builtin(1, 1)
	bad.Queue, bad.Balance = 3, "random"
	var field *FieldError
	if _, err := h.Reload(testContext(t), Config{Pools: []PoolConfig{other(), bad}}); !errors.As(err, &field) || field.Field != "balance" {
		t.Errorf("%v", err)
	}
	if st := h.Status(); len(st.Pools) != 1 || !slices.Equal(pids(st.Pools[0]), before) {
		t.Errorf("%+v", st.Pools)
	}
	if q := h.byName("test").config().Queue; q != defaultQueue {
		t.Errorf("queue %d", q)
	}
}

// New workers that do not come up leave the old ones, or bring them back; either way the pool serves on.
func TestReloadOfWorkersThatDoNotComeUp(t *testing.T) {
	for _, order := range []Replace{StartFirst, StopFirst} {
		t.Run(string(order), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "model")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := needsFile(t, file)
			cfg.Workers, cfg.Replace = 2, order
			h := run(t, cfg).waitReady()
			before := pids(h.allReady("test"))
			end := h.underLoad()
			broken := needsFile(t, file+".missing")
			broken.Workers, broken.Replace, broken.Queue = 2, order, 5
			r := h.reload(broken)
			if why := r.Kept["test"]; r.Changed != nil || !strings.Contains(why, "is missing") {
				t.Errorf("%+v", r)
			}
			end()
			st := h.allReady("test")
			if order == StartFirst && !slices.Equal(pids(st), before) {
				t.Errorf("pids %v, before %v", pids(st), before)
			}
			if q := h.byName("test").config().Queue; q != defaultQueue {
				t.Errorf("queue %d", q)
			}
			h.must("echo", nil, nil)
		})
	}
}

// A restart whose new workers do not come up changes nothing either.
func TestRestartThatFailsKeepsTheWorkers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "model")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := needsFile(t, file)
	cfg.Devices.None = true
	h := run(t, cfg).waitReady()
	before := pids(h.allReady("test"))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	wantError(t, (<-h.command("restart", "test")).err, ipc.Unavailable, "crash_loop")
	h.must("echo", nil, nil)
	st := h.await("test", "the new one to be gone", func(p PoolStatus) bool { return len(p.Workers) == 1 })
	if !slices.Equal(pids(st), before) {
		t.Errorf("pids %v, before %v", pids(st), before)
	}
}

// A drain in the middle of a roll ends it, and leaves no process.
func TestDrainDuringARoll(t *testing.T) {
	for _, order := range []Replace{StartFirst, StopFirst} {
		t.Run(string(order), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "first")
			cfg := shell(`test -e "$FILE" && { ` + handshake + ` exec sleep 1000; }; touch "$FILE"; exec "$WORKER" worker --builtin echo`)
			cfg.Env = map[string]string{"FILE": file, "WORKER": testBinary(t)}
			cfg.Replace = order
			h := run(t, cfg).waitReady()
			restarted := h.command("restart", "test")
			h.await("test", "a new process to load", func(p PoolStatus) bool {
				return slices.ContainsFunc(p.Workers, func(w WorkerStatus) bool { return w.State == "loading" })
			})
			if o := <-h.command("drain", "test"); o.err != nil {
				t.Error(o.err)
			}
			wantError(t, (<-restarted).err, ipc.Unavailable, "draining")
			if st := h.Status().Pools[0]; st.State != "drained" || len(st.Workers) != 1 || st.Workers[0].PID != 0 {
				t.Errorf("status %+v", st)
			}
		})
	}
}
