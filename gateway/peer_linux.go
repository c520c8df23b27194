package gateway

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/chain"
)

// peerOf asks the kernel who is at the other end, and in which control group it is if that is wanted; unknown says why that cannot be told.
func peerOf(conn stream, wantsCGroup bool) (p chain.Peer, unknown, _ error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return p, nil, fmt.Errorf("peer credentials: %w", err)
	}
	var sysErr error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, sysErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); sysErr != nil {
			return
		}
		p = chain.Peer{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}
		if p.Groups, sysErr = peerGroups(fd); sysErr == nil && wantsCGroup {
			p.CGroup, unknown = peerCGroup(int(fd), cred.Pid)
		}
	})
	if err == nil {
		err = sysErr
	}
	if err != nil {
		return p, nil, fmt.Errorf("peer credentials: %w", err)
	}
	return p, unknown, nil
}

// peerGroups reads SO_PEERGROUPS, which x/sys has no wrapper for. The kernel answers ERANGE and the size it needs when the array is too small.
func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups)) * 4
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno == unix.ERANGE && int(size/4) > len(groups):
			groups = make([]uint32, size/4)
		default:
			return nil, os.NewSyscallError("getsockopt SO_PEERGROUPS", errno)
		}
	}
}
