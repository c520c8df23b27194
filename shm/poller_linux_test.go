package shm

import (
	"errors"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// polledDoors are the doors at which somebody sleeps in the poller, with what is written to wake him and the sem they are of.
func polledDoors(t *testing.T, visit func(t *testing.T, d door, s *sem, wake func())) {
	t.Run("eventfd", func(t *testing.T) {
		checkLeaks(t)
		s := newHeap(t, geometries[0])
		visit(t, s.event, &s.w2s.items, s.event.wake)
	})
	t.Run("socket", func(t *testing.T) {
		checkLeaks(t)
		s := newHeap(t, geometries[0])
		visit(t, s.socket, &s.s2w.items, s.socket.wake)
	})
}

// A count that is 1 ends a sleep although the poller has heard of nothing, or has forgotten it, and whatever the sleep's bound is.
func TestPolledDoorsLookAtCount(t *testing.T) {
	polledDoors(t, func(t *testing.T, d door, s *sem, _ func()) {
		for _, bound := range []time.Duration{0, time.Hour} {
			d.sleep(time.Millisecond) // the poller tells of a new descriptor at once
			s.count.Store(1)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				d.sleep(bound)
			}()
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Errorf("with the bound %v it sleeps though count is 1", bound)
				d.close()
				<-ended
			}
			s.count.Store(0)
		}
	})
}

// While nobody wakes it a sleeper sleeps, also after one that was woken and one whose time was up.
func TestPolledDoorsSleep(t *testing.T) {
	polledDoors(t, func(t *testing.T, d door, _ *sem, wake func()) {
		const bound = 20 * time.Millisecond
		d.sleep(time.Millisecond)
		for range 3 {
			begun := time.Now()
			if d.sleep(bound); time.Since(begun) < bound {
				t.Errorf("nobody has woken it, and it slept for %v", time.Since(begun))
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				d.sleep(0)
			}()
			select {
			case <-ended:
				t.Error("nobody has woken it, and it slept without a bound")
			case <-time.After(2 * bound):
			}
			wake()
			<-ended
		}
	})
}

// Where descriptors run out half way, nothing of the segment stays.
func TestCreateWithoutDescriptors(t *testing.T) {
	checkLeaks(t)
	var most unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &most); err != nil {
		t.Fatal(err)
	}
	few := most
	few.Cur = 64
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	var taken []int
	defer func() {
		for _, fd := range taken {
			_ = unix.Close(fd)
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &most); err != nil {
			t.Error(err)
		}
	}()
	for {
		fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			break
		}
		taken = append(taken, fd)
	}
	for free := 0; ; free++ { // the memfd, the eventfd, and the socket's two
		s, err := Create(geometries[0])
		if err == nil {
			if free != 4 {
				t.Errorf("with %d descriptors there is a segment, want 4", free)
			}
			s.Shutdown()
			if err := s.Destroy(); err != nil {
				t.Error(err)
			}
			return
		}
		if !errors.Is(err, unix.EMFILE) {
			t.Fatalf("with %d descriptors: %v", free, err)
		}
		if len(taken) == 0 {
			t.Fatal("there is no segment with any number of descriptors")
		}
		_ = unix.Close(taken[len(taken)-1])
		taken = taken[:len(taken)-1]
	}
}

// No program that this process starts inherits what wakes a segment's sides.
func TestDoorsAreClosedOnExec(t *testing.T) {
	checkLeaks(t)
	s, err := Create(geometries[0])
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, s)
	for what, fd := range map[string]int{"eventfd": s.event.fd, "socket": s.socket.fd, "worker's end": int(s.socket.peer.Fd())} {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("the %s has the flags %#x, %v", what, flags, err)
		}
	}
}

// Whoever is closed sleeps no more, though the peer says that there is nothing.
func TestPolledDoorsStayClosed(t *testing.T) {
	polledDoors(t, func(t *testing.T, d door, s *sem, _ func()) {
		s.count.Store(1)
		d.close()
		s.count.Store(0)
		begun := time.Now()
		if d.sleep(time.Minute); time.Since(begun) > 30*time.Second {
			t.Error("it slept")
		}
	})
}

// What cannot be polled is closed, and not once more when the collector comes.
func TestPollerOfWhatCannotBePolled(t *testing.T) {
	checkLeaks(t)
	fd, err := unix.MemfdCreate("no poll", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newPoller(fd, nil, nil); err == nil {
		t.Fatal("it is polled")
	}
	again, err := unix.MemfdCreate("somebody else's", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if again != fd {
		t.Errorf("the number is %d, want %d, which is free", again, fd)
	}
	for range 2 {
		runtime.GC()
	}
	if err := unix.Close(again); err != nil {
		t.Error(err)
	}
}

// A sleeper cannot leave anything at the waker's end of its socket.
func TestSocketIsOneWay(t *testing.T) {
	checkLeaks(t)
	s := newHeap(t, geometries[0])
	fd := int(s.Socket().Fd())
	err := unix.Sendmsg(fd, []byte{1}, unix.UnixRights(fd), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if !errors.Is(err, unix.EPIPE) {
		t.Errorf("sent: %v, want EPIPE", err)
	}
}
