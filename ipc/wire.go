package ipc

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"
)

// MessagePack's bytes, written append-style and read without copying. Only the envelope needs this; bodies are the user's and go through a library.

const codeNil = 0xc0

// inlineBlob is the size in bytes up to which a blob is copied into the envelope's buffer; a larger one becomes a part of its own, so that it is copied once, into the ring.
const inlineBlob = 4 << 10

// encoder gathers one message as a list of parts.
type encoder struct {
	buf   []byte
	mark  int // buf[mark:] is not yet in parts
	parts [][]byte
}

var encoders = sync.Pool{New: func() any { return &encoder{buf: make([]byte, 0, 1024)} }}

func newEncoder() *encoder { return encoders.Get().(*encoder) }

// free drops the references to the caller's blobs and gives the encoder back.
func (e *encoder) free() {
	clear(e.parts)
	e.buf, e.mark, e.parts = e.buf[:0], 0, e.parts[:0]
	if cap(e.buf) <= 64<<10 {
		encoders.Put(e)
	}
}

// message returns the parts and their total length.
func (e *encoder) message() (parts [][]byte, size int) {
	if e.mark < len(e.buf) {
		e.parts = append(e.parts, e.buf[e.mark:])
		e.mark = len(e.buf)
	}
	for _, p := range e.parts {
		size += len(p)
	}
	return e.parts, size
}

// raw appends blob to b, which is buf and what was appended to it since, or makes a large one a part of its own.
func (e *encoder) raw(b, blob []byte) []byte {
	if len(blob) <= inlineBlob {
		return append(b, blob...)
	}
	if e.mark < len(b) {
		e.parts = append(e.parts, b[e.mark:])
	}
	e.parts = append(e.parts, blob)
	e.mark = len(b)
	return b
}

func (e *encoder) bin(b, blob []byte) []byte {
	return e.raw(appendLength(b, len(blob), 0, -1, 0xc4, 0xc5, 0xc6), blob)
}

func (e *encoder) uint(v uint64) { e.buf = appendUint(e.buf, v) }
func (e *encoder) array(n int)   { e.buf = appendArray(e.buf, n) }
func (e *encoder) mapping(n int) { e.buf = appendMap(e.buf, n) }
func (e *encoder) str(s string)  { e.buf = appendStr(e.buf, s) }

func appendUint(b []byte, v uint64) []byte {
	switch {
	case v <= 0x7f:
		return append(b, byte(v))
	case v <= math.MaxUint8:
		return append(b, 0xcc, byte(v))
	case v <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, 0xcd), uint16(v))
	case v <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xcf), v)
}

func appendLength(b []byte, n int, fix byte, fixMax int, c8, c16, c32 byte) []byte {
	switch {
	case n <= fixMax:
		return append(b, fix|byte(n))
	case n <= math.MaxUint8 && c8 != 0:
		return append(b, c8, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, c16), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(b, c32), uint32(n))
}

func appendArray(b []byte, n int) []byte { return appendLength(b, n, 0x90, 15, 0, 0xdc, 0xdd) }
func appendMap(b []byte, n int) []byte   { return appendLength(b, n, 0x80, 15, 0, 0xde, 0xdf) }

func appendStr(b []byte, s string) []byte {
	return append(appendLength(b, len(s), 0xa0, 31, 0xd9, 0xda, 0xdb), s...)
}

// reader reads the values of a message. Nothing that it reads is believed: a length is held against the bytes that are left. The first value that is not what it should be sets err and makes all later reads return zero values.
type reader struct {
	b   []byte
	at  int // b[at:] is unread
	err error
}

func (r *reader) fail(want string) {
	if r.err == nil {
		c := "nothing"
		if r.at < len(r.b) {
			c = fmt.Sprintf("type byte %02x", r.b[r.at])
		}
		r.failf("expected %s, got %s", want, c)
	}
}

func (r *reader) failf(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.b, r.at = nil, 0
}

// null consumes a nil, if one is next.
func (r *reader) null() bool {
	if r.at < len(r.b) && r.b[r.at] == codeNil {
		r.at++
		return true
	}
	return false
}

// uint reads an unsigned integer; nil is 0.
func (r *reader) uint() uint64 {
	if r.at < len(r.b) && r.b[r.at] <= 0x7f {
		r.at++
		return uint64(r.b[r.at-1])
	}
	if r.null() {
		return 0
	}
	return r.number()
}

