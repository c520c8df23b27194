package client

import (
	"math/rand/v2"
	"testing"
)

func TestRanges(t *testing.T) {
	r := newRanges(1000) // 960 of them can be handed out
	if r.largest() != 960 {
		t.Errorf("%d bytes are free", r.largest())
	}
	a, _ := r.take(1)
	b, _ := r.take(65)
	c, ok := r.take(768)
	if a != (span{0, 64}) || b != (span{64, 192}) || c != (span{192, 960}) || !ok {
		t.Errorf("got %v, %v, %v", a, b, c)
	}
	if _, ok := r.take(0); ok {
		t.Error("there is nothing left, and somebody got it")
	}
	r.give(b)
	if d, ok := r.take(100); !ok || d != b {
		t.Errorf("got %v again", d)
	}
	r.give(a)
	r.give(c)
	r.give(b)
	if len(r.free) != 1 || r.largest() != 960 {
		t.Errorf("free: %v", r.free)
	}
	for _, n := range []uint64{961, 1 << 63, ^uint64(0)} {
		if s, ok := r.take(n); ok {
			t.Errorf("took %d bytes: %v", n, s)
		}
	}
}

// Whatever is taken and given, nothing is handed out twice, and all comes back together.
func TestRangesNeverOverlap(t *testing.T) {
	const size = 1 << 16
	r := newRanges(size)
	var owner [size / rangeAlign]int
	held := map[int]span{}
	for i := 1; i < 50_000; i++ {
		if s, ok := r.take(uint64(rand.IntN(4000))); ok && rand.IntN(2) == 0 {
			for at := s.offset; at < s.end; at += rangeAlign {
				if owner[at/rangeAlign] != 0 {
					t.Fatalf("%v is handed out, and some of it is in use", s)
				}
				owner[at/rangeAlign] = i
			}
			held[i] = s
		} else if ok {
			r.give(s)
		}
		for j, s := range held {
			if rand.IntN(3) > 0 {
				break
			}
			for at := s.offset; at < s.end; at += rangeAlign {
				owner[at/rangeAlign] = 0
			}
			delete(held, j)
			r.give(s)
		}
		for k := 1; k < len(r.free); k++ {
			if r.free[k-1].end >= r.free[k].offset {
				t.Fatalf("free: %v", r.free)
			}
		}
	}
	for _, s := range held {
		r.give(s)
	}
	if len(r.free) != 1 || r.largest() != size {
		t.Errorf("free: %v", r.free)
	}
}

func TestPosition(t *testing.T) {
	memory := make([]byte, 256)
	other := make([]byte, 256)
	for _, c := range []struct {
		b  []byte
		at uint64
		ok bool
	}{
		{memory, 0, true}, {memory[64:], 64, true}, {memory[255:], 255, true}, {memory[:0], 0, false}, {memory[256:], 0, false}, {other, 0, false}, {nil, 0, false},
	} {
		if at, ok := position(memory[:256:256], c.b); ok != c.ok || ok && at != c.at {
			t.Errorf("%d bytes are at %d, %v; want %d, %v", len(c.b), at, ok, c.at, c.ok)
		}
	}
	if _, ok := position(memory[:100], memory[50:150]); ok {
		t.Error("what ends beyond lies in it")
	}
	if _, ok := position(memory[100:], memory[50:]); ok {
		t.Error("what begins before lies in it")
	}
}
