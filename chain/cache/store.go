package cache

import (
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

// room is the bytes that may be held, by entries and by answers that are being gathered. Bytes are taken before there is anything to hold, so that there are never more.
type room struct {
	most atomic.Int64
	held atomic.Int64
}

// take takes n bytes, or none if there are not as many.
func (r *room) take(n int64) bool {
	for {
		held := r.held.Load()
		if held+n > r.most.Load() {
			return false
		}
		if r.held.CompareAndSwap(held, held+n) {
			return true
		}
	}
}

func (r *room) give(n int64) { r.held.Add(-n) }

// clock tells the time; a test has its own.
type clock = otter.Clock

// storeShare of a room is for entries; the rest of it, one part more, is for answers that are being gathered while the store is full.
const storeShare = entryShare - 1

// store keeps entries by key, within a room: those that are asked for often, and lately. An entry is dropped when it has lived as long as it may.
type store struct {
	room    room
	clock   clock // nil: the machine's
	entries *otter.Cache[Key, *entry]
}

// newStore makes one in which entries live as long as their actions say.
func newStore(most int64, c clock) *store {
	s := &store{clock: c}
	s.room.most.Store(most)
	s.entries = otter.Must(&otter.Options[Key, *entry]{
		MaximumWeight:    storeWeight(most),
		Weigher:          func(_ Key, e *entry) uint32 { return uint32(e.size) }, // an entry is smaller than a message may be
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[Key, *entry]) time.Duration { return e.Value.action.life() }),
		OnDeletion:       s.dropped,
		Executor:         func(f func()) { f() }, // at once: so the bound holds when a write returns
		Clock:            c,
	})
	return s
}

func storeWeight(most int64) uint64 { return uint64(most / entryShare * storeShare) }

// resize changes how much is kept.
func (s *store) resize(most int64) {
	s.room.most.Store(most)
	s.entries.SetMaximum(storeWeight(most))
}

func (s *store) now() int64 {
	if s.clock != nil {
		return s.clock.NowNano()
	}
	return time.Now().UnixNano()
}

// find returns an entry that is not older than so.
func (s *store) find(k Key, most time.Duration) (e *entry, age time.Duration) {
	e, ok := s.entries.GetIfPresent(k)
	if !ok {
		return nil, 0
	}
	if age = time.Duration(max(0, s.now()-e.at)); age >= most {
		return nil, 0
	}
	return e, age
}

// keep stores an entry whose bytes have been taken from the room.
func (s *store) keep(k Key, e *entry) { s.entries.Set(k, e) }

// dropped gives the bytes of an entry back that is not in the store any more. It may run under the store's lock.
func (s *store) dropped(e otter.DeletionEvent[Key, *entry]) {
	s.room.give(e.Value.size)
	if e.Cause == otter.CauseOverflow {
		e.Value.action.meters.evictions.Inc()
	}
	if e.Value.ahead && !e.Value.used.Load() {
		e.Value.action.meters.wasted.Inc()
	}
}

// drop removes the entries of a pool, "" for every pool, and returns how many there were.
func (s *store) drop(pool string) (n int) {
	for k, e := range s.entries.All() {
		if pool == "" || e.action.pool == pool {
			if _, there := s.entries.Invalidate(k); there {
				n++
			}
		}
	}
	s.entries.CleanUp()
	return n
}

// close ends the store's goroutine.
func (s *store) close() { s.entries.StopAllGoroutines() }
