package shm

import "fmt"

// Check walks the segment and returns the first thing in it that cannot be: a header that is not the one this side attached to, a
// position outside its ring, an unread frame that is not valid. Tests call it when they end, also after they killed the peer.
//
// Preconditions: neither process is sending or receiving, and Destroy was not called.
func (s *Segment) Check() error {
	var b [geometryBytes]byte
	copy(b[:], s.mem)
	g, err := decodeGeometry(b[:], uint64(len(s.mem)))
	if err != nil {
		return fmt.Errorf("shm: check: %w", err)
	}
	if g != s.geo {
		return fmt.Errorf("shm: check: geometry is %+v, was %+v", g, s.geo)
	}
	for _, r := range []*ring{&s.s2w, &s.w2s} {
		if err := r.check(); err != nil {
			return fmt.Errorf("shm: check: %w", err)
		}
	}
	return nil
}

func (r *ring) check() error {
	head, tail := r.headWord.Load(), r.tailWord.Load()
	if head%frameAlign != 0 {
		return r.protocolError(head, "head is not aligned")
	}
	if wrong := r.checkPositions(tail, head); wrong != "" {
		return r.protocolError(tail, wrong)
	}
	for due, first := uint32(0), true; head != tail; first = false {
		off := r.offset(head)
		low, high := word64(r.data, off).Load(), word64(r.data, off+8).Load()
		if first {
			due = uint32(high) // any sequence number will do for the first frame; from there they count
		}
		h, wrong := parseHeader(low, high, place{
			salt: r.salt, seq: due, avail: tail - head, room: r.capacity - off, maxFrame: r.maxFrame,
		})
		if wrong != "" {
			return r.protocolError(head, wrong)
		}
		due++
		head += frameBytes(uint64(h.len))
	}
	return nil
}
