package cache

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
)

const (
	// maxCanonical is the size in bytes of the largest body that is brought into its canonical form; a larger one is taken as it is.
	maxCanonical = 1 << 20
	// maxDepth is how deeply arrays and maps may be nested, as in a message.
	maxDepth = 64
)

// canonical brings a MessagePack value into one form, so that encodings of equal values become equal bytes and those of different values stay different. The form is MessagePack itself, with
//
//   - integers by value, in the shortest form: uint8 1, int64 1 and fixint 1 are equal
//   - float32 widened to float64: 1.5 is 1.5 whatever its width; -0.0 is not 0.0, an integer is no float, and a float32 that is not a number stays what it is, bit by bit
//   - strings, binaries, arrays, maps and extensions with the shortest header; a string is no binary
//   - maps in the order of their keys' canonical forms
//
// A value that has no such form is one of which decoders think differently, a map with a key twice, and one that is not well-formed or nested deeper than a message may be.
type canonical struct {
	out     []byte
	spans   []span // stack of the entries of the maps that are being written
	scratch []byte
}

// span is where in out a map's entry is: the key from begin to value, the value up to end.
type span struct{ begin, value, end int }

// encode writes body's canonical form to out; false: it has none.
func (c *canonical) encode(body []byte) bool {
	c.out, c.spans = c.out[:0], c.spans[:0]
	rest, ok := c.value(body, 0)
	return ok && len(rest) == 0
}

// value writes the first value in b and returns what follows it.
func (c *canonical) value(b []byte, depth int) (rest []byte, ok bool) {
	if len(b) == 0 || depth > maxDepth {
		return nil, false
	}
	t, b := b[0], b[1:]
	switch {
	case t <= 0x7f || t >= 0xe0 || t == 0xc0 || t == 0xc2 || t == 0xc3: // small integers, nil, false, true
		c.out = append(c.out, t)
		return b, true
	case t <= 0x8f:
		return c.pairs(b, uint64(t&0x0f), depth)
	case t <= 0x9f:
		return c.array(b, uint64(t&0x0f), depth)
	case t <= 0xbf:
		return c.blob(b, uint64(t&0x1f), &strHead)
	}
	switch t {
	case 0xca, 0xcb:
		return c.float(t, b)
	case 0xcc, 0xcd, 0xce, 0xcf, 0xd0, 0xd1, 0xd2, 0xd3:
		return c.integer(t, b)
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8:
		return c.extension(b, 1<<(t-0xd4))
	}
	width := 0
	switch t {
	case 0xc4, 0xc7, 0xd9:
		width = 1
	case 0xc5, 0xc8, 0xda, 0xdc, 0xde:
		width = 2
	case 0xc6, 0xc9, 0xdb, 0xdd, 0xdf:
		width = 4
	}
	if width == 0 || len(b) < width {
		return nil, false
	}
	n, b := bigEndian(b[:width]), b[width:]
	switch t {
	case 0xc4, 0xc5, 0xc6:
		return c.blob(b, n, &binHead)
	case 0xc7, 0xc8, 0xc9:
		return c.extension(b, n)
	case 0xd9, 0xda, 0xdb:
		return c.blob(b, n, &strHead)
	case 0xdc, 0xdd:
		return c.array(b, n, depth)
	}
	return c.pairs(b, n, depth)
}

func bigEndian(b []byte) (n uint64) {
	for _, x := range b {
		n = n<<8 | uint64(x)
	}
	return n
}

func (c *canonical) integer(t byte, b []byte) ([]byte, bool) {
	width := 1 << (t & 3) // cc…cf and d0…d3
	if len(b) < width {
		return nil, false
	}
	n := bigEndian(b[:width])
	if t >= 0xd0 {
		shift := 64 - 8*width
		if v := int64(n<<shift) >> shift; v < 0 {
			c.negative(v)
			return b[width:], true
		}
	}
	switch {
	case n <= 0x7f:
		c.out = append(c.out, byte(n))
	case n <= math.MaxUint8:
		c.out = append(c.out, 0xcc, byte(n))
	case n <= math.MaxUint16:
		c.out = binary.BigEndian.AppendUint16(append(c.out, 0xcd), uint16(n))
	case n <= math.MaxUint32:
		c.out = binary.BigEndian.AppendUint32(append(c.out, 0xce), uint32(n))
	default:
		c.out = binary.BigEndian.AppendUint64(append(c.out, 0xcf), n)
	}
	return b[width:], true
}

