package ipc

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system call by which a line is rung does not wait, so the scheduler is not told of it: where the process was idle, unix.Send would first wake the runtime's monitor, a thread that then looks every 20 µs what becomes of the call. To read is another matter: with the bytes come descriptors, if
// the peer likes, and to drop one may take the kernel as long as the peer has seen to.

// clap returns what writes one byte to a socket, if there is room for it.
func clap(what byte) func(fd uintptr) bool {
	b := []byte{what}
	return func(fd uintptr) bool {
		_, _, _ = unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&b[0])), 1, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0) // see line.Ring
		return true
	}
}
