package worker

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

// maxPacket is the longest packet there is on a lifeline, in bytes; more is cut off.
const maxPacket = 64

// lifeline is the socket whose end of file says that the supervisor is gone. Over it the supervisor also tells of arenas.
type lifeline struct {
	file *os.File
	raw  syscall.RawConn
}

func openLifeline() (*lifeline, error) {
	fail := func(err error) (*lifeline, error) {
		return nil, fmt.Errorf("worker: fd %d, the lifeline: %w", ipc.LifelineFD, err)
	}
	if err := unix.SetNonblock(ipc.LifelineFD, true); err != nil { // lets the runtime's poller wait for it, and no thread
		return fail(err)
	}
	l := &lifeline{file: os.NewFile(ipc.LifelineFD, "lifeline")}
	var err error
	if l.raw, err = l.file.SyscallConn(); err != nil {
		return fail(err)
	}
	return l, nil
}

// watch takes what the supervisor tells, and exits the process when it is gone. It runs until then, on a goroutine that ends with the process.
func (l *lifeline) watch(a *arenas) {
	err := l.raw.Read(func(uintptr) bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return !l.take(a) // then the poller waits for more
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "worker: fd %d, the lifeline: %v\n", ipc.LifelineFD, err)
	}
	os.Exit(1)
}

// take takes every packet that is there. It reports false at the end of file. Preconditions: a.mu is held, so that nobody looks at a while a packet has been received and is not in it.
func (l *lifeline) take(a *arenas) bool {
	var packet [maxPacket]byte
	var oob [64]byte // room for more descriptors than one: they are closed
	for {
		n, oobn, _, _, err := unix.Recvmsg(ipc.LifelineFD, packet[:], oob[:], unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return true
		case errors.Is(err, unix.EINTR):
		case err != nil, n == 0 && oobn == 0 && hungUp():
			return false
		default:
			a.packet(packet[:max(0, n)], descriptors(oob[:oobn]))
		}
	}
}

// descriptors returns those that came with a packet.
func descriptors(oob []byte) []int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var fds []int
	for i := range messages {
		if got, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

// hungUp tells the end of file from an empty packet, which reads the same.
func hungUp() bool {
	fds := []unix.PollFd{{Fd: ipc.LifelineFD, Events: unix.POLLRDHUP}}
	_, err := unix.Poll(fds, 0)
	return err != nil && !errors.Is(err, unix.EINTR) || fds[0].Revents != 0
}
