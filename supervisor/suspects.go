package supervisor

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

const (
	poisonDeaths = 2               // of workers that had a request in hand: then it is poison
	suspectTTL   = 5 * time.Minute // from the last death
	maxSuspects  = 1024            // in one pool
	expireEvery  = time.Second
)

// suspects remembers requests that a pool's workers died of, or at least with: by a digest of what they ask, so that one that is sent again is known. A suspect that its worker survives is cleared.
type suspects struct {
	count atomic.Int32 // of those remembered: nothing is computed while it is 0

	mu   sync.Mutex
	seed maphash.Seed // guarded by mu until set; secret, so that nobody can make his request look like somebody else's
	list map[uint64]suspect
	next time.Time // when the list is next gone through for what has expired
}

type suspect struct {
	deaths int
	last   uint64 // serial number of the process that died last: several like requests in one process die one death
	until  time.Time
}

// digest identifies what a request asks. Who asks, the trace and the deadline are not part of it. Of what lies in an arena it knows only where: nobody looks into arenas here.
func (s *suspects) digest(r *ipc.Request) uint64 { return s.sum(r, false) }

// kin identifies what a client asks, whatever its tensors contain and wherever that lies: a request that has died in an arena is of the same kin in the message. One client's requests are never kin to another's.
func (s *suspects) kin(r *ipc.Request) uint64 { return s.sum(r, true) }

func (s *suspects) sum(r *ipc.Request, kin bool) uint64 {
	s.mu.Lock()
	if s.list == nil {
		s.list, s.seed = map[uint64]suspect{}, maphash.MakeSeed()
	}
	var h maphash.Hash
	h.SetSeed(s.seed)
	s.mu.Unlock()
	part := func(b []byte) {
		var length [8]byte
		binary.LittleEndian.PutUint64(length[:], uint64(len(b)))
		_, _ = h.Write(length[:])
		_, _ = h.Write(b)
	}
	if kin {
		_ = h.WriteByte(1)
		part(binary.LittleEndian.AppendUint64(nil, uint64(r.Client.UID)<<32|uint64(uint32(r.Client.PID))))
	} else {
		_ = h.WriteByte(0)
	}
	part([]byte(r.Action))
	part(r.Context)
	part(r.Body)
	for i := range r.Tensors {
		t := &r.Tensors[i]
		part([]byte(t.Name))
		part([]byte(t.DType))
		shape := make([]byte, 0, 64)
		for _, n := range t.Shape {
			shape = binary.LittleEndian.AppendUint64(shape, n)
		}
		part(shape)
		if !kin {
			part(t.Data)
			part(rangeBytes(t.At))
		}
	}
	if kin { // outputs do not travel in a message
		return h.Sum64()
	}
	for i := range r.Outputs {
		part([]byte(r.Outputs[i].Name))
		part(rangeBytes(r.Outputs[i].At))
	}
	return h.Sum64()
}

func rangeBytes(at ipc.Range) []byte {
	if at.Region == 0 {
		return nil
	}
	b := make([]byte, 0, 24)
	for _, n := range []uint64{at.Region, at.Offset, at.Length} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}

// died records that a worker died with the request in hand and returns how many have so far. serial tells processes apart.
func (s *suspects) died(digest, serial uint64, now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	known := s.list[digest]
	if known.deaths == 0 && len(s.list) >= maxSuspects {
		s.dropOldest()
	}
	if known.deaths == 0 || known.last != serial {
		known.deaths++
	}
	known.last = serial
	known.until = now.Add(suspectTTL)
	s.list[digest] = known
	s.count.Store(int32(len(s.list)))
	return known.deaths
}

// look returns how many workers have died with the request in hand, and for how long that will be remembered.
func (s *suspects) look(digest uint64, now time.Time) (deaths int, left time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !now.Before(s.next) {
		s.expire(now)
	}
	known := s.list[digest]
	if left = known.until.Sub(now); left <= 0 {
		return 0, 0
	}
	return known.deaths, left
}

// clear forgets a request that its worker has ended, whatever the outcome, unless it is known as poison.
func (s *suspects) clear(digest uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.list[digest].deaths < poisonDeaths {
		delete(s.list, digest)
		s.count.Store(int32(len(s.list)))
	}
}

// any reports whether there is anything to look up.
func (s *suspects) any() bool { return s.count.Load() > 0 }

// Preconditions: mu is held.
func (s *suspects) expire(now time.Time) {
	s.next = now.Add(expireEvery)
	for d, k := range s.list {
		if !now.Before(k.until) {
			delete(s.list, d)
		}
	}
	s.count.Store(int32(len(s.list)))
}

// Preconditions: mu is held, the list is not empty.
func (s *suspects) dropOldest() {
	digests := make([]uint64, 0, len(s.list))
	for d := range s.list {
		digests = append(digests, d)
	}
	delete(s.list, slices.MinFunc(digests, func(a, b uint64) int { return s.list[a].until.Compare(s.list[b].until) }))
}
