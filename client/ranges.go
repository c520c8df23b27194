package client

import (
	"cmp"
	"slices"
)

// rangeAlign is what arena memory is handed out in multiples of: a cache line.
const rangeAlign = 64

// span is a piece of an arena: [offset, end).
type span struct{ offset, end uint64 }

// ranges hands out pieces of an arena. It is a pure data structure: first fit, so that what was used last, and lies in the caches, is used next.
//
// Invariants: free is in order, its spans neither touch nor overlap, all bounds are multiples of rangeAlign.
type ranges struct {
	free []span
}

func newRanges(size uint64) ranges { return ranges{free: []span{{0, size &^ (rangeAlign - 1)}}} }

// take returns a piece of at least n bytes, which is never empty; false: there is none.
func (r *ranges) take(n uint64) (span, bool) {
	n = max(n, 1)
	for i := range r.free {
		f := &r.free[i]
		if n > f.end-f.offset {
			continue
		}
		s := span{f.offset, f.offset + (n+rangeAlign-1)&^(rangeAlign-1)}
		if f.offset = s.end; f.offset == f.end {
			r.free = slices.Delete(r.free, i, i+1)
		}
		return s, true
	}
	return span{}, false
}

// give takes a piece back.
func (r *ranges) give(s span) {
	i, _ := slices.BinarySearchFunc(r.free, s.offset, func(f span, offset uint64) int { return cmp.Compare(f.offset, offset) })
	before, after := i > 0 && r.free[i-1].end == s.offset, i < len(r.free) && r.free[i].offset == s.end
	switch {
	case before && after:
		r.free[i-1].end = r.free[i].end
		r.free = slices.Delete(r.free, i, i+1)
	case before:
		r.free[i-1].end = s.end
	case after:
		r.free[i].offset = s.offset
	default:
		r.free = slices.Insert(r.free, i, s)
	}
}

// largest is how many bytes the largest piece has that could be had.
func (r *ranges) largest() uint64 {
	n := uint64(0)
	for _, f := range r.free {
		n = max(n, f.end-f.offset)
	}
	return n
}
