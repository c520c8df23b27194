// Package traceparent reads and writes the W3C's traceparent, by which a request says which trace it belongs to and which span it comes from (https://www.w3.org/TR/trace-context/).
package traceparent

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
)

// Length is how long a traceparent of version 00 is, in bytes.
const Length = 55

// Sampled is the flag of a trace that is recorded.
const Sampled = 1

// Parent is what a traceparent says. The zero value is none.
type Parent struct {
	Trace [16]byte
	Span  [8]byte
	Flags byte
}

// Parse reads a traceparent. false: it is none, and is to be taken for none, as the standard wants it. Versions to come may have more at the end, which is left alone.
func Parse(s string) (p Parent, ok bool) {
	if len(s) < Length || s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" {
		return Parent{}, false
	}
	if len(s) > Length && (s[:2] == "00" || s[Length] != '-') {
		return Parent{}, false
	}
	var version, flags [1]byte
	if !digits(version[:], s[:2]) || !digits(p.Trace[:], s[3:35]) || !digits(p.Span[:], s[36:52]) || !digits(flags[:], s[53:Length]) {
		return Parent{}, false
	}
	p.Flags = flags[0]
	return p, p.Valid()
}

// digits reads hexadecimal digits, of which the standard has lower-case ones only.
func digits(into []byte, s string) bool {
	for i := range into {
		high, low := digit(s[2*i]), digit(s[2*i+1])
		if high > 15 || low > 15 {
			return false
		}
		into[i] = high<<4 | low
	}
	return true
}

func digit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// Valid reports whether neither the trace nor the span is nought, which stands for none.
func (p Parent) Valid() bool { return p.Trace != [16]byte{} && p.Span != [8]byte{} }

// String is the traceparent, of version 00.
func (p Parent) String() string {
	b := make([]byte, 0, Length)
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, p.Trace[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, p.Span[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, []byte{p.Flags})
	return string(b)
}

// NewTrace returns the number of a new trace.
func NewTrace() (id [16]byte) {
	binary.BigEndian.PutUint64(id[:8], rand.Uint64())
	binary.BigEndian.PutUint64(id[8:], rand.Uint64()|1) // not nought
	return id
}

// NewSpan returns the number of a new span.
func NewSpan() (id [8]byte) {
	binary.BigEndian.PutUint64(id[:], rand.Uint64()|1)
	return id
}
