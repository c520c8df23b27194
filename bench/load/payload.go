package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
)

// MinSize is the least size of a payload that carries a stamp at both ends.
const MinSize = 16

// ErrWrong is the error of an answer that is not what it must be.
var ErrWrong = errors.New("the answer is wrong")

// Payload is what a requester sends: random bytes, and a serial number at both ends that makes each request unlike every other.
type Payload struct {
	Bytes  []byte
	serial uint64 // of the last stamp; its upper half is the requester's number
}

// NewPayload makes the payload of a requester. It panics if size is less than [MinSize].
func NewPayload(size, requester int) *Payload { return payloadIn(make([]byte, size), requester) }

// payloadIn makes one that lies in b.
func payloadIn(b []byte, requester int) *Payload {
	if len(b) < MinSize {
		panic("load: a payload needs room for its two stamps")
	}
	p := &Payload{Bytes: b, serial: uint64(requester) << 32}
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(requester))
	_, _ = rand.NewChaCha8(seed).Read(p.Bytes)
	return p
}

// Stamp makes the payload that of the next request.
func (p *Payload) Stamp() {
	p.serial++
	binary.LittleEndian.PutUint64(p.Bytes, p.serial)
	binary.LittleEndian.PutUint64(p.Bytes[len(p.Bytes)-8:], ^p.serial)
}

// Check looks at an answer. whole asks for every byte; without it the check is to be so cheap that it does not show beside the request.
type Check func(p *Payload, answer []byte, whole bool) error

// Echoed is the check of an answer that must be what was sent: its length and both its stamps, or all of it.
func Echoed(p *Payload, answer []byte, whole bool) error {
	n := len(p.Bytes)
	switch {
	case len(answer) != n, whole && !bytes.Equal(answer, p.Bytes), !bytes.Equal(answer[:8], p.Bytes[:8]), !bytes.Equal(answer[n-8:], p.Bytes[n-8:]):
		return ErrWrong
	}
	return nil
}

// Anything accepts whatever was answered.
func Anything(*Payload, []byte, bool) error { return nil }
