package ipc

import (
	"context"
	"slices"
	"testing"
	"time"
)

// gathering is a [BatchHandler] that answers each request with how many it came with.
type gathering struct{ handlerFunc }

func (g gathering) ServeBatch(members []Member) {
	for _, m := range members {
		body, err := Marshal(len(members))
		if err == nil {
			err = m.W.End(&Reply{Body: body})
		}
		if err != nil {
			_ = m.W.Fail(err)
		}
	}
}

// serveBatches runs Serve with a [gathering] until the test ends.
func serveBatches(t *testing.T, tr Transport, cfg ServeConfig) *serving {
	s := &serving{t: t, tr: tr, ends: make(chan struct{})}
	go func() {
		defer close(s.ends)
		s.err = Serve(context.Background(), tr, gathering{echoAll}, cfg)
	}()
	t.Cleanup(func() {
		_ = tr.Close()
		_ = s.wait()
	})
	return s
}

// hearSize expects an END that says how many requests were run together, and returns whose it is.
func hearSize(t *testing.T, tr Transport, want int) uint64 {
	t.Helper()
	r, ok := hear(t, tr).(*Reply)
	var got int
	if !ok || !r.End || r.Err != nil || r.Body.Decode(&got) != nil || got != want {
		t.Fatalf("heard %+v, want the END of a call of %d", r, want)
	}
	return r.ID
}

func TestABatchIsOneCall(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		serveBatches(t, p.answering, ServeConfig{Strict: true})
		for id := range uint64(4) {
			say(t, p.asking, &Request{ID: id + 1, Action: "a", Held: true})
		}
		say(t, p.asking, Ping{ID: 9})
		if m := hear(t, p.asking); m != (Ping{9, true}) {
			t.Fatalf("heard %+v, though every request is held", m)
		}
		say(t, p.asking, &Batch{IDs: []uint64{4, 2, 1}})
		var ids []uint64
		for range 3 {
			ids = append(ids, hearSize(t, p.asking, 3))
		}
		if !slices.Equal(ids, []uint64{4, 2, 1}) {
			t.Errorf("the requests %v were run", ids)
		}
		say(t, p.asking, &Batch{IDs: []uint64{3}})
		if id := hearSize(t, p.asking, 1); id != 3 {
			t.Errorf("the request %d was run", id)
		}
	})
}

func TestAHeldRequestThatIsCancelledEndsAtOnce(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		serveBatches(t, p.answering, ServeConfig{Strict: true})
		for id := range uint64(3) {
			say(t, p.asking, &Request{ID: id + 1, Action: "a", Held: true, Timeout: time.Minute})
		}
		say(t, p.asking, Cancel{1, "cancelled"})
		hearError(t, p.asking, 1, Cancelled, "cancelled")
		say(t, p.asking, Cancel{2, "deadline"})
		hearError(t, p.asking, 2, DeadlineExceeded, "deadline")
		say(t, p.asking, &Batch{IDs: []uint64{1, 2, 3}})
		if id := hearSize(t, p.asking, 1); id != 3 {
			t.Errorf("the request %d was run", id)
		}
	})
}

func TestBatchesOfNothing(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		serveBatches(t, p.answering, ServeConfig{Strict: true})
		say(t, p.asking, &Request{ID: 1, Action: "a", Held: true})
		say(t, p.asking, &Batch{})
		say(t, p.asking, &Batch{IDs: []uint64{0, 7, 1 << 63}})
		say(t, p.asking, &Batch{IDs: []uint64{1, 1, 1, 2}})
		hearSize(t, p.asking, 1)
		say(t, p.asking, &Batch{IDs: []uint64{1}}) // it has ended
		say(t, p.asking, Ping{ID: 9})
		if m := hear(t, p.asking); m != (Ping{9, true}) {
			t.Errorf("heard %+v", m)
		}
	})
}

// Held requests do not count as requests that run, and are limited, too.
func TestHeldRequestsHaveALimitOfTheirOwn(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		serveBatches(t, p.answering, ServeConfig{MaxInFlight: 1, Strict: true})
		var ids []uint64
		for id := uint64(1); id <= MaxBatch; id++ {
			ids = append(ids, id)
			say(t, p.asking, &Request{ID: id, Action: "a", Held: true})
		}
		say(t, p.asking, &Request{ID: 5000, Action: "a", Held: true})
		hearError(t, p.asking, 5000, ResourceExhausted, "too_many_requests")
		say(t, p.asking, &Request{ID: 5001, Action: "echo"})
		if r, ok := hear(t, p.asking).(*Reply); !ok || r.ID != 5001 || r.Err != nil {
			t.Fatalf("heard %+v", r)
		}
		say(t, p.asking, &Batch{IDs: ids})
		for range ids {
			hearSize(t, p.asking, MaxBatch)
		}
		say(t, p.asking, &Request{ID: 1, Action: "a", Held: true}) // there is room again
		say(t, p.asking, &Batch{IDs: []uint64{1}})
		hearSize(t, p.asking, 1)
	})
}

// A server that drains waits for the batch that a held request is waiting for, and one whose transport is closed does not.
func TestHeldRequestsAndTheEnd(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		draining := make(chan struct{})
		s := serveBatches(t, p.answering, ServeConfig{Draining: draining})
		say(t, p.asking, &Request{ID: 1, Action: "a", Held: true})
		say(t, p.asking, &Request{ID: 2, Action: "a", Held: true})
		say(t, p.asking, Ping{ID: 9})
		hear(t, p.asking)
		close(draining)
		say(t, p.asking, Cancel{1, ""})
		hearError(t, p.asking, 1, Cancelled, "cancelled")
		say(t, p.asking, &Batch{IDs: []uint64{2}})
		hearSize(t, p.asking, 1)
		if err := s.wait(); err != nil {
			t.Errorf("a drained Serve returned %v", err)
		}
	})
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		s := serveBatches(t, p.answering, ServeConfig{})
		say(t, p.asking, &Request{ID: 1, Action: "a", Held: true, Timeout: time.Hour})
		say(t, p.asking, Ping{ID: 9})
		hear(t, p.asking)
		_ = p.answering.Close()
		if err := s.wait(); !isEOF(err) {
			t.Errorf("Serve returned %v, want EOF", err)
		}
	})
}

// Who knows nothing of batches, such as the server towards apps, runs a held request like any other.
func TestHeldMeansNothingToAnOrdinaryHandler(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		serve(t, p.answering, ServeConfig{Strict: true}, echoAll)
		say(t, p.asking, &Request{ID: 1, Action: "echo", Held: true})
		if r, ok := hear(t, p.asking).(*Reply); !ok || r.ID != 1 || !r.End || r.Err != nil {
			t.Fatalf("heard %+v", r)
		}
		say(t, p.asking, &Batch{IDs: []uint64{1}})
		say(t, p.asking, Ping{ID: 9})
		hear(t, p.asking)
	})
}
