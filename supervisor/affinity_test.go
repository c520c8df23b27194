package supervisor

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

// ranked is where a key goes as its slots leave one after the other.
func ranked(key uint64, slots int) []int {
	load := make([]int, slots)
	var order []int
	for i := prefer(load, key, false); i >= 0; i = prefer(load, key, false) {
		order = append(order, i)
		load[i] = gone
	}
	return order
}

func TestKeysAreSpreadAlike(t *testing.T) {
	const keys, slots = 40_000, 5
	first, second := make([]int, slots), make([]int, slots)
	for key := range uint64(keys) {
		order := ranked(mix(key+1), slots)
		if sorted := slices.Sorted(slices.Values(order)); !slices.Equal(sorted, []int{0, 1, 2, 3, 4}) {
			t.Fatalf("key %d goes through %v", key, order)
		}
		first[order[0]]++
		if order[0] == 2 {
			second[order[1]]++
		}
	}
	for i, n := range first {
		if want := keys / slots; n < want*95/100 || n > want*105/100 {
			t.Errorf("slot %d has %d of %d keys", i, n, keys)
		}
	}
	for i, n := range second { // those of a slot that has gone are spread over all others
		if want := first[2] / (slots - 1); i != 2 && (n < want*9/10 || n > want*11/10) {
			t.Errorf("of slot 2's %d keys %d go to slot %d", first[2], n, i)
		}
	}
}

func TestOnlyTheKeysOfAGoneSlotMove(t *testing.T) {
	moved := 0
	for key := range uint64(4000) {
		key = mix(key + 1)
		all := []int{0, 0, 0, 0}
		home := prefer(all, key, false)
		for down := range all {
			load := slices.Clone(all)
			load[down] = gone
			if got := prefer(load, key, false); (got != home) != (down == home) {
				t.Fatalf("without slot %d a key of slot %d goes to %d", down, home, got)
			}
		}
		if got := prefer(append(all, 0), key, false); got != home {
			if got != 4 {
				t.Fatalf("a new slot sends a key from %d to %d", home, got)
			}
			moved++
		}
	}
	if moved < 700 || moved > 900 {
		t.Errorf("a fifth slot takes %d of 4000 keys, want a fifth", moved)
	}
}

func TestABusySlotIsWaitedFor(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		key, load := r.Uint64()|1, make([]int, 1+r.IntN(6))
		for i := range load {
			load[i] = r.IntN(4) - 2 // gone, busy, or one of two loads, which do not matter
		}
		home, best := -1, -1
		for _, i := range ranked(key, len(load)) {
			if home < 0 && load[i] != gone {
				home = i
			}
			if best < 0 && load[i] >= 0 {
				best = i
			}
		}
		want := home
		if home >= 0 && load[home] == busy {
			want = -1
		}
		if got := prefer(load, key, false); got != want {
			t.Fatalf("load %v: %d, want %d", load, got, want)
		}
		if got := prefer(load, key, true); got != best {
			t.Fatalf("load %v, spilling: %d, want %d", load, got, best)
		}
	}
}

func TestRequestsWithoutASessionBelongToTheirClient(t *testing.T) {
	a, b := &ipc.Request{Client: client(1000, 7)}, &ipc.Request{Client: client(1000, 8)}
	if affinityKey(a) == 0 || affinityKey(a) == affinityKey(b) || affinityKey(a) != affinityKey(&ipc.Request{Client: a.Client}) {
		t.Errorf("keys of clients: %x, %x", affinityKey(a), affinityKey(b))
	}
	a.Affinity = 42
	if affinityKey(a) != 42 || affinityKey(&ipc.Request{}) != 0 {
		t.Error("a session goes before its client, and the server's own requests have no key")
	}
}

