package supervisor

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestRequestsLimit(t *testing.T) {
	const limit, callers, recycles = 20, 4, 3
	cfg := builtin(1, 2)
	cfg.Limits.Requests, cfg.Replace = limit, StopFirst
	h := runWith(t, func(s *Supervisor) { s.tickEvery = time.Millisecond }, cfg).waitReady()
	running := h.hold("test") // it will be in the way of the first recycling
	var done atomic.Bool
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for !done.Load() {
				if _, err := h.call(testContext(t), request(t, "test", "echo", nil)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	w := h.await("test", "the worker to drain", func(p PoolStatus) bool { return p.Workers[0].State == "draining" }).Workers[0]
	if w.PID != running.pid || w.Requests < limit*9/10 {
		t.Errorf("draining: %+v", w)
	}
	if err := running.finish(); err != nil {
		t.Errorf("the request that ran: %v", err)
	}
	w = h.await("test", "some recycling", func(p PoolStatus) bool { return p.Workers[0].Restarts == recycles }).Workers[0]
	done.Store(true)
	wg.Wait()
	if w.LastExit.Cause != "recycled" || w.LastExit.Detail != "exit status 0" || w.Requests < recycles*limit*9/10 {
		t.Errorf("status %+v, last exit %+v", w, w.LastExit)
	}
}

func TestLifetimeLimit(t *testing.T) {
	cfg := builtin(1, 1)
	cfg.Limits.Lifetime, cfg.Replace = 300*time.Millisecond, StopFirst
	h := run(t, cfg).waitReady()
	running := h.hold("test")
	queued := h.start(testContext(t), request(t, "test", "echo", nil))
	h.busy(1, 1)
	w := h.await("test", "the worker to drain", func(p PoolStatus) bool { return p.Workers[0].State == "draining" }).Workers[0]
	if w.PID != running.pid || w.UptimeS < 0.27 {
		t.Errorf("draining: %+v", w)
	}
	if err := running.finish(); err != nil {
		t.Errorf("the request that ran: %v", err)
	}
	if o := <-queued; o.err != nil {
		t.Errorf("the request that waited: %v", o.err)
	}
	w = h.await("test", "its end", func(p PoolStatus) bool { return p.Workers[0].PID != running.pid }).Workers[0]
	if w.LastExit.Cause != "recycled" || w.LastExit.Detail != "exit status 0" {
		t.Errorf("last exit %+v", w.LastExit)
	}
}

func TestRSSLimit(t *testing.T) {
	cfg := builtin(1, 2)
	cfg.Limits.RSS, cfg.Replace = 256<<20, StopFirst
	h := run(t, cfg).waitReady()
	running := h.hold("test")
	h.must("leak", map[string]int{"mib": 16}, nil) // not too much
	before := h.Status().Pools[0].Workers[0]
	if before.RSSBytes < 16<<20 || before.RSSBytes > cfg.Limits.RSS || before.FDs < 5 {
		t.Fatalf("status %+v", before)
	}
	h.must("leak", map[string]int{"mib": 256}, nil)
	w := h.await("test", "the worker to drain", func(p PoolStatus) bool { return p.Workers[0].State == "draining" }).Workers[0]
	if w.PID != running.pid {
		t.Errorf("draining: %+v", w)
	}
	if err := running.finish(); err != nil {
		t.Errorf("the request that ran: %v", err)
	}
	h.await("test", "its end", func(p PoolStatus) bool { return p.Workers[0].PID != running.pid && p.Workers[0].State == "ready" })
	if w := h.Status().Pools[0].Workers[0]; w.LastExit.Cause != "recycled" || w.RSSBytes == 0 || w.RSSBytes > before.RSSBytes {
		t.Errorf("status %+v, last exit %+v", w, w.LastExit)
	}
	h.must("echo", nil, nil)
}

// Where both fit, the next worker is ready before the one that has reached its limit goes: nobody waits.
func TestRecyclingStartsTheReplacementFirst(t *testing.T) {
	file := filepath.Join(t.TempDir(), "go")
	cfg := shell(`test -e "$FILE.first" && while ! test -e "$FILE"; do sleep 0.01; done; touch "$FILE.first"; exec "$WORKER" worker --builtin echo`)
	cfg.Env = map[string]string{"FILE": file, "WORKER": testBinary(t)}
	cfg.Devices.None, cfg.Concurrency, cfg.Limits.Requests = true, 2, 3
	h := run(t, cfg).waitReady()
	first := h.worker("test", 0).PID
	running := h.hold("test")
	for range 10 { // it goes on beyond its limit while its replacement loads
		h.must("echo", nil, nil)
	}
	st := h.await("test", "a second process", func(p PoolStatus) bool { return len(p.Workers) == 2 && p.Workers[1].PID != 0 })
	if st.Workers[0].PID != first || st.Workers[0].State != "ready" || st.Workers[1].Slot != 0 || st.State != "ready" {
		t.Errorf("status %+v", st)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	st = h.await("test", "the swap", func(p PoolStatus) bool { return p.Workers[0].PID != first })
	if len(st.Workers) != 2 || st.Workers[0].State != "ready" || st.Workers[1].PID != first || st.Workers[1].State == "ready" && st.Workers[1].InFlight != 1 {
		t.Errorf("status %+v", st)
	}
	h.must("echo", nil, nil)
	if err := running.finish(); err != nil {
		t.Errorf("the request that ran: %v", err)
	}
	w := h.await("test", "its end", func(p PoolStatus) bool { return len(p.Workers) == 1 }).Workers[0]
	if w.LastExit.Cause != "recycled" || w.Restarts != 1 {
		t.Errorf("status %+v, last exit %+v", w, w.LastExit)
	}
}

// A replacement that does not come up leaves the old worker where it is.
func TestRecyclingThatFailsKeepsTheWorker(t *testing.T) {
	file := filepath.Join(t.TempDir(), "first")
	cfg := shell(`test -e "$FILE" && exit 3; touch "$FILE"; exec "$WORKER" worker --builtin echo`)
	cfg.Env = map[string]string{"FILE": file, "WORKER": testBinary(t)}
	cfg.Devices.None, cfg.Limits.Requests = true, 3
	h := run(t, cfg).waitReady()
	pid := h.worker("test", 0).PID
	for range 5 {
		h.must("echo", nil, nil)
	}
	h.await("test", "replacements to fail", func(p PoolStatus) bool {
		return p.Workers[0].Restarts >= failedStarts && len(p.Workers) == 1
	})
	if w := h.worker("test", 0); w.PID != pid || w.State != "ready" || w.LastExit.Cause != "exited" {
		t.Errorf("status %+v, last exit %+v", w, w.LastExit)
	}
	h.must("echo", nil, nil)
}

func TestIdleLimit(t *testing.T) {
	cfg := builtin(1, 2)
	cfg.Limits.Idle = 50 * time.Millisecond
	h := runWith(t, func(s *Supervisor) { s.tickEvery = 5 * time.Millisecond }, cfg).waitReady()
	pid := h.worker("test", 0).PID
	running := h.hold("test") // that is not idle, however long it takes
	h.must("sleep", map[string]float64{"seconds": 0.2}, nil)
	if w := h.worker("test", 0); w.PID != pid || w.Restarts != 0 {
		t.Errorf("status %+v", w)
	}
	if err := running.finish(); err != nil {
		t.Error(err)
	}
	w := h.await("test", "its end", func(p PoolStatus) bool { return p.Workers[0].PID != pid && len(p.Workers) == 1 }).Workers[0]
	if w.LastExit.Cause != "recycled" {
		t.Errorf("last exit %+v", w.LastExit)
	}
}

func TestLimitsReached(t *testing.T) {
	l := Limits{RSS: 10, VRAM: 20, Requests: 30, Lifetime: 40, Idle: 50}
	for want, u := range map[string]usage{
		"":                {rss: 10, vram: 20, requests: 29, age: 40, idle: 50},
		"rss (11 bytes)":  {rss: 11},
		"vram (21 bytes)": {vram: 21},
		"requests":        {requests: 30},
		"lifetime":        {age: 41},
		"idle":            {idle: 51},
	} {
		if got := l.reached(u); got != want {
			t.Errorf("%+v: %q, want %q", u, got, want)
		}
		if got := (Limits{}).reached(u); got != "" {
			t.Errorf("no limit, and %+v: %q", u, got)
		}
	}
	j := Limits{RSS: 1000, VRAM: 1000, Requests: 1000, Lifetime: 1000, Idle: 1000}.jittered(0.5)
	if want := (Limits{RSS: 950, VRAM: 950, Requests: 950, Lifetime: 950, Idle: 950}); j != want {
		t.Errorf("%+v, want %+v", j, want)
	}
	if j := (Limits{Requests: 1, Lifetime: 1}).jittered(0.999); j.Requests != 1 || j.Lifetime != 1 {
		t.Errorf("%+v: a limit became none", j)
	}
}

// What nvidia-smi prints, as of driver 550: one line for each process and device; in containers and under MIG there may be no figure.
func TestParseComputeApps(t *testing.T) {
	got := parseComputeApps([]byte("1234, 512\n1234, 256\n77, [N/A]\nNo running processes found\n, 3\n88, 1\n-5, 9\n"))
	if want := map[int]uint64{1234: 768 << 20, 88: 1 << 20}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// The meter asks the nvidia-smi that is in the path, here one that says what the real one would of a worker and its child, and the limit acts on the sum.
func TestVRAMLimit(t *testing.T) {
	dir := t.TempDir()
	said := filepath.Join(dir, "said")
	script := "#!/bin/sh\ncase \"$*\" in '--query-compute-apps=pid,used_gpu_memory --format=csv,noheader,nounits') cat '" + said + "';; *) exit 1;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	cfg := builtin(1, 1)
	cfg.Limits.VRAM = 1 << 30
	h := runWith(t, func(s *Supervisor) { s.tickEvery, s.vram.every = 5*time.Millisecond, time.Millisecond }, cfg).waitReady()
	pid := h.worker("test", 0).PID
	var child int
	h.must("fork", false, &child)
	say := func(parent, forked int) {
		t.Helper()
		if err := os.WriteFile(said+".new", fmt.Appendf(nil, "%d, %d\n%d, %d\n%d, 99999\n", pid, parent, child, forked, os.Getpid()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(said+".new", said); err != nil {
			t.Fatal(err)
		}
	}
	say(500, 500)
	eventually(t, "a measurement", func() bool { return h.vram.of(pid) == 1000<<20 })
	if w := h.worker("test", 0); w.PID != pid {
		t.Fatalf("status %+v", w)
	}
	say(500, 600)
	w := h.await("test", "its end", func(p PoolStatus) bool { return p.Workers[0].PID != pid && len(p.Workers) == 1 }).Workers[0]
	if w.LastExit.Cause != "recycled" {
		t.Errorf("last exit %+v", w.LastExit)
	}
}
