package gateway

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// peerCGroup returns the control group of the process at the other end of a Unix socket, "" if the process is gone. An error means that it is there and cannot be looked at.
//
// A pid says nothing for long: when its process has ended another one may get it. So the process is held by a pidfd while its entry in /proc is read, and the entry counts only if the process is still there
// afterwards. Since Linux 6.5 the kernel gives out the pidfd of the very process that connected (SO_PEERPIDFD). Before, it is opened by the pid, and one race stays: a process that connects, passes its connection on, and
// ends, whose pid another process gets before we look, is taken for that one.
func peerCGroup(fd int, pid int32) (string, error) {
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if errors.Is(err, unix.ENOPROTOOPT) { // an older kernel
		pidfd, err = unix.PidfdOpen(int(pid), 0)
	}
	switch {
	case errors.Is(err, unix.ESRCH):
		return "", nil
	case err != nil:
		return "", os.NewSyscallError("pidfd of a peer", err)
	}
	defer unix.Close(pidfd)
	b, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/cgroup")
	switch {
	case exited(pidfd):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("%w; where /proc hides other users' processes (hidepid, systemd's ProtectProc=invisible), `auth.cgroups` cannot work: ProtectProc=default shows them", err)
	}
	return cgroupOf(string(b)), nil
}

// exited reports whether the process of a pidfd has ended.
func exited(pidfd int) bool {
	state := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(state, 0)
	return err != nil || n > 0
}

// cgroupOf reads /proc/PID/cgroup: the path of version 2, or, where that is not in use, of systemd's own tree.
func cgroupOf(text string) string {
	path := ""
	for line := range strings.SplitSeq(text, "\n") {
		id, rest, _ := strings.Cut(line, ":")
		controllers, p, found := strings.Cut(rest, ":")
		switch { // a path may have colons, too
		case !found:
		case id == "0" && controllers == "" && (p != "/" || path == ""), controllers == "name=systemd" && (path == "" || path == "/"):
			path = p
		}
	}
	return path
}
