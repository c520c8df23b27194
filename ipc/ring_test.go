package ipc

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/ringmasterd/ringmaster/shm"
)

// A request that the worker has not read when it dies is known not to have been read.
func TestRingTellsWhatWasConsumed(t *testing.T) {
	checkLeaks(t)
	p := ringPair(t, pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20})
	supervisor := p.asking.(*Ring)
	first, err := supervisor.Send([]byte("first"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := supervisor.Send(make([]byte, 40<<10)) // several frames
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.answering.Recv(); err != nil {
		t.Fatal(err)
	}
	_ = supervisor.Close()
	for _, c := range []struct {
		end  uint64
		want bool
	}{{first, true}, {second, false}} {
		if got, err := supervisor.Consumed(c.end); err != nil || got != c.want {
			t.Errorf("consumed up to %d: %v, %v; want %v", c.end, got, err, c.want)
		}
	}
}

// What Serve did not receive before it was drained it leaves in the ring: somebody else can be given it.
func TestDrainingLeavesTheRestUnread(t *testing.T) {
	if raceEnabled {
		t.Skip("both ends are one segment, and would be shut down together")
	}
	checkLeaks(t)
	p := ringPair(t, pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20})
	draining := make(chan struct{})
	close(draining)
	s := serve(t, p.answering, ServeConfig{Draining: draining}, echoAll)
	if err := s.wait(); err != nil {
		t.Fatal(err)
	}
	supervisor := p.asking.(*Ring)
	end, err := supervisor.Send(encodeMessage(&Request{ID: 1}))
	if err != nil {
		t.Fatal(err)
	}
	if consumed, err := supervisor.Consumed(end); err != nil || consumed {
		t.Errorf("a request after the drain was read: %v, %v", consumed, err)
	}
}

func TestRingAfterClose(t *testing.T) {
	checkLeaks(t)
	p := ringPair(t, pairOptions{askingLimit: 1000, answeringLimit: 1000})
	if _, err := p.answering.Send([]byte("committed")); err != nil {
		t.Fatal(err)
	}
	_ = p.asking.Close()
	if b, err := p.asking.Recv(); err != nil || string(b) != "committed" {
		t.Errorf("got %q, %v", b, err)
	}
	if _, err := p.asking.Recv(); !isEOF(err) {
		t.Errorf("Recv: %v, want EOF", err)
	}
	if _, err := p.asking.Send([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Send: %v, want %v", err, io.ErrClosedPipe)
	}
	if _, err := p.asking.Send(make([]byte, 1001)); AsError(err).Reason != "too_large" {
		t.Errorf("Send of too much: %v", err)
	}
}

// hostileSegments returns both views of a segment whose content a test is going to spoil, and a way to do that.
func hostileSegments(t *testing.T) (supervisor, worker *shm.Segment, scribble func(off int64, value uint64)) {
	t.Helper()
	if raceEnabled {
		t.Skip("needs a mapping")
	}
	supervisor, err := shm.Create(shm.Geometry{S2W: 64 << 10, W2S: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	if worker, err = shm.Open(int(supervisor.File().Fd())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, seg := range []*shm.Segment{supervisor, worker} {
			seg.Shutdown()
			if err := seg.Destroy(); err != nil {
				t.Error(err)
			}
		}
	})
	return supervisor, worker, func(off int64, value uint64) {
		if _, err := supervisor.File().WriteAt(binary.LittleEndian.AppendUint64(nil, value), off); err != nil {
			t.Fatal(err)
		}
	}
}

// Where the rings' positions lie: docs/protocol.md, sections 2 and 3.
const (
	tailS2W, headS2W = 0x1000, 0x1080
	tailW2S, headW2S = 0x1400, 0x1480
)

// A peer that breaks the ring's rules is noticed by whichever half of it is used next, and whoever receives says so.
func TestABrokenRing(t *testing.T) {
	chatter := func(ctx context.Context, _ *Request, w *Responder) {
		for w.Send(ctx, &Reply{Body: append(Body{0xc5, 0x10, 0}, make([]byte, 0x1000)...)}) == nil {
		}
	}
	for _, c := range []struct {
		name  string
		off   int64
		value uint64
	}{{"a tail that is not aligned", tailS2W, 0x107}, {"a tail too far ahead", tailS2W, 1 << 40}, {"a head that is not aligned", headW2S, 0x8007}, {"a head ahead of the tail", headW2S, 1 << 40}} {
		t.Run("Serve/"+c.name, func(t *testing.T) {
			checkLeaks(t)
			supervisor, worker, scribble := hostileSegments(t)
			tr := SupervisorRing(supervisor, 1<<20)
			scribble(c.off, c.value)
			// The handler fills the other ring without ever looking at what comes in.
			say(t, tr, &Request{ID: 1, Credit: 100})
			if c.off == tailS2W {
				scribble(c.off, c.value)
			}
			s := serve(t, WorkerRing(worker, 1<<20), ServeConfig{Strict: true}, chatter)
			wantError(t, s.wait(), DataLoss, "protocol")
		})
	}
	for _, c := range []struct {
		name  string
		off   int64
		value uint64
	}{{"a tail that is not aligned", tailW2S, 7}, {"a head ahead of the tail", headS2W, 1 << 40}} {
		t.Run("Caller/"+c.name, func(t *testing.T) {
			checkLeaks(t)
			supervisor, _, scribble := hostileSegments(t)
			scribble(c.off, c.value)
			a := ask(t, SupervisorRing(supervisor, 1<<20), Events{})
			for {
				if _, err := a.Start(&Request{Context: make([]byte, 4000)}, nil); err != nil {
					break
				}
				select {
				case <-a.ends:
				default:
					continue
				}
				break
			}
			wantError(t, a.wait(), DataLoss, "protocol")
		})
	}
}
