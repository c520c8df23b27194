package shm

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// TestConsumerRefuses: each thing a hostile producer can write is noticed, at once and for good.
func TestConsumerRefuses(t *testing.T) {
	const apart, foreign = "head and tail are further apart than the capacity", 99
	for name, test := range map[string]struct {
		tail uint64
		h    header // of the first frame
		salt uint32 // what to change in the guard's
		what string
	}{
		"tail too far":      {4096 + 16, header{len: 1, typ: typeData}, 0, apart},
		"tail behind":       {^uint64(15), header{len: 1, typ: typeData}, 0, apart},
		"tail unaligned":    {33, header{len: 1, typ: typeData}, 0, "position is not aligned"},
		"other incarnation": {32, header{len: 1, typ: typeData}, foreign, "frame guard does not match"},
		"out of sequence":   {32, header{len: 1, typ: typeData, seq: 1}, 0, "frame is out of sequence"},
		"too long":          {2048, header{len: 1009, typ: typeData}, 0, "frame is longer than the longest allowed"},
		"beyond tail":       {32, header{len: 17, typ: typeData}, 0, "frame ends beyond the published bytes"},
		"pad in the middle": {32, header{len: 16, typ: typePad}, 0, "pad does not end at the ring's end"},
	} {
		s := newHeap(t, geometries[0])
		r := &s.s2w
		r.salt ^= test.salt
		putHeaderAt(r, 0, test.h)
		r.salt ^= test.salt
		r.tailWord.Store(test.tail)
		_, c := s.Worker()
		_, err := c.Recv(nil, 1<<20)
		var broken *ProtocolError
		if !errors.As(err, &broken) || broken.What != test.what || broken.Ring != "s2w" {
			t.Errorf("%s: %v, want %q", name, err, test.what)
		}
		r.tailWord.Store(0)
		s.Shutdown()
		if _, again := c.Recv(nil, 1<<20); again != err {
			t.Errorf("%s: then %v", name, again)
		}
	}
}

