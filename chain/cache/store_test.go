package cache

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// However many different answers come at a time, no more bytes are held than may be, and those that are asked for again and again stay.
func TestFloodStaysInItsBounds(t *testing.T) {
	const most = 1 << 20
	body := make([]byte, 8<<10)
	w := &workers{handle: func(context.Context, *ipc.Request) (ipc.Replies, error) {
		return answers(reply(true, body)), nil
	}}
	cfg := one(nil)
	cfg.MaxBytes = most
	h := start(t, cfg, w)
	room := &h.store.Load().room
	stop := make(chan struct{})
	var largest atomic.Int64
	var watching, wg sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				largest.Store(max(largest.Load(), room.held.Load()))
			}
		}
	})
	hits := atomic.Int64{}
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				if _, err := h.all(context.Background(), request(fmt.Sprint(g, i))); err != nil {
					t.Error(err)
				}
				got, err := h.all(context.Background(), request("popular"))
				if err == nil && got[0].Headers["cache"] == saidHit {
					hits.Add(1)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	watching.Wait()
	if n := largest.Load(); n > most {
		t.Errorf("%d bytes were held, of %d", n, most)
	}
	if n := room.held.Load(); n > most || n < most/2 {
		t.Errorf("%d bytes are held, of %d", n, most)
	}
	if hits.Load() < 3000 {
		t.Errorf("what everybody asks for was there %d times of 4000", hits.Load())
	}
	h.checkBytes()

	cfg.MaxBytes *= 4
	if err := h.Configure(cfg); err != nil {
		t.Fatal(err)
	}
	for i := range 400 {
		h.says(saidMiss, request(fmt.Sprint("more", i)))
	}
	if n := room.held.Load(); n < 2*most {
		t.Errorf("%d bytes are held, of %d", n, cfg.MaxBytes)
	}
	cfg.MaxBytes = most
	if err := h.Configure(cfg); err != nil {
		t.Fatal(err)
	}
	if n := room.held.Load(); n > most {
		t.Errorf("%d bytes are held, of %d from now on", n, most)
	}
}

// What has lived as long as it may gives its bytes back, though nobody asks for it.
func TestDeadEntriesLeave(t *testing.T) {
	h := start(t, one(func(a *Action) { a.Stale = testTTL }), echoing())
	h.says(saidMiss, request("x"))
	s := h.store.Load()
	for _, step := range []struct {
		pass time.Duration
		want int
	}{{testTTL, 1}, {testTTL + 2*time.Second, 0}} { // otter's wheel turns about once a second
		h.clock.pass(step.pass)
		s.entries.CleanUp()
		if n := s.entries.EstimatedSize(); n != step.want || (s.room.held.Load() == 0) != (n == 0) {
			t.Errorf("%d entries, %d bytes", n, s.room.held.Load())
		}
	}
}

func TestRoom(t *testing.T) {
	var r room
	r.most.Store(10)
	if !r.take(6) || r.take(5) || !r.take(4) || r.take(1) {
		t.Error("it takes what is not there")
	}
	r.give(4)
	if r.held.Load() != 6 || !r.take(1) {
		t.Errorf("%d are held", r.held.Load())
	}
}

// What an entry weighs is about what it takes: a copy's bytes and something for each part of it.
func TestWeigh(t *testing.T) {
	r := &ipc.Reply{Body: make([]byte, 1000), Headers: map[string]string{"key": "value"}, Tensors: []ipc.Tensor{{Name: "n", DType: "uint8", Shape: []uint64{500}, Data: make([]byte, 500)}}}
	if n := weigh(r); n < 1000+500+8 || n > 2100 {
		t.Errorf("%d bytes", n)
	}
}