// number reads an unsigned integer that has no default.
func (r *reader) number() uint64 {
	if r.at >= len(r.b) {
		r.fail("an unsigned integer")
		return 0
	}
	c, p := r.b[r.at], r.b[r.at+1:]
	var v uint64
	var n int
	switch {
	case c <= 0x7f:
		v = uint64(c)
	case c == 0xcc && len(p) >= 1, c == 0xd0 && len(p) >= 1 && p[0] < 0x80:
		v, n = uint64(p[0]), 1
	case c == 0xcd && len(p) >= 2, c == 0xd1 && len(p) >= 2 && p[0] < 0x80:
		v, n = uint64(binary.BigEndian.Uint16(p)), 2
	case c == 0xce && len(p) >= 4, c == 0xd2 && len(p) >= 4 && p[0] < 0x80:
		v, n = uint64(binary.BigEndian.Uint32(p)), 4
	case c == 0xcf && len(p) >= 8, c == 0xd3 && len(p) >= 8 && p[0] < 0x80:
		v, n = binary.BigEndian.Uint64(p), 8
	default:
		r.fail("an unsigned integer")
		return 0
	}
	r.at += 1 + n
	return v
}

// uint32 reads an unsigned integer and clamps it to 32 bits.
func (r *reader) uint32() uint32 { return uint32(min(r.uint(), math.MaxUint32)) }

// short reads a length that is part of its type byte, between fix and fix+most, or returns -1.
func (r *reader) short(fix, most byte) int {
	if r.at < len(r.b) {
		if n := r.b[r.at] - fix; n <= most {
			r.at++
			return int(n)
		}
	}
	return -1
}

// long reads a length that follows one of these type bytes; nil is 0.
func (r *reader) long(what string, c8, c16, c32 byte) int {
	if r.null() {
		return 0
	}
	if r.at < len(r.b) {
		c, p := r.b[r.at], r.b[r.at+1:]
		switch {
		case c8 != 0 && c == c8 && len(p) >= 1:
			r.at += 2
			return int(p[0])
		case c == c16 && len(p) >= 2:
			r.at += 3
			return int(binary.BigEndian.Uint16(p))
		case c == c32 && len(p) >= 4:
			r.at += 5
			return int(min(uint64(binary.BigEndian.Uint32(p)), math.MaxInt)) // not negative where an int has 32 bits
		}
	}
	r.fail(what)
	return 0
}

func (r *reader) take(n int, what string) []byte {
	if n > len(r.b)-r.at {
		r.fail(what)
		return nil
	}
	b := r.b[r.at : r.at+n : r.at+n]
	r.at += n
	return b
}

// array reads how many values follow that are an array. It may be more than there is room for: see [reader.most].
func (r *reader) array() int {
	if n := r.short(0x90, 15); n >= 0 {
		return n
	}
	return r.long("an array", 0, 0xdc, 0xdd)
}

// mapping reads how many pairs follow that are a map, likewise.
func (r *reader) mapping() int {
	if n := r.short(0x80, 15); n >= 0 {
		return n
	}
	return r.long("a map", 0, 0xde, 0xdf)
}

func (r *reader) str() string { return string(r.text()) }

// text returns a string's bytes.
func (r *reader) text() []byte {
	n := r.short(0xa0, 31)
	if n < 0 {
		n = r.long("a string", 0xd9, 0xda, 0xdb)
	}
	return r.take(n, "a string")
}

// maxAgain is the longest string that is remembered, in bytes.
const maxAgain = 256

// again reads a string that may well be the last one of its kind, which then costs nothing.
func (r *reader) again(last *string) string {
	b := r.text()
	if string(b) == *last {
		return *last
	}
	s := string(b)
	if len(s) <= maxAgain {
		*last = s
	}
	return s
}

// dtype reads the name of a type; those that there are cost nothing.
func (r *reader) dtype() string {
	b := r.text()
	if i := slices.IndexFunc(dtypeNames, func(name string) bool { return name == string(b) }); i >= 0 {
		return dtypeNames[i]
	}
	return string(b)
}

func (r *reader) bin() []byte {
	return r.take(r.long("a binary", 0xc4, 0xc5, 0xc6), "a binary")
}

// value takes the next value, whatever it is, which lies in so many containers; nil for a MessagePack nil.
func (r *reader) value(within int) []byte {
	if r.null() || r.err != nil {
		return nil
	}
	s := scanner{within: within}
	n, err := s.value(r.b[r.at:])
	if err != nil {
		r.failf("%w", err)
		return nil
	}
	return r.take(n, "a value")
}

// skip passes over the next n values, likewise.
func (r *reader) skip(n, within int) {
	if n <= 0 || r.err != nil {
		return
	}
	s := scanner{within: within}
	size, err := s.values(r.b[r.at:], uint32(n))
	if err != nil {
		r.failf("%w", err)
		return
	}
	r.take(size, "values of a later version")
}