// In a queue, those whose worker is busy let others pass until they spill.
func TestQueueLetsOthersPass(t *testing.T) {
	keys := map[int]uint64{} // by slot
	for key := uint64(1); len(keys) < 2; key++ {
		keys[prefer([]int{0, 0}, key, false)] = key
	}
	now := time.Now()
	var q fairQueue
	first := &waiter{client: client(1, 1), key: keys[0], spill: now.Add(time.Second)}
	second := &waiter{client: client(1, 1), key: keys[1], spill: now.Add(time.Second)}
	q.push(first, time.Millisecond)
	q.push(second, time.Millisecond)
	if next := q.bind([]int{busy, 0}, now); !next.Equal(first.spill) || q.held != 1 {
		t.Fatalf("%d held, the first to spill in %v", q.held, next.Sub(now))
	}
	if w := q.pop(time.Millisecond); w != second {
		t.Fatal("it was not the one whose worker is free")
	}
	q.held = 0
	if next := q.bind([]int{busy, 0}, now.Add(time.Second)); !next.IsZero() || q.held != 0 {
		t.Errorf("after a second %d are held", q.held)
	}
	if w := q.pop(time.Millisecond); w != first {
		t.Error("it did not spill")
	}
}

// hashed is a pool that heeds affinity, and for each of its slots a key that belongs there.
func hashed(t *testing.T, workers int, wait time.Duration, queue int) (h *harness, keys []uint64) {
	cfg := builtin(workers, 1)
	cfg.Balance, cfg.AffinityWait, cfg.Queue = Hash, wait, queue
	h = run(t, cfg)
	h.allReady("test")
	keys = make([]uint64, workers)
	for key, left := uint64(1), workers; left > 0; key++ {
		if i := prefer(make([]int, workers), key, false); keys[i] == 0 {
			keys[i] = key
			left--
		}
	}
	return h, keys
}

func (h *harness) withKey(key uint64, action string, body any) *ipc.Request {
	req := request(h.t, "test", action, body)
	req.Affinity = key
	return req
}

// answeredBy makes a request with a key and returns the pid of the worker that had it.
func (h *harness) answeredBy(key uint64) int {
	h.t.Helper()
	r, err := h.call(testContext(h.t), h.withKey(key, "self", nil))
	var self struct {
		PID int `msgpack:"pid"`
	}
	if err == nil {
		err = r.Body.Decode(&self)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return self.PID
}

func TestASessionStaysWithItsWorker(t *testing.T) {
	h, keys := hashed(t, 3, 0, 0)
	pids := make([]int, 3)
	for i := range pids {
		pids[i] = h.worker("test", i).PID
	}
	for range 5 {
		for i, key := range keys {
			if got := h.answeredBy(key); got != pids[i] {
				t.Errorf("a key of slot %d went to process %d of %v", i, got, pids)
			}
		}
	}
	kill(t, pids[1], unix.SIGKILL)
	h.await("test", "the death", func(p PoolStatus) bool { return p.Workers[1].PID != pids[1] })
	if got := h.answeredBy(keys[1]); got == pids[1] {
		t.Error("a dead worker answered")
	}
	for _, i := range []int{0, 2} {
		if got := h.answeredBy(keys[i]); got != pids[i] {
			t.Errorf("another worker's death moved a key of slot %d", i)
		}
	}
	h.allReady("test")
	if got := h.answeredBy(keys[1]); got != h.worker("test", 1).PID {
		t.Error("its keys did not come back to the slot")
	}
}

// occupy has the worker of a key busy until release.
func (h *harness) occupy(key uint64) (release func()) {
	h.t.Helper()
	file := filepath.Join(h.t.TempDir(), "go")
	before := h.await("test", "a status", func(PoolStatus) bool { return true }).InFlight
	done := h.start(testContext(h.t), h.withKey(key, "until", map[string]string{"file": file}))
	h.await("test", "a busy worker", func(p PoolStatus) bool { return p.InFlight == before+1 })
	return func() {
		h.t.Helper()
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			h.t.Error(err)
		}
		if o := <-done; o.err != nil {
			h.t.Error(o.err)
		}
	}
}

