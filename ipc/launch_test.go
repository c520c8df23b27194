package ipc

import (
	"context"
	"errors"
	"testing"
)

// watched is a ring that tells when a message has to wait, and when it begins.
type watched struct {
	*Ring
	waits, begins chan struct{} // capacity 1
}

func (w *watched) SendIf(wanted func() bool, parts ...[]byte) (uint64, error) {
	w.waits <- struct{}{}
	return w.Ring.SendIf(func() bool {
		begins := wanted()
		if begins {
			w.begins <- struct{}{}
		}
		return begins
	}, parts...)
}

// A ring is full, and its peer asleep. A request whose context ends is given up: it never goes out if nothing of it has, and to its end otherwise, with a cancel after it.
func TestStartContext(t *testing.T) {
	for name, c := range map[string]struct {
		first, second int  // bytes of the requests; the ring has 64 KiB, a frame at most 16
		begins        bool // some of the second's frames find room
	}{
		"nothing of it is out": {50 << 10, 15 << 10, false},
		"a part of it is out":  {1, 100 << 10, true},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			p := ringPair(t, pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20})
			ring := &watched{p.asking.(*Ring), make(chan struct{}, 1), make(chan struct{}, 1)}
			caller := NewCaller(ring, Events{})
			received := func() any {
				t.Helper()
				b, err := p.answering.Recv()
				if err != nil {
					t.Fatal(err)
				}
				m, err := Decode(b)
				if err != nil {
					t.Fatal(err)
				}
				return m
			}
			if _, err := caller.Start(&Request{Action: "first", Context: make([]byte, c.first)}, nil); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan *Error, 1)
			go func() {
				<-ring.waits
				if c.begins {
					<-ring.begins
				}
				cancel()
			}()
			call, err := caller.StartContext(ctx, &Request{Action: "second", Context: make([]byte, c.second)}, endFunc(func(e *Error) { ended <- e }), new(Call))
			if call == nil || err == nil || AsError(err).Code != Cancelled {
				t.Fatalf("got %v, %v", call, err)
			}
			if open := caller.AppendOpen(nil); len(open) != 2 {
				t.Errorf("open: %+v", open)
			}
			call.Cancel("again") // does nothing
			if m := received().(*Request); m.Action != "first" {
				t.Errorf("got %+v", m)
			}
			if c.begins {
				m := received().(*Request)
				if m.Action != "second" || len(m.Context) != c.second {
					t.Errorf("got %q with %d bytes", m.Action, len(m.Context))
				}
				if got := received(); got != (Cancel{m.ID, "cancelled"}) {
					t.Errorf("got %+v, want a cancel", got)
				}
			} else if e := <-ended; e == nil || e.Code != Cancelled {
				t.Errorf("it ended with %v", e)
			}
			if err := caller.Drain(); err != nil {
				t.Error(err)
			}
			if got := received(); got != KindDrain {
				t.Errorf("got %+v, want the drain", got)
			}
			_ = ring.Close()
			caller.Close(errOwner, func(uint64) *Error { return errOwner })
			if c.begins {
				if e := <-ended; !errors.Is(e, errOwner) {
					t.Errorf("it ended with %v", e)
				}
			}
		})
	}
}
