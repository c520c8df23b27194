package shm

import (
	"fmt"
	"math"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The shared futex operations: FUTEX_PRIVATE_FLAG would look for waiters in this process only.
const (
	futexWaitOp = 0
	futexWakeOp = 1

	everyone = math.MaxInt32
)

// longestSleep bounds one FUTEX_WAIT. No wake-up is ever lost; should that be wrong, this makes it a delay instead of a hang. Much shorter, it would keep an idle machine awake: each end wakes a scheduler.
var longestSleep = unix.Timespec{Sec: 10}

// futex is the [door] of a sem whose sleeper sleeps in the kernel, on its count.
type futex struct{ count *atomic.Uint32 }

func (f futex) sleep(d time.Duration) {
	most := longestSleep
	if d > 0 && d < time.Duration(most.Nano()) {
		most = unix.NsecToTimespec(int64(d))
	}
	futexWait(f.count, 0, &most)
}

func (f futex) wake()  { futexWake(f.count, 1) }
func (f futex) close() { futexWake(f.count, everyone) }

// futexWait sleeps until word is woken or most has passed, unless it does not hold want to begin with. It may return early for any reason.
//
// Syscall6 tells the scheduler that this call may take long, so other goroutines go on running. With RawSyscall6 the garbage
// collector would wait for the sleeper.
func futexWait(word *atomic.Uint32, want uint32, most *unix.Timespec) {
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWaitOp, uintptr(want),
		uintptr(unsafe.Pointer(most)), 0, 0)
	switch errno {
	case 0, unix.EAGAIN, unix.EINTR, unix.ETIMEDOUT:
	default: // a seccomp filter, or memory that was unmapped under us: looping would only burn the processor
		panic(fmt.Sprintf("shm: futex wait: %v", errno))
	}
}

// futexWake wakes up to n sleepers on word. It never blocks, so it need not go through the scheduler. There is nothing to do
// about an error.
func futexWake(word *atomic.Uint32, n int) {
	_, _, _ = unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWakeOp, uintptr(n), 0, 0, 0)
}
