package shm

import (
	"os"
	"runtime"
	"sync/atomic"
	"time"
)

// sem is the doorbell of one direction, as one process sees it. The ring's positions are the truth; a sem only tells a sleeper to
// look again, so nothing it holds can disagree with the ring, whatever dies where.
//
//	waker                             sleeper
//	publish the position     (A, B)   waiters = 1                           (C)
//	waiters == 0? done       (C)      count = 0                             (D)
//	count == 1? done         (D)      has the position moved? done          (A, B)
//	count = 1                         sleep at the door, on to count = 0    (D)
//	wake at the door                  in the end: waiters = 0
//
// The waker publishes before it looks at waiters and count; the sleeper writes both before it looks at the position. So either
// the waker sees that it has to wake, or the sleeper sees that it need not sleep. That takes a full fence between writing and
// looking, on both sides; Go's atomics, being sequentially consistent, are that. count = 1 stands for a wake-up under way: it
// keeps a sleeper that has not reached the door from going to sleep there, and a waker from waking twice. model_test.go tries
// every interleaving of this, for each kind of door.
type sem struct {
	count, waiters *atomic.Uint32 // in the segment

	door   door         // immutable once an end is taken
	closed *atomic.Bool // this process's; see Segment.Shutdown
	ring   string       // for crashAt
	spin   spin         // guarded as the waiting end is: one waiter per process
}

// door is where the sleeper of a sem sleeps, and where it is woken. There are four: [futex], [eventDoor], [socketDoor] and [bellDoor].
type door interface {
	// sleep returns when the sleeper was woken, which may have been since it last cleared count, and may return early for any reason; with d > 0, when d has passed.
	sleep(d time.Duration)
	wake()  // wakes the peer's sleeper; never blocks
	close() // wakes this process's sleeper; never blocks
}

// sleepAt says that this process, or the peer, sleeps in the poller, at a door that is not the futex.
func (s *sem) sleepAt(d door) { s.door, s.spin.keeps = d, false }

// wait blocks until the peer's position pos has moved on from seen by at least n bytes, and returns it. The error is ErrClosed if the sem was closed first, and [os.ErrDeadlineExceeded] if patience,
// unless 0, has run out. The position is loaded once for the decision and that same value is returned, unchecked: one that moved backwards counts as moved far.
func (s *sem) wait(pos *atomic.Uint64, seen, n uint64, patience time.Duration) (now uint64, err error) {
	if now = pos.Load(); now-seen >= n { // (A) or (B) acquire, as each load of pos here
		return now, nil
	}
	now, ok := s.spin.poll(pos, seen, n, s.closed)
	if ok {
		return now, nil
	}
	var due time.Time
	if patience > 0 {
		due = time.Now().Add(patience)
	}
	s.waiters.Swap(1) // (C) arm
	crashAt(stepW1, s.ring)
	for {
		s.count.Swap(0) // (D) clear, before looking again
		crashAt(stepW2, s.ring)
		closed := s.closed.Load() // before looking: what was committed before the close is still seen
		if now = pos.Load(); now-seen >= n {
			break
		}
		left := time.Duration(0)
		if patience > 0 {
			left = time.Until(due)
		}
		if closed {
			err = ErrClosed
			break
		}
		if patience > 0 && left <= 0 {
			err = os.ErrDeadlineExceeded
			break
		}
		crashAt(stepW3, s.ring)
		s.door.sleep(left)
		crashAt(stepW4, s.ring)
	}
	s.waiters.Store(0)
	crashAt(stepW5, s.ring)
	return now, err
}

// post wakes the peer if it sleeps. counted is the step between setting count and waking.
//
// Preconditions: the position that the peer waits for was published with an atomic store.
func (s *sem) post(counted step) {
	if s.waiters.Load() == 0 { // (C) look
		return
	}
	if s.count.Load() != 0 { // (D) look: a wake-up is under way, and the sleeper clears count before it looks
		return
	}
	s.count.Store(1)
	crashAt(counted, s.ring)
	s.door.wake()
}

// close wakes this process's sleeper for good.
//
// Preconditions: s.closed was set.
func (s *sem) close() {
	s.count.Store(1)
	s.door.close()
}

// Waking a process that sleeps in the kernel costs several microseconds on both sides, so a waiter first looks again and again
// for a while. Where the machine is busy that only keeps the processor from the very process it waits for: spins in vain get
// shorter.
const (
	// maxSpin is the longest a wait looks before it sleeps.
	maxSpin = 50 * time.Microsecond
	// minSpin is the shortest that is worth its while: hardly anything arrives sooner.
	minSpin = 6 * time.Microsecond
	// longestRest: a waiter that has learnt not to spin spins for maxSpin all the same, after one wait, two, four, and so on up to so many. Without it a run of
	// slow replies would teach it for ever, and were it seldom from the beginning, for long.
	longestRest = 32
	// looksPerYield is how often the position is looked at between two calls to the scheduler and the clock, which take about
	// as long as all these looks together.
	looksPerYield = 64
)

// spin decides how long one waiter spins: maxSpin after a spin that paid, half as long as before after one that did not.
type spin struct {
	enabled bool          // immutable; spinning on the only processor there is delays the peer
	keeps   bool          // immutable once in use: who sleeps keeps a processor from the goroutines that wait for it, for a while
	crowd   *atomic.Int32 // immutable once in use: how many spin of those of which some processor should be left by; nil: they are few
	budget  time.Duration // of the next wait; 0: it rests
	rest    uint32        // waits until it tries again
	rested  uint32        // of them
}

// spinners is how many of the waits at bells spin now: there may be hundreds of such waits in a process.
var spinners atomic.Int32

func newSpin() spin {
	return spin{enabled: runtime.NumCPU() > 1 && runtime.GOMAXPROCS(0) > 1, keeps: true, budget: maxSpin, rest: 1}
}

// next returns how long the next wait may spin.
func (s *spin) next() time.Duration {
	switch {
	case !s.enabled:
		return 0
	case s.budget > 0:
		return s.budget
	}
	if s.rested++; s.rested < s.rest {
		return 0
	}
	return maxSpin
}

// poll looks at pos, as wait does, until it has moved or the time for it is over.
func (s *spin) poll(pos *atomic.Uint64, seen, n uint64, closed *atomic.Bool) (now uint64, ok bool) {
	budget := s.next()
	if budget == 0 {
		if s.keeps { // goroutines that could run, perhaps made so by this very caller, go first. It wakes a thread, so it is no matter of course
			runtime.Gosched()
		}
		return 0, false
	}
	if s.crowd != nil {
		defer s.crowd.Add(-1)
		if int(s.crowd.Add(1)) >= min(runtime.NumCPU(), runtime.GOMAXPROCS(0)) {
			return 0, false // one processor at least is for those who have something to do
		}
	}
	for start := time.Now(); !closed.Load() && time.Since(start) < budget; {
		for range looksPerYield {
			if now = pos.Load(); now-seen >= n {
				s.learn(true)
				return now, true
			}
		}
		runtime.Gosched()
	}
	s.learn(false)
	return 0, false
}

func (s *spin) learn(paid bool) {
	switch {
	case paid:
		s.budget, s.rest, s.rested = maxSpin, 1, 0
	case s.budget == 0:
		s.rested, s.rest = 0, min(2*s.rest, longestRest)
	case s.budget/2 < minSpin:
		s.budget = 0
	default:
		s.budget /= 2
	}
}
