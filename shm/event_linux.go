package shm

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// eventDoor is the [door] of a sem whose sleeper sleeps in the runtime's netpoller until somebody writes to an eventfd. It keeps neither a thread nor a processor of the runtime meanwhile; whoever
// sleeps in a futex does, until the runtime notices, and in a program with two processors that is half of them.
//
// Nobody reads the eventfd: the poller, being edge-triggered, hears of each write, and the sem's count says whether there was one that it has forgotten. So a peer that puts its descriptor into blocking mode
// does not have the sleeper hang in a read. One that reads it can keep the sleeper from being woken, as it can by not waking it; nobody else is concerned.
type eventDoor struct {
	count *atomic.Uint32
	fd    int

	// The sleeper's; nil in a process that only wakes.
	file   *os.File        // immutable
	poll   syscall.RawConn // immutable; of file
	looked bool            // since it came to the door
	woken  func(uintptr) bool
}

// newEventDoor makes the eventfd, and the door of a sem's sleeper, who may also be woken by the same process.
func newEventDoor(count *atomic.Uint32) (*eventDoor, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	e := &eventDoor{count: count, fd: fd, file: os.NewFile(uintptr(fd), "eventfd")}
	if err = e.file.SetReadDeadline(time.Time{}); err == nil { // else the poller does not know it
		e.poll, err = e.file.SyscallConn()
	}
	if err != nil {
		e.file.Close()
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	e.woken = func(uintptr) bool {
		if e.looked {
			return true
		}
		e.looked = true
		return e.count.Load() != 0
	}
	return e, nil
}

// sleep lets the poller forget what it has heard before it looks at count, which whoever writes sets first: Read does the one and then calls woken, and again when something was written.
func (e *eventDoor) sleep(d time.Duration) {
	if d > 0 {
		_ = e.file.SetReadDeadline(time.Now().Add(d)) // if close comes before, count is set
		defer func() { _ = e.file.SetReadDeadline(time.Time{}) }()
	}
	e.looked = false
	_ = e.poll.Read(e.woken)
}

// wake writes. That blocks only when 2⁶⁴ wake-ups were written, or a hostile peer has written as much, which is then its own business.
func (e *eventDoor) wake() {
	one := uint64(1)
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(e.fd), uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one))
}

func (e *eventDoor) close() { _ = e.file.SetReadDeadline(time.Unix(1, 0)) }
