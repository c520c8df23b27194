package shm

// header is a frame's header less its guard.
type header struct {
	len   uint32
	typ   uint16
	flags uint16
	seq   uint32 // counts this ring's frames from 0, PADs included, modulo 2³²
}

// frameBytes is the room that a frame with n bytes of payload takes in the ring: the protocol's need(n).
func frameBytes(n uint64) uint64 {
	return frameHeaderBytes + (n+frameAlign-1)&^(frameAlign-1)
}

// guard makes stale or foreign bytes unlikely to pass for a header. salt is the low half of the segment's incarnation.
func (h header) guard(salt uint32) uint32 {
	return guardMagic ^ h.len ^ (uint32(h.typ) | uint32(h.flags)<<16) ^ h.seq ^ salt
}

// encode returns the header as the two words it is in memory.
func (h header) encode(salt uint32) (low, high uint64) {
	low = uint64(h.len) | uint64(h.typ)<<32 | uint64(h.flags)<<48
	high = uint64(h.seq) | uint64(h.guard(salt))<<32
	return low, high
}

func decodeHeader(low, high uint64) (h header, guard uint32) {
	return header{len: uint32(low), typ: uint16(low >> 32), flags: uint16(low >> 48), seq: uint32(high)}, uint32(high >> 32)
}

// place is what a consumer knows about a frame before it looks at it.
type place struct {
	salt     uint32
	seq      uint32 // the sequence number that is due
	avail    uint64 // published bytes from the frame's start on
	room     uint64 // bytes from the frame's start to the ring's end
	maxFrame uint64
}

// parseHeader decodes and checks the header of the frame at p. wrong says which rule it breaks and is empty if it breaks none.
func parseHeader(low, high uint64, p place) (h header, wrong string) {
	h, guard := decodeHeader(low, high)
	need := frameBytes(uint64(h.len))
	switch {
	case guard != h.guard(p.salt):
		return h, "frame guard does not match"
	case h.seq != p.seq:
		return h, "frame is out of sequence"
	case h.typ != typeData && h.typ != typePad:
		return h, "frame type is unknown"
	case need > p.avail:
		return h, "frame ends beyond the published bytes"
	case need > p.room:
		return h, "frame crosses the ring's end"
	}
	if h.typ == typePad {
		switch {
		case h.flags != 0:
			return h, "pad has flags"
		case need != p.room:
			return h, "pad does not end at the ring's end"
		}
		return h, ""
	}
	switch {
	case h.len == 0:
		return h, "frame is empty"
	case uint64(h.len) > p.maxFrame:
		return h, "frame is longer than the longest allowed"
	case h.flags&^flagMore != 0:
		return h, "frame has unknown flags"
	case h.flags&flagMore != 0 && uint64(h.len) != p.maxFrame:
		return h, "frame with more to follow is not a full one"
	}
	return h, ""
}
