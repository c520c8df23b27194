package supervisor

import (
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
