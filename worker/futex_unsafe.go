package worker

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// futexWake wakes who sleeps on the first word of b.
func futexWake(b []byte) {
	const wake = 1
	_, _, _ = unix.Syscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&b[0])), wake, 1)
}
