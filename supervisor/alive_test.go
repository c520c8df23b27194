package supervisor

import (
	"context"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

// A supervisor at work answers, whatever becomes of its workers.
func TestAlive(t *testing.T) {
	h := run(t, builtin(2, 1), other()).waitReady()
	if err := h.Alive(testContext(t)); err != nil {
		t.Error(err)
	}
}

// A lock that is never let go is noticed, without more than one goroutine waiting for it.
func TestAliveNoticesLock(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	p := (*h.pools.Load())["test"]
	p.mu.Lock()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	wantError(t, h.Alive(ctx), ipc.Cancelled, "cancelled")
	wantError(t, h.Alive(testContext(t)), ipc.Unavailable, "stuck")
	p.mu.Unlock()
	eventually(t, "it to be alive", func() bool { return h.Alive(testContext(t)) == nil })
}

// A slot's goroutine that should have reported is named.
func TestAliveNoticesStuckSlot(t *testing.T) {
	s, err := New(Config{Pools: []PoolConfig{{Name: "test", Command: []string{"true"}, Workers: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	sl := (*s.pools.Load())["test"].slots[1]
	sl.reports()
	if err := s.Alive(testContext(t)); err != nil {
		t.Error(err)
	}
	sl.due.Store(time.Now().Add(-5 * time.Second).UnixNano())
	err = s.Alive(testContext(t))
	wantError(t, err, ipc.Unavailable, "stuck")
	if !strings.Contains(err.Error(), "the goroutine of worker test/1, which is starting, has been silent for 25s") {
		t.Error(err)
	}
	sl.rests()
	if err := s.Alive(testContext(t)); err != nil {
		t.Error(err)
	}
}

// While a process starts and while it runs its goroutine owes a report; once it is dead, or before the next start, it owes none.
func TestSlotsReport(t *testing.T) {
	h := runWith(t, func(s *Supervisor) { s.backoffFirst = time.Hour }, builtin(1, 1)).waitReady()
	sl := (*h.pools.Load())["test"].slots[0]
	if sl.due.Load() == 0 {
		t.Error("a slot that watches over a process owes no report")
	}
	kill(t, h.worker("test", 0).PID, unix.SIGKILL)
	h.await("test", "the backoff", func(p PoolStatus) bool { return p.Workers[0].State == "backoff" })
	if sl.due.Load() != 0 {
		t.Error("a slot that waits for its next start owes a report")
	}
}