// TestProducerRefuses: a head that cannot be is noticed when it is looked at, at once and for good.
func TestProducerRefuses(t *testing.T) {
	for name, head := range map[string]uint64{"ahead of tail": 4096 + 16, "far behind": ^uint64(15), "unaligned": 100} {
		s := newHeap(t, geometries[0])
		p, _ := s.Supervisor()
		var end uint64
		for range 4 {
			var err error
			if end, err = p.Send(make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
		s.s2w.headWord.Store(head)
		var broken *ProtocolError
		if _, err := p.Send([]byte("x")); !errors.As(err, &broken) {
			t.Errorf("%s: Send: %v", name, err)
		}
		s.s2w.headWord.Store(0)
		if _, err := p.Consumed(end); !errors.As(err, &broken) {
			t.Errorf("%s: Consumed: %v", name, err)
		}
		if _, err := p.Send([]byte("x")); !errors.As(err, &broken) {
			t.Errorf("%s: Send again: %v", name, err)
		}
	}
}

// What one mutation of FuzzHostileSegment does: an opcode, a ring, a place and a value, in mutationBytes.
const (
	setByte   = iota // anywhere in the segment
	setTail          // to the value, or to the value beyond the present one
	setHead          //
	setHeader        // of the frame at the place, with a right guard
	setWord          // in a ring header
	operations
)

const mutationBytes = 12

func mutate(s *Segment, m []byte) {
	op, r := m[0]%operations, &s.s2w
	header := uint64(offS2W)
	if m[0]&0x80 != 0 {
		r, header = &s.w2s, offW2S
	}
	place, value := uint64(binary.LittleEndian.Uint16(m[2:])), binary.LittleEndian.Uint64(m[4:])
	switch op {
	case setByte:
		s.mem[place%uint64(len(s.mem))] = byte(value)
	case setTail, setHead:
		word := r.tailWord
		if op == setHead {
			word = r.headWord
		}
		if m[1]&1 != 0 {
			value += word.Load()
		}
		word.Store(value)
	case setHeader:
		h, _ := decodeHeader(value, uint64(m[1]))
		putHeaderAt(r, place*frameAlign%r.capacity, h)
	case setWord:
		word32(s.mem, header+place%0x200&^3).Store(uint32(value))
	}
}

// FuzzHostileSegment spoils a segment that is in use in up to a few hundred ways. Whatever is in it then, each end gives valid
// data or an error, soon and without more memory than the ring could hold.
func FuzzHostileSegment(f *testing.F) {
	mutation := func(op, arg byte, place uint16, value uint64) []byte {
		return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint16([]byte{op, arg}, place), value)
	}
	f.Add([]byte{})
	f.Add(mutation(setByte, 0, headerBytes, 1))
	f.Add(mutation(setTail, 1, 0, 16))
	f.Add(mutation(setTail|0x80, 1, 0, ^uint64(15)))
	f.Add(mutation(setTail, 0, 0, 1<<63))
	f.Add(mutation(setHead, 1, 0, 1<<40))
	f.Add(mutation(setHead|0x80, 0, 0, 48))
	f.Add(mutation(setHeader, 0, 0, 1|typeData<<32))
	f.Add(mutation(setHeader, 0, 0, 4080|typePad<<32))
	f.Add(mutation(setHeader, 0, 0, 1<<32-1|typeData<<32))
	f.Add(mutation(setHeader|0x80, 2, 4, 1008|typeData<<32|flagMore<<48))
	f.Add(mutation(setWord, 0, offSpace+offWaiters, 1))
	f.Add(append(mutation(setTail, 0, 0, 4096), mutation(setHeader, 0, 0, 4080|typePad<<32)...))
	f.Fuzz(func(t *testing.T, script []byte) {
		s := newHeap(t, Geometry{S2W: 4096, W2S: 4096, Incarnation: 0x1122334455667788})
		sp, sc := s.Supervisor()
		wp, wc := s.Worker()
		var ends []uint64
		for n, size := range []int{1, 1000, 16} {
			for _, p := range []*Producer{sp, wp} {
				end, err := p.Send(content(make([]byte, size), n))
				if err != nil {
					t.Fatal(err)
				}
				ends = append(ends, end)
			}
		}
		for ; len(script) >= mutationBytes; script = script[mutationBytes:] {
			mutate(s, script)
		}
		_ = s.Check() // only has to return

		// A producer may find the ring full: then it waits, and a Shutdown ends that.
		var wg sync.WaitGroup
		var done [2]atomic.Bool
		for i, p := range []*Producer{sp, wp} {
			p.space.spin.enabled = false
			wg.Go(func() {
				defer done[i].Store(true)
				for range 2 {
					if _, err := p.Send(make([]byte, 1500)); !isExpected(err) {
						t.Error(err)
					}
				}
			})
		}
		for i, p := range []*Producer{sp, wp} {
			await(t, "Send returns or waits", func() bool { return done[i].Load() || asleep(&p.space)() })
		}
		s.Shutdown()
		wg.Wait()
		for i, p := range []*Producer{sp, wp} {
			if _, err := p.Consumed(ends[i]); !isExpected(err) {
				t.Error(err)
			}
		}
		for _, c := range []*Consumer{sc, wc} {
			const limit = 3000
			for n := 0; ; n++ {
				msg, err := c.Recv(nil, limit)
				if err != nil {
					if !isExpected(err) {
						t.Error(err)
					}
					break
				}
				if len(msg) == 0 || len(msg) > limit || cap(msg) > 2*limit {
					t.Errorf("received %d bytes in a buffer of %d", len(msg), cap(msg))
				}
				if n > 4096/32 {
					t.Fatal("more messages than a ring can hold")
				}
			}
		}
	})
}

func isExpected(err error) bool {
	var broken *ProtocolError
	return err == nil || err == ErrClosed || errors.As(err, &broken)
}

// TestScribblingPeer: the peer may also write while we read. That is a data race by design.
func TestScribblingPeer(t *testing.T) {
	if underRace {
		t.Skip("the peer of this test races with us on purpose")
	}
	checkLeaks(t)
	for round := range 50 {
		supervisor, worker := attach(t, geometries[0])
		expectBroken[supervisor], expectBroken[worker] = true, true
		p, _ := supervisor.Supervisor()
		_, c := worker.Worker()
		var stop atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			for !stop.Load() {
				if _, err := p.Send(make([]byte, 500)); err != nil {
					return
				}
			}
		})
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(7, uint64(round)))
			for r := &supervisor.s2w; !stop.Load(); {
				// Forge the header of what may be a frame, with a right guard, and put back what was there.
				off := rnd.Uint64N(r.capacity) &^ 15
				low, high := word64(r.data, off), word64(r.data, off+8)
				wasLow, wasHigh := low.Load(), high.Load()
				h, _ := decodeHeader(wasLow, wasHigh)
				h.len = rnd.Uint32() >> rnd.IntN(32)
				h.flags = uint16(rnd.IntN(2))
				putHeaderAt(r, off, h)
				low.Store(wasLow)
				high.Store(wasHigh)
				runtime.Gosched()
			}
		})
		for range 1000 {
			msg, err := c.Recv(nil, 4000)
			if err != nil {
				if !isExpected(err) {
					t.Error(err)
				}
				break
			}
			if len(msg) == 0 || len(msg) > 4000 {
				t.Errorf("received %d bytes", len(msg))
			}
		}
		stop.Store(true)
		supervisor.Shutdown()
		wg.Wait()
	}
}
