package shm

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sleepyWorker returns both sides of a segment whose worker sleeps at a socket, at once.
func sleepyWorker(t *testing.T) (supervisor *Segment, p *Producer, c *Consumer) {
	t.Helper()
	supervisor, worker := attach(t, geometries[0])
	p, _ = supervisor.Supervisor()
	_, c = worker.Worker()
	c.items.spin.enabled = false
	return supervisor, p, c
}

// Wake-ups in vain, more than the socket takes and before anybody sleeps, neither block whoever wakes nor are mistaken for anything, and patience ends.
func TestSocketInVain(t *testing.T) {
	checkLeaks(t)
	supervisor, p, c := sleepyWorker(t)
	for range 10_000 {
		supervisor.socket.wake()
	}
	seen, begun := c.tailWord.Load(), time.Now()
	if _, err := c.items.wait(c.tailWord, seen, 1, 20*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) < 20*time.Millisecond {
		t.Errorf("%v after %v", err, time.Since(begun))
	}
	for i := range 1000 {
		got := make(chan error, 1)
		go func() {
			_, err := c.Recv(nil, 1)
			got <- err
		}()
		if i%2 == 0 {
			await(t, "the worker sleeps", asleep(&c.items))
		}
		supervisor.socket.wake()
		if _, err := p.Send([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := <-got; err != nil {
			t.Fatal(err)
		}
	}
}

// A worker whose socket has been closed by the supervisor sleeps until its patience ends: it is not busy waiting.
func TestSocketThatEnds(t *testing.T) {
	checkLeaks(t)
	supervisor, _, c := sleepyWorker(t)
	if err := unix.Shutdown(supervisor.socket.fd, unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	var before, after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
		t.Fatal(err)
	}
	seen := c.tailWord.Load()
	for range 3 {
		if _, err := c.items.wait(c.tailWord, seen, 1, 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v", err)
		}
	}
	if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
		t.Fatal(err)
	}
	if used := time.Duration(after.Utime.Nano() - before.Utime.Nano()); used > 100*time.Millisecond {
		t.Errorf("300 ms of sleep took %v of processor time", used)
	}
}

// A worker that does not read, and one that has closed its end, does not keep whoever wakes it waiting.
func TestSocketPeerMeddles(t *testing.T) {
	checkLeaks(t)
	s := newHeap(t, geometries[0])
	peer := int(s.Socket().Fd())
	if err := unix.SetNonblock(peer, false); err != nil {
		t.Fatal(err)
	}
	for range 10_000 {
		s.socket.wake()
	}
	if err := unix.Shutdown(peer, unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	s.socket.wake()
	if err := s.ClosePassed(); err != nil {
		t.Error(err)
	}
	if s.Socket() != nil {
		t.Error("the worker's end is still there")
	}
	s.socket.wake()
}

// Only a Unix socket is taken for one.
func TestSocketIsChecked(t *testing.T) {
	checkLeaks(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	inet, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inet)
	for what, fd := range map[string]int{"a pipe": int(r.Fd()), "TCP": inet, "nothing": -1} {
		d := &socketDoor{fd: -1}
		if err := d.listen(fd, nil); err == nil {
			t.Errorf("%s is taken for a Unix socket", what)
		}
	}
}
