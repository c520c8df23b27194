package gateway

import (
	"golang.org/x/sys/unix"
)

// overhear waits until it is clear what a client speaks, and takes none of its bytes. Whoever says too little before the connection's read deadline, or hangs up, is for the native protocol to deal with.
func overhear(conn stream) protocol {
	raw, err := conn.SyscallConn()
	if err != nil {
		return speaksNative
	}
	speaks := speaksNative
	_ = raw.Read(func(fd uintptr) bool { // an error is one that the next read meets, too
		var first [telling]byte
		n, _, err := unix.Recvfrom(int(fd), first[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR, err == unix.EAGAIN:
			return false
		case err != nil, n == 0:
			return true
		}
		if heard := detect(first[:n]); heard != undecided {
			speaks = heard
			return true
		}
		return hungUp(int(fd)) // or the rest is still to come
	})
	return speaks
}

// hungUp reports whether the client will say no more.
func hungUp(fd int) bool {
	state := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(state, 0)
	return err == nil && n > 0
}