func TestASessionWaitsForItsWorkerWhileOthersPass(t *testing.T) {
	h, keys := hashed(t, 2, time.Hour, 0)
	mine, other := h.worker("test", 0).PID, h.worker("test", 1).PID
	release := h.occupy(keys[0])
	waits := h.start(testContext(t), h.withKey(keys[0], "credit", nil))
	h.await("test", "one that waits", func(p PoolStatus) bool { return p.Queued == 1 })
	for range 3 {
		if got := h.answeredBy(keys[1]); got != other {
			t.Errorf("process %d answered, want %d", got, other)
		}
	}
	if got := h.answeredBy(0); got != other { // without a key
		t.Errorf("process %d answered, want %d", got, other)
	}
	select {
	case o := <-waits:
		t.Errorf("it did not wait: %v", o.err)
	default:
	}
	release()
	if o := <-waits; o.err != nil {
		t.Error(o.err)
	}
	if got := h.answeredBy(keys[0]); got != mine {
		t.Errorf("process %d answered, want %d", got, mine)
	}
}

func TestASessionSpills(t *testing.T) {
	for name, tt := range map[string]struct {
		wait  time.Duration
		queue int
	}{
		"after a while":         {20 * time.Millisecond, 0},
		"at once":               {-1, 0},
		"where there's no room": {time.Hour, -1},
	} {
		t.Run(name, func(t *testing.T) {
			h, keys := hashed(t, 2, tt.wait, tt.queue)
			release := h.occupy(keys[0])
			begin := time.Now()
			if got := h.answeredBy(keys[0]); got != h.worker("test", 1).PID {
				t.Errorf("process %d answered", got)
			}
			if took := time.Since(begin); took < tt.wait && tt.wait < time.Hour {
				t.Errorf("after %v", took)
			}
			release()
		})
	}
}

// A queue that is full of requests which wait for their worker does not turn one away for which there is a place.
func TestAFullQueueOfThoseThatWaitForTheirWorker(t *testing.T) {
	h, keys := hashed(t, 2, time.Hour, 1)
	release := h.occupy(keys[0])
	waits := h.start(testContext(t), h.withKey(keys[0], "credit", nil))
	h.await("test", "one that waits", func(p PoolStatus) bool { return p.Queued == 1 })
	for _, key := range keys {
		if got := h.answeredBy(key); got != h.worker("test", 1).PID {
			t.Errorf("process %d answered", got)
		}
	}
	release()
	if o := <-waits; o.err != nil {
		t.Error(o.err)
	}
}

// A request whose deadline is near does not spend all that is left on waiting for its worker.
func TestSpillAtHalfOfWhatIsLeft(t *testing.T) {
	now := time.Now()
	ctx, cancel := context.WithDeadline(t.Context(), now.Add(time.Second))
	defer cancel()
	for wait, want := range map[time.Duration]time.Duration{time.Minute: 500 * time.Millisecond, 20 * time.Millisecond: 20 * time.Millisecond} {
		if got := spillAt(ctx, now, wait).Sub(now); got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
	if got := spillAt(t.Context(), now, time.Minute).Sub(now); got != time.Minute {
		t.Error(got)
	}
}

// A reload that takes affinity away lets those go that wait for their worker.
func TestAffinityIsTakenAway(t *testing.T) {
	h, keys := hashed(t, 2, time.Hour, 0)
	release := h.occupy(keys[0])
	waits := h.start(testContext(t), h.withKey(keys[0], "credit", nil))
	h.await("test", "one that waits", func(p PoolStatus) bool { return p.Queued == 1 })
	if _, err := h.Reload(testContext(t), Config{Pools: []PoolConfig{builtin(2, 1)}}); err != nil {
		t.Fatal(err)
	}
	if o := <-waits; o.err != nil {
		t.Error(o.err)
	}
	release()
}
