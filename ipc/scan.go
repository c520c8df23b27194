package ipc

import (
	"encoding/binary"
	"fmt"
	"math"
)

// maxDepth is how deeply arrays and maps may be nested in a message, the message's own array included.
const maxDepth = 64

// Scan reports whether b is exactly one well-formed MessagePack value that is safe to hand to a decoder: every byte length lies inside b, every declared array or map could
// fit its elements into the bytes that are left (so nobody allocates for elements that cannot exist), nesting is at most 64 deep, the reserved byte c1 does not occur and nothing follows the value. It
// is one linear pass without recursion or allocation.
//
// vmihailenco/msgpack needs this: five bytes (dd ff ff ff ff) decoded into an `any` end the process with an out-of-memory (vmihailenco/msgpack#376).
func Scan(b []byte) error {
	var s scanner
	return s.whole(b)
}

// scanner is a scan and what else it has found out.
type scanner struct {
	within int  // how many containers are around what is scanned, which may be nested so much less
	ext    bool // there is a value of an extension type, such as a timestamp, somewhere
}

// whole is [Scan].
func (s *scanner) whole(b []byte) error {
	n, err := s.value(b)
	if err == nil && n != len(b) {
		err = fmt.Errorf("%d bytes follow the value", len(b)-n)
	}
	return err
}

// value checks the first value in b and returns its length.
func (s *scanner) value(b []byte) (int, error) { return s.values(b, 1) }

// values checks the first so many values in b, one at least, and returns their length.
func (s *scanner) values(b []byte, count uint32) (int, error) {
	if uint64(len(b)) > math.MaxUint32 {
		return 0, fmt.Errorf("%d bytes are too many for one value", len(b))
	}
	var outer [maxDepth]uint32 // elements still to come in the containers around the innermost open one
	most := maxDepth - s.within
	depth := 0    // open containers
	left := count // elements still to come in the innermost, or at depth 0 the values themselves
	for i := 0; ; {
		if i >= len(b) {
			return 0, fmt.Errorf("cut off at byte %d", i)
		}
		form := &scanForms[b[i]]
		i++
		n := uint64(form.fixed)
		if form.width > 0 {
			if len(b)-i < int(form.width) {
				return 0, fmt.Errorf("cut off at byte %d", len(b))
			}
			var length uint64
			switch form.width {
			case 1:
				length = uint64(b[i])
			case 2:
				length = uint64(binary.BigEndian.Uint16(b[i:]))
			case 4:
				length = uint64(binary.BigEndian.Uint32(b[i:]))
			}
			i += int(form.width)
			n += length * uint64(form.each)
		}
		if n > uint64(len(b)-i) {
			return 0, fmt.Errorf("a length of %d at byte %d exceeds the %d bytes left", n, i, len(b)-i)
		}
		switch form.kind {
		case isBytes:
			i += int(n)
		case isExt:
			s.ext = true
			i += int(n)
		case isContainer:
			if n == 0 {
				break
			}
			if depth == most {
				return 0, fmt.Errorf("nested deeper than %d at byte %d", most, i)
			}
			outer[depth], left = left, uint32(n)
			depth++
			continue
		case isReserved:
			return 0, fmt.Errorf("reserved byte %02x at byte %d", b[i-1], i-1)
		}
		// A value is complete: so may be the containers that end with it.
		for {
			left--
			if left > 0 {
				break
			}
			if depth == 0 {
				return i, nil
			}
			depth--
			left = outer[depth]
		}
	}
}

const (
	isBytes     uint8 = iota // numbers, strings, binaries and what else has nothing inside
	isExt                    // the same, of an extension type
	isContainer              // arrays and maps: what is counted are values
	isReserved
)

// scanForm describes what a type byte announces: fixed + each × (a length of width bytes) bytes or values.
type scanForm struct {
	kind, width, fixed, each uint8
}

var scanForms = func() (forms [256]scanForm) {
	for c := 0x80; c <= 0x8f; c++ {
		forms[c] = scanForm{kind: isContainer, fixed: uint8(2 * (c - 0x80))}
	}
	for c := 0x90; c <= 0x9f; c++ {
		forms[c] = scanForm{kind: isContainer, fixed: uint8(c - 0x90)}
	}
	for c := 0xa0; c <= 0xbf; c++ {
		forms[c] = scanForm{fixed: uint8(c - 0xa0)}
	}
	forms[0xc1] = scanForm{kind: isReserved}
	for i := range 3 {
		width := uint8(1) << i
		forms[0xc4+i] = scanForm{width: width, each: 1}                        // bin
		forms[0xc7+i] = scanForm{kind: isExt, width: width, each: 1, fixed: 1} // ext: and its type
		forms[0xd9+i] = scanForm{width: width, each: 1}                        // str
	}
	forms[0xca], forms[0xcb] = scanForm{fixed: 4}, scanForm{fixed: 8} // float
	for i := range 4 {
		forms[0xcc+i] = scanForm{fixed: 1 << i} // uint
		forms[0xd0+i] = scanForm{fixed: 1 << i} // int
	}
	for i := range 5 {
		forms[0xd4+i] = scanForm{kind: isExt, fixed: 1<<i + 1} // fixext
	}
	for i := range 2 {
		width := uint8(2) << i
		forms[0xdc+i] = scanForm{kind: isContainer, width: width, each: 1} // array
		forms[0xde+i] = scanForm{kind: isContainer, width: width, each: 2} // map
	}
	return forms
}()
