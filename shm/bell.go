package shm

import "time"

// Bell wakes the peer by other means than the segment. Where a process has many segments, a thread asleep in the kernel for each would be too many: it sleeps somewhere else, for all of them at
// once, and whoever would call FUTEX_WAKE rings there instead. What is rung has to reach the peer's [Segment.Rung], and must not be lost if nobody sleeps at the time; it may come
// late, more often than it was rung, or or'ed with what else was rung.
type Bell interface {
	// Ring rings what, [RungItems] or [RungSpace], at the peer. It must not block. An error of the way there is the peer's death, which somebody else notices.
	Ring(what byte)
}

// What can be rung.
const (
	RungItems = 1 << 0 // there are messages
	RungSpace = 1 << 1 // there is space
)

// bellDoor is the [door] of a sem whose sleeper, or peer's sleeper, has a [Bell].
type bellDoor struct {
	heard chan struct{} // capacity 1: it was rung, and the sleeper does not know yet
	bell  Bell
	what  byte
}

func newBellDoor(b Bell, what byte) *bellDoor {
	return &bellDoor{heard: make(chan struct{}, 1), bell: b, what: what}
}

func (b *bellDoor) sleep(d time.Duration) {
	if d <= 0 {
		<-b.heard
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-b.heard:
	case <-timer.C:
	}
}

func (b *bellDoor) wake()  { b.bell.Ring(b.what) }
func (b *bellDoor) close() { b.hear() }

// hear wakes the sleeper of a sem with a bell; another one's sleeps elsewhere.
func (s *sem) hear() {
	if b, ok := s.door.(*bellDoor); ok {
		b.hear()
	}
}

// hear wakes this process's sleeper, or keeps it from going to sleep.
func (b *bellDoor) hear() {
	select {
	case b.heard <- struct{}{}:
	default: // it will find out
	}
}
