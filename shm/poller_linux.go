package shm

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// poller is how a sleeper sleeps in the runtime's netpoller, beside everything else that its process waits for, at a descriptor of its own. It keeps neither a thread nor a processor of the runtime meanwhile; whoever
// sleeps in a futex does, until the runtime notices, and in a program with two processors that is half of them.
type poller struct {
	count *atomic.Uint32
	file  *os.File        // immutable
	raw   syscall.RawConn // immutable; of file
	woken func(fd uintptr) bool
	shut  atomic.Bool // close was called
}

// newPoller returns a poller that has fd, which is in non-blocking mode; an error closes it. woken decides whether the sleeper is woken: it is asked once the poller has forgotten what it has heard of fd, and again whenever
// it hears something. It has to be true if count is 1.
func newPoller(fd int, count *atomic.Uint32, woken func(fd uintptr) bool) (*poller, error) {
	file := os.NewFile(uintptr(fd), "wake-ups")
	err := file.SetReadDeadline(time.Time{}) // else the runtime does not poll it
	var raw syscall.RawConn
	if err == nil {
		raw, err = file.SyscallConn()
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &poller{count: count, file: file, raw: raw, woken: woken}, nil
}

// sleep implements [door].
func (p *poller) sleep(d time.Duration) {
	if d > 0 {
		_ = p.file.SetReadDeadline(time.Now().Add(d))
		defer func() { _ = p.file.SetReadDeadline(time.Time{}) }()
		if p.shut.Load() { // close's deadline may be gone, and the peer may have cleared count
			return
		}
	}
	_ = p.raw.Read(p.woken)
}

// close implements [door]. Preconditions: count is 1.
func (p *poller) close() {
	p.shut.Store(true)
	_ = p.file.SetReadDeadline(time.Unix(1, 0))
}
