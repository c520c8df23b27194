package ipc

import (
	"encoding/binary"
	"fmt"
)

// maxDepth is how deeply arrays and maps may be nested in a message, the message's own array included.
const maxDepth = 64

// Scan reports whether b is exactly one well-formed MessagePack value that is safe to hand to a decoder: every byte length lies inside b, every declared array or map could
// fit its elements into the bytes that are left (so nobody allocates for elements that cannot exist), nesting is at most 64 deep, the reserved byte c1 does not occur and nothing follows the value. It
// is one linear pass without recursion or allocation.
//
// vmihailenco/msgpack needs this: five bytes (dd ff ff ff ff) decoded into an `any` end the process with an out-of-memory (vmihailenco/msgpack#376).
func Scan(b []byte) error {
	_, err := scanWhole(b)
	return err
}

// scanWhole is [Scan]; it also reports whether there is a value of an extension type, such as a timestamp, anywhere in b.
func scanWhole(b []byte) (ext bool, err error) {
	n, ext, err := scanValue(b)
	if err == nil && n != len(b) {
		err = fmt.Errorf("%d bytes follow the value", len(b)-n)
	}
	return ext, err
}

// scanValue checks the first value in b and returns its length.
func scanValue(b []byte) (n int, ext bool, err error) {
	var open [maxDepth]uint64 // elements still to come in each open container
	depth := 0
	i := 0
	for {
		if i >= len(b) {
			return 0, ext, fmt.Errorf("cut off at byte %d", i)
		}
		c := b[i]
		i++
		left := len(b) - i
		skip := 0     // bytes of payload
		width := 0    // bytes of the length field
		extra := 0    // ext: the type byte
		kind := kByte // what the length counts
		switch {
		case c <= 0x7f || c >= 0xe0: // fixint
		case c <= 0x8f:
			kind, skip = kMap, int(c&0x0f)
		case c <= 0x9f:
			kind, skip = kArray, int(c&0x0f)
		case c <= 0xbf:
			skip = int(c & 0x1f)
		default:
			f := scanForms[c-0xc0]
			if f.bad {
				return 0, ext, fmt.Errorf("reserved byte c1 at byte %d", i-1)
			}
			kind, width, skip, extra = f.kind, int(f.width), int(f.fixed), int(f.extra)
			ext = ext || extra > 0
		}
		count := uint64(skip)
		if width > 0 {
			if left < width {
				return 0, ext, fmt.Errorf("cut off at byte %d", len(b))
			}
			switch width {
			case 1:
				count = uint64(b[i])
			case 2:
				count = uint64(binary.BigEndian.Uint16(b[i:]))
			case 4:
				count = uint64(binary.BigEndian.Uint32(b[i:]))
			}
			i += width
			left -= width
		}
		if kind == kMap {
			count *= 2
		}
		if kind == kByte {
			count += uint64(extra)
		}
		if count > uint64(left) {
			return 0, ext, fmt.Errorf("a length of %d at byte %d exceeds the %d bytes left", count, i, left)
		}
		if kind == kByte {
			i += int(count)
		} else if count > 0 {
			if depth == maxDepth {
				return 0, ext, fmt.Errorf("nested deeper than %d at byte %d", maxDepth, i)
			}
			open[depth] = count
			depth++
			continue
		}
		// A value is complete: so may be the containers that end with it.
		for depth > 0 {
			open[depth-1]--
			if open[depth-1] > 0 {
				break
			}
			depth--
		}
		if depth == 0 {
			return i, ext, nil
		}
	}
}

const (
	kByte uint8 = iota
	kArray
	kMap
)

// scanForms describes the type bytes c0…df.
var scanForms = [32]struct {
	kind, width, fixed, extra uint8
	bad                       bool
}{
	0xc1 - 0xc0: {bad: true},
	0xc4 - 0xc0: {width: 1}, 0xc5 - 0xc0: {width: 2}, 0xc6 - 0xc0: {width: 4}, // bin
	0xc7 - 0xc0: {width: 1, extra: 1}, 0xc8 - 0xc0: {width: 2, extra: 1}, 0xc9 - 0xc0: {width: 4, extra: 1}, // ext
	0xca - 0xc0: {fixed: 4}, 0xcb - 0xc0: {fixed: 8}, // float
	0xcc - 0xc0: {fixed: 1}, 0xcd - 0xc0: {fixed: 2}, 0xce - 0xc0: {fixed: 4}, 0xcf - 0xc0: {fixed: 8}, // uint
	0xd0 - 0xc0: {fixed: 1}, 0xd1 - 0xc0: {fixed: 2}, 0xd2 - 0xc0: {fixed: 4}, 0xd3 - 0xc0: {fixed: 8}, // int
	0xd4 - 0xc0: {fixed: 1, extra: 1}, 0xd5 - 0xc0: {fixed: 2, extra: 1}, 0xd6 - 0xc0: {fixed: 4, extra: 1}, // fixext
	0xd7 - 0xc0: {fixed: 8, extra: 1}, 0xd8 - 0xc0: {fixed: 16, extra: 1},
	0xd9 - 0xc0: {width: 1}, 0xda - 0xc0: {width: 2}, 0xdb - 0xc0: {width: 4}, // str
	0xdc - 0xc0: {kind: kArray, width: 2}, 0xdd - 0xc0: {kind: kArray, width: 4},
	0xde - 0xc0: {kind: kMap, width: 2}, 0xdf - 0xc0: {kind: kMap, width: 4},
}
