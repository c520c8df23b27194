package shm

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A worker that reads its eventfd empty, and has put it into blocking mode, does not keep the supervisor from leaving.
func TestEventfdPeerMeddles(t *testing.T) {
	checkLeaks(t)
	supervisor, worker := attach(t, geometries[0])
	fd := supervisor.event.fd
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}; ; {
			select {
			case <-stop:
				return
			default:
			}
			if n, _ := unix.Poll(fds, 1); n == 1 {
				_, _ = unix.Read(fd, make([]byte, 8))
			}
		}
	}()
	_, c := supervisor.Supervisor()
	p, _ := worker.Worker()
	c.items.spin.enabled = false
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := c.Recv(nil, 1); err != nil {
				ended <- err
				return
			}
		}
	}()
	for range 100 { // which the ring has room for, should nobody wake
		if _, err := p.Send([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	supervisor.Shutdown()
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	close(stop)
	<-stopped
}

// Wake-ups in vain, before or after somebody sleeps, are not mistaken for anything, and patience ends.
func TestEventfdInVain(t *testing.T) {
	checkLeaks(t)
	supervisor, _ := attach(t, geometries[0])
	_, c := supervisor.Supervisor()
	for range 10 {
		supervisor.event.wake()
	}
	seen, begun := c.tailWord.Load(), time.Now()
	if _, err := c.items.wait(c.tailWord, seen, 1, 20*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) < 20*time.Millisecond {
		t.Errorf("%v after %v", err, time.Since(begun))
	}
	woken := make(chan error, 1)
	go func() {
		_, err := c.Recv(nil, 1)
		woken <- err
	}()
	for range 100 {
		supervisor.event.wake()
	}
	select {
	case err := <-woken:
		t.Errorf("received %v", err)
	default:
	}
	supervisor.Shutdown()
	if err := <-woken; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// An eventfd is known with /proc and without; nothing else that can be written to is taken for one.
func TestEventfdIsChecked(t *testing.T) {
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, links := range []string{"/proc/self/fd", filepath.Join(t.TempDir(), "none")} {
		if err := checkEventfd(event, links); err != nil {
			t.Errorf("%s: an eventfd: %v", links, err)
		}
		for what, fd := range map[string]int{"a pipe": int(w.Fd()), "a file": int(file.Fd()), "a socket": pair[0], "nothing": 1 << 20} {
			if checkEventfd(fd, links) == nil {
				t.Errorf("%s: %s is taken for an eventfd", links, what)
			}
		}
	}
	for _, c := range []io.Closer{r, w, file} {
		_ = c.Close()
	}
	for _, fd := range []int{event, pair[0], pair[1]} {
		_ = unix.Close(fd)
	}
}