func (c *canonical) negative(v int64) {
	switch {
	case v >= -32:
		c.out = append(c.out, byte(v))
	case v >= math.MinInt8:
		c.out = append(c.out, 0xd0, byte(v))
	case v >= math.MinInt16:
		c.out = binary.BigEndian.AppendUint16(append(c.out, 0xd1), uint16(v))
	case v >= math.MinInt32:
		c.out = binary.BigEndian.AppendUint32(append(c.out, 0xd2), uint32(v))
	default:
		c.out = binary.BigEndian.AppendUint64(append(c.out, 0xd3), uint64(v))
	}
}

func (c *canonical) float(t byte, b []byte) ([]byte, bool) {
	width := 4 << (t & 1)
	if len(b) < width {
		return nil, false
	}
	if f := math.Float32frombits(binary.BigEndian.Uint32(b)); t == 0xca && f == f { // not so for what is not a number
		c.out = binary.BigEndian.AppendUint64(append(c.out, 0xcb), math.Float64bits(float64(f)))
		return b[width:], true
	}
	c.out = append(append(c.out, t), b[:width]...)
	return b[width:], true
}

// head is how a kind of value with a length begins: in the type byte itself up to small, then with a length of 1, 2 or 4 bytes.
type head struct {
	fix          byte
	small        uint64
	c8, c16, c32 byte // c8 0: there is none of 1 byte
	fixed        bool
}

var (
	strHead   = head{fix: 0xa0, small: 31, c8: 0xd9, c16: 0xda, c32: 0xdb, fixed: true}
	binHead   = head{c8: 0xc4, c16: 0xc5, c32: 0xc6}
	extHead   = head{c8: 0xc7, c16: 0xc8, c32: 0xc9}
	arrayHead = head{fix: 0x90, small: 15, c16: 0xdc, c32: 0xdd, fixed: true}
	mapHead   = head{fix: 0x80, small: 15, c16: 0xde, c32: 0xdf, fixed: true}
)

func (c *canonical) head(h *head, n uint64) {
	switch {
	case h.fixed && n <= h.small:
		c.out = append(c.out, h.fix|byte(n))
	case h.c8 != 0 && n <= math.MaxUint8:
		c.out = append(c.out, h.c8, byte(n))
	case n <= math.MaxUint16:
		c.out = binary.BigEndian.AppendUint16(append(c.out, h.c16), uint16(n))
	default:
		c.out = binary.BigEndian.AppendUint32(append(c.out, h.c32), uint32(n))
	}
}

func (c *canonical) blob(b []byte, n uint64, h *head) ([]byte, bool) {
	if n > uint64(len(b)) {
		return nil, false
	}
	c.head(h, n)
	c.out = append(c.out, b[:n]...)
	return b[n:], true
}

// extension writes one whose type byte and n bytes of content follow.
func (c *canonical) extension(b []byte, n uint64) ([]byte, bool) {
	if n+1 > uint64(len(b)) {
		return nil, false
	}
	c.head(&extHead, n)
	c.out = append(c.out, b[:n+1]...)
	return b[n+1:], true
}

func (c *canonical) array(b []byte, n uint64, depth int) (rest []byte, ok bool) {
	if n > uint64(len(b)) {
		return nil, false
	}
	c.head(&arrayHead, n)
	for range n {
		if b, ok = c.value(b, depth+1); !ok {
			return nil, false
		}
	}
	return b, true
}

func (c *canonical) pairs(b []byte, n uint64, depth int) (rest []byte, ok bool) {
	if 2*n > uint64(len(b)) {
		return nil, false
	}
	c.head(&mapHead, n)
	first := len(c.spans)
	for range n {
		s := span{begin: len(c.out)}
		if b, ok = c.value(b, depth+1); !ok {
			return nil, false
		}
		s.value = len(c.out)
		if b, ok = c.value(b, depth+1); !ok {
			return nil, false
		}
		s.end = len(c.out)
		c.spans = append(c.spans, s)
	}
	ok = c.sort(c.spans[first:])
	c.spans = c.spans[:first]
	return b, ok
}

// sort puts a map's entries, the last things written, into the order of their keys; false: there are two of a key.
func (c *canonical) sort(entries []span) bool {
	compare := func(a, b span) int { return bytes.Compare(c.out[a.begin:a.value], c.out[b.begin:b.value]) }
	if sorted := slices.IsSortedFunc(entries, compare); !sorted {
		begin := entries[0].begin
		slices.SortFunc(entries, compare)
		c.scratch = append(c.scratch[:0], c.out[begin:]...)
		moved := c.out[:begin]
		for i, e := range entries {
			at := len(moved)
			moved = append(moved, c.scratch[e.begin-begin:e.end-begin]...)
			entries[i] = span{at, at + e.value - e.begin, len(moved)}
		}
		c.out = moved
	}
	for i := 1; i < len(entries); i++ {
		if compare(entries[i-1], entries[i]) == 0 {
			return false
		}
	}
	return true
}
