package shm

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sleepLong has those who sleep in the kernel do so until they are woken: what is tested here would otherwise only be late.
func sleepLong(t *testing.T) {
	old := longestSleep
	longestSleep = unix.NsecToTimespec(int64(time.Hour))
	t.Cleanup(func() { longestSleep = old })
}

// What was put is the peer's, whatever becomes of this side before it is woken.
func TestWakeAfterShutdown(t *testing.T) {
	checkLeaks(t)
	sleepLong(t)
	for _, g := range geometries {
		supervisor := newHeap(t, g)
		worker := twin(t, supervisor)
		p, _ := supervisor.Supervisor()
		_, c := worker.Worker()
		got := make(chan error, 1)
		go func() {
			b, err := c.Recv(nil, 100)
			if err == nil && string(b) != "put" {
				err = errNotPut
			}
			got <- err
		}()
		await(t, "the worker sleeps", asleep(&c.items))
		if _, put, err := p.TryPut([]byte("put")); !put || err != nil {
			t.Fatal(put, err)
		}
		supervisor.Shutdown()
		p.Wake()
		select {
		case err := <-got:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("nobody has woken the worker")
		}
		worker.Shutdown()
		if err := supervisor.Destroy(); err != nil {
			t.Error(err)
		}
		p.Wake()
	}
}

var errNotPut = &ProtocolError{What: "it is not what was put"}

// Wake may come when the memory is gone.
func TestWakeAfterDestroy(t *testing.T) {
	s, err := Create(geometries[0])
	if err != nil {
		t.Fatal(err)
	}
	p, _ := s.Supervisor()
	if _, put, err := p.TryPut([]byte("put")); !put || err != nil {
		t.Fatal(put, err)
	}
	s.Shutdown()
	woken := make(chan struct{})
	go func() {
		defer close(woken)
		for range 1000 {
			p.Wake()
		}
	}()
	if err := s.Destroy(); err != nil {
		t.Error(err)
	}
	<-woken
}

// TryPut does not wait for whoever sends many frames, though each of them finds room at once.
func TestTryPutBesideALongMessage(t *testing.T) {
	supervisor, _ := attach(t, geometries[0])
	p, _ := supervisor.Supervisor()
	p.mu.Lock()
	p.lengthy.Store(true)
	if _, put, err := p.TryPut([]byte("short")); put || err != nil {
		t.Error(put, err)
	}
	p.lengthy.Store(false)
	p.mu.Unlock()
	if _, sent, err := p.TrySend([]byte("short")); !sent || err != nil {
		t.Error(sent, err)
	}
	if p.lengthy.Load() {
		t.Error("nobody sends many frames now")
	}
}

// Whoever receives hears when it is about to wait, and when it goes on with a message of several frames.
func TestBeforeWaiting(t *testing.T) {
	supervisor, worker := attach(t, geometries[0])
	p, _ := supervisor.Supervisor()
	_, c := worker.Worker()
	told := 0
	c.BeforeWaiting(func() { told++ })
	long := bytes.Repeat([]byte{1}, int(2*p.maxFrame+1))
	for i, message := range [][]byte{{1}, {2}, long} {
		if _, err := p.Send(message); err != nil {
			t.Fatal(err)
		}
		before := told
		if !c.Pending() {
			t.Error("there is a message")
		}
		if _, err := c.Recv(nil, 1<<20); err != nil {
			t.Fatal(err)
		}
		if got, long := told-before, i == 2; got > 0 != long {
			t.Errorf("message %d: told %d times", i, got)
		}
	}
	if c.Pending() {
		t.Error("there is no message")
	}
	received := make(chan error)
	go func() {
		_, err := c.Recv(nil, 100)
		received <- err
	}()
	await(t, "the worker sleeps", asleep(&c.items))
	if _, err := p.Send([]byte("x")); err != nil {
		t.Error(err)
	}
	if err := <-received; err != nil || told == 0 {
		t.Error(err, told)
	}
}
