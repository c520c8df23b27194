package shm

import (
	"fmt"
	"testing"
)

func TestFrameBytes(t *testing.T) {
	for n, want := range map[uint64]uint64{0: 16, 1: 32, 15: 32, 16: 32, 17: 48, 1000: 1024, 1<<32 - 1: 1<<32 + 16} {
		if got := frameBytes(n); got != want {
			t.Errorf("frameBytes(%d) = %d, want %d", n, got, want)
		}
	}
}

func TestHeaderEncoding(t *testing.T) {
	// Worked out by hand from the protocol's formula.
	h := header{len: 0x11223344, typ: typeData, flags: flagMore, seq: 0x55667788}
	const salt = 0x99AABBCC
	low, high := h.encode(salt)
	if want := uint64(0x0001_0001_11223344); low != want {
		t.Errorf("low word is %#x, want %#x", low, want)
	}
	const guard = 0x5AFEC0DE ^ 0x11223344 ^ 0x00010001 ^ 0x55667788 ^ 0x99AABBCC
	if want := uint64(guard)<<32 | 0x55667788; high != want {
		t.Errorf("high word is %#x, want %#x", high, want)
	}
	got, g := decodeHeader(low, high)
	if got != h || g != guard {
		t.Errorf("decoded %+v, guard %#x, want %+v, guard %#x", got, g, h, uint32(guard))
	}
}

// TestParseHeader breaks one rule at a time, the guard being right.
func TestParseHeader(t *testing.T) {
	here := place{salt: 7, seq: 5, avail: 1024, room: 512, maxFrame: 200}
	for _, test := range []struct {
		h     header
		wrong string
	}{
		{header{typ: typeData, seq: 5, len: 1}, ""},
		{header{typ: typeData, seq: 5, len: 200}, ""},
		{header{typ: typeData, seq: 5, len: 200, flags: flagMore}, ""},
		{header{typ: typePad, seq: 5, len: 512 - 16}, ""},
		{header{typ: typeData, seq: 4, len: 1}, "frame is out of sequence"},
		{header{typ: 0, seq: 5, len: 1}, "frame type is unknown"},
		{header{typ: 3, seq: 5, len: 1}, "frame type is unknown"},
		{header{typ: typeData, seq: 5, len: 1024}, "frame ends beyond the published bytes"},
		{header{typ: typePad, seq: 5, len: 1<<32 - 1}, "frame ends beyond the published bytes"},
		{header{typ: typeData, seq: 5, len: 500}, "frame crosses the ring's end"},
		{header{typ: typePad, seq: 5, len: 512}, "frame crosses the ring's end"},
		{header{typ: typePad, seq: 5, len: 512 - 32}, "pad does not end at the ring's end"},
		{header{typ: typePad, seq: 5, len: 512 - 16, flags: flagMore}, "pad has flags"},
		{header{typ: typeData, seq: 5, len: 0}, "frame is empty"},
		{header{typ: typeData, seq: 5, len: 201}, "frame is longer than the longest allowed"},
		{header{typ: typeData, seq: 5, len: 1, flags: 2}, "frame has unknown flags"},
		{header{typ: typeData, seq: 5, len: 199, flags: flagMore}, "frame with more to follow is not a full one"},
	} {
		low, high := test.h.encode(here.salt)
		if _, wrong := parseHeader(low, high, here); wrong != test.wrong {
			t.Errorf("%+v: %q, want %q", test.h, wrong, test.wrong)
		}
		for bit := range 64 {
			if _, wrong := parseHeader(low^1<<bit, high, here); wrong == "" {
				t.Errorf("%+v with bit %d flipped: accepted", test.h, bit)
			}
			if _, wrong := parseHeader(low, high^1<<bit, here); wrong == "" {
				t.Errorf("%+v with bit 64+%d flipped: accepted", test.h, bit)
			}
		}
	}
}

// layOut is the model of how messages of the given sizes come to lie in an empty ring: one entry per frame.
type laidOut struct {
	position uint64 // of the frame's start
	header
	message int    // which message it belongs to; -1 for a PAD
	last    bool   // the message's last frame
	end     uint64 // position of the frame's end
}

func layOut(capacity, maxFrame uint64, sizes []int) (frames []laidOut) {
	position := uint64(0)
	put := func(f laidOut, bytes uint64) {
		f.position, f.end, f.seq = position, position+bytes, uint32(len(frames))
		frames = append(frames, f)
		position = f.end
	}
	for i, size := range sizes {
		for left := uint64(size); left > 0; {
			n := min(left, maxFrame)
			left -= n
			bytes := 16 + (n+15)/16*16
			if room := capacity - position%capacity; bytes > room {
				put(laidOut{header: header{typ: typePad, len: uint32(room - 16)}, message: -1}, room)
			}
			f := laidOut{header: header{typ: typeData, len: uint32(n)}, message: i, last: left == 0}
			if left > 0 {
				f.flags = flagMore
			}
			put(f, bytes)
		}
	}
	return frames
}

func (f laidOut) String() string {
	return fmt.Sprintf("frame %d at %d: type %d, flags %d, %d bytes, message %d",
		f.seq, f.position, f.typ, f.flags, f.len, f.message)
}
