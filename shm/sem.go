package shm

import (
	"runtime"
	"sync/atomic"
	"time"
)

// sem is the doorbell of one direction, as one process sees it. The ring's positions are the truth; a sem only tells a sleeper to look again, so
// nothing it holds can disagree with the ring, whatever dies where.
//
//	waker                            sleeper
//	publish the position             waiters = 1
//	waiters == 0? done         (C)   count = 0
//	count = 1                  (D)   look at the position: moved? done
//	FUTEX_WAKE(count)                FUTEX_WAIT(count, 0), and from "count = 0" again
//
// The waker publishes before it looks for waiters, the sleeper says that it waits before it looks at the position: at least one of
// them sees the other. count = 1 stands for a wake-up under way: it keeps a sleeper that has not reached the kernel yet from
// going to sleep. All four words go through Go's atomics, which are sequentially consistent; that is the full fence
// that the protocol asks for between publishing and looking.
type sem struct {
	count, waiters *atomic.Uint32 // in the segment

	closed *atomic.Bool // this process's; see Segment.Shutdown
	ring   string       // for crashAt
	spin   spin         // guarded as the waiting end is: one waiter per process
}

// wait blocks until the peer's position pos has moved on from seen by at least n bytes, and returns it; ok is false if the sem was closed
// first. The position is loaded once for the decision and that same value is returned, unchecked: one that moved backwards counts as
// moved far.
func (s *sem) wait(pos *atomic.Uint64, seen, n uint64) (now uint64, ok bool) {
	if now = pos.Load(); now-seen >= n { // (A) (B) acquire, also below
		return now, true
	}
	if now, ok = s.spin.poll(pos, seen, n, s.closed); ok {
		return now, true
	}
	s.waiters.Swap(1) // (C) arm
	crashAt(stepW1, s.ring)
	for {
		s.count.Swap(0) // (D) clear, before looking again
		crashAt(stepW2, s.ring)
		closed := s.closed.Load() // before looking: what was committed before the close is still seen
		now = pos.Load()
		ok = now-seen >= n
		if ok || closed {
			break
		}
		crashAt(stepW3, s.ring)
		futexWait(s.count, 0)
		crashAt(stepW4, s.ring)
	}
	s.waiters.Store(0)
	crashAt(stepW5, s.ring)
	return now, ok
}

// post wakes the peer if it sleeps. counted is the step between setting count and waking.
//
// Preconditions: the position that the peer waits for was published with an atomic store.
func (s *sem) post(counted step) {
	if s.waiters.Load() == 0 { // (C) look
		return
	}
	if s.count.Load() != 0 { // (D) look: a wake-up is under way, and the sleeper looks at the position after it cleared count
		return
	}
	s.count.Store(1)
	crashAt(counted, s.ring)
	futexWake(s.count, 1)
}

// close wakes this process's sleeper for good.
//
// Preconditions: s.closed was set.
func (s *sem) close() {
	s.count.Store(1)
	futexWake(s.count, everyone)
}

// Waking a process that sleeps in the kernel costs several microseconds on both sides, so a waiter first looks again and again for a while. It must not do so where that
// takes the processor from the very process it waits for.
const (
	// maxSpin is the longest a wait looks before it sleeps.
	maxSpin = 50 * time.Microsecond
	// minSpin is the shortest worth its while: what arrives sooner than that is caught by luck.
	minSpin = 6 * time.Microsecond
	// fullSpinEvery: every so many waits a full maxSpin is spent, whatever the last ones brought. Without it a run of
	// slow replies would teach a waiter for ever not to spin.
	fullSpinEvery = 32
	// looksPerYield is how often the position is looked at between two calls to the scheduler and the clock, which take about
	// as long as all these looks together.
	looksPerYield = 64
)

// spin decides how long one waiter spins: maxSpin after a spin that paid, half as long as before after one that did not.
type spin struct {
	enabled bool // immutable; spinning alone on a single processor only delays the peer
	budget  time.Duration
	waits   uint32
}

func newSpin() spin {
	return spin{enabled: runtime.NumCPU() > 1 && runtime.GOMAXPROCS(0) > 1, budget: maxSpin}
}

// poll looks at pos, as wait does, until it has moved or the time for it is over.
func (s *spin) poll(pos *atomic.Uint64, seen, n uint64, closed *atomic.Bool) (now uint64, ok bool) {
	s.waits++
	budget := s.budget
	if s.waits%fullSpinEvery == 0 {
		budget = maxSpin
	}
	if !s.enabled || budget == 0 {
		return 0, false
	}
	for start := time.Now(); !closed.Load() && time.Since(start) < budget; {
		for range looksPerYield {
			if now = pos.Load(); now-seen >= n {
				s.learn(true)
				return now, true
			}
		}
		runtime.Gosched() // goroutines of this process that could run go first
	}
	s.learn(false)
	return 0, false
}

func (s *spin) learn(paid bool) {
	if paid {
		s.budget = maxSpin
		return
	}
	if s.budget /= 2; s.budget < minSpin {
		s.budget = 0
	}
}
