package ipc

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls by which a line is rung and heard do not wait, so the scheduler is not told of them: where the process was idle, unix.Send and unix.Read would first wake the runtime's monitor, a thread that then looks every 20 µs what becomes of the call.

// clap returns what writes one byte to a socket, if there is room for it.
func clap(what byte) func(fd uintptr) bool {
	b := []byte{what}
	return func(fd uintptr) bool {
		_, _, _ = unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&b[0])), 1, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0) // see line.Ring
		return true
	}
}

// readPrompt reads from a socket as unix.Read does, without waiting. Preconditions: b is not empty.
func readPrompt(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
