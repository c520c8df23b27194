package shm

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socketDoor is the [door] of a sem whose sleeper sleeps until a byte comes on a socket. It is for a waker that does not trust the sleeper: nothing that the other end does keeps a send with MSG_DONTWAIT waiting, while the flags and the
// count of an eventfd belong to whoever has it. (It may take longer than it should, if the sleeper waits there in very many ways at once: 50 ms with half a million of them.)
type socketDoor struct {
	*poller          // the sleeper's; nil in a process that only wakes
	fd      int      // the waker's end, -1 where there is none. Not an *os.File: the runtime's poller would hear of all that the peer reads
	peer    *os.File // the sleeper's end, in blocking mode, until its creator has passed it on
	over    bool     // the sleeper's: nothing is going to come any more
}

// newSocketDoor makes a socket, and the door of a sem's waker.
func newSocketDoor() (*socketDoor, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	d := &socketDoor{fd: fds[0], peer: os.NewFile(uintptr(fds[1]), "socket")}
	// Nobody reads at the waker's end, so nothing is to lie there: to drop a descriptor that somebody has sent may take its release, however long that takes.
	if err := unix.Shutdown(d.fd, unix.SHUT_RD); err != nil {
		return nil, errors.Join(fmt.Errorf("shutdown: %w", err), d.destroy())
	}
	return d, nil
}

// listen makes the door the sleeper's, which has fd, its end of the socket, from now on: it is closed if there is an error.
func (d *socketDoor) listen(fd int, count *atomic.Uint32) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err == nil && domain != unix.AF_UNIX {
		err = fmt.Errorf("is a socket of domain %d, want %d", domain, unix.AF_UNIX)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	d.poller, err = newPoller(fd, count, d.came)
	return err
}

// listenHere makes the door its creator's sleeper's, too.
func (d *socketDoor) listenHere(count *atomic.Uint32) error {
	fd, err := unix.FcntlInt(d.peer.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return d.listen(fd, count)
}

// came takes what has come, if anything has. What came before the sleeper did counts, so that no wake-up is lost where there is no room for one more.
func (d *socketDoor) came(fd uintptr) bool {
	if !d.over {
		var b [64]byte
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
		if errno == 0 && n > 0 || errno == unix.EINTR {
			return true
		}
		d.over = errno != unix.EAGAIN // then only close ends the sleep
	}
	return d.count.Load() != 0
}

// wake sends. A socket that takes no more has so much on it that did not come to the sleeper yet: it will.
func (d *socketDoor) wake() {
	var b byte
	_, _, _ = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(d.fd), uintptr(unsafe.Pointer(&b)), 1, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
}

// closePeer closes the sleeper's end, if the creator still has it.
func (d *socketDoor) closePeer() error {
	peer := d.peer
	if d.peer = nil; peer == nil {
		return nil
	}
	return peer.Close()
}

// destroy closes what is left of the socket.
func (d *socketDoor) destroy() error {
	err := d.closePeer()
	if d.fd >= 0 {
		err = errors.Join(err, unix.Close(d.fd))
	}
	if d.poller != nil {
		err = errors.Join(err, d.file.Close())
	}
	return err
}
