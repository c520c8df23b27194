package shm

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// eventDoor is the [door] of a sem whose sleeper sleeps until somebody writes to an eventfd.
//
// Nobody reads the eventfd: the poller, being edge-triggered, hears of each write, and the sem's count says whether there was one that it has forgotten. So a peer that puts its descriptor into blocking mode
// does not have the sleeper hang in a read. One that reads it can keep the sleeper from being woken, as it can by not waking it; nobody else is concerned.
type eventDoor struct {
	*poller // the sleeper's; nil in a process that only wakes
	fd      int
	looked  bool // the sleeper's: since it came to the door
}

// newEventDoor makes the eventfd, and the door of a sem's sleeper, who may also be woken by the same process.
func newEventDoor(count *atomic.Uint32) (*eventDoor, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	e := &eventDoor{fd: fd}
	if e.poller, err = newPoller(fd, count, e.wrote); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return e, nil
}

// wrote reports whether somebody has written, before the sleeper came to the door or since.
func (e *eventDoor) wrote(uintptr) bool {
	if e.looked {
		return true
	}
	e.looked = true
	return e.count.Load() != 0
}

func (e *eventDoor) sleep(d time.Duration) {
	e.looked = false
	e.poller.sleep(d)
}

// wake writes. That blocks only when 2⁶⁴ wake-ups were written, or a hostile peer has written as much, which is then its own business.
func (e *eventDoor) wake() {
	one := uint64(1)
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(e.fd), uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one))
}

// checkEventfd makes sure that a descriptor is an eventfd. links is where descriptors are told; in a sandbox without /proc it has to do that this one is of no type, like an eventfd.
func checkEventfd(fd int, links string) error {
	link, err := os.Readlink(filepath.Join(links, strconv.Itoa(fd)))
	if err == nil {
		if link != "anon_inode:[eventfd]" {
			return fmt.Errorf("is %s", link)
		}
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != 0 {
		return fmt.Errorf("is none, but of type %#o", st.Mode&unix.S_IFMT)
	}
	return nil
}
