// Package proof makes answers that only the right request can have: each is a function of the request's nonce and of all its bytes, so that an answer that was mixed up with another's, cut or
// scribbled over is seen by whoever asked. The chaos workers (in Go, and once more in Python) make such answers, and package bench/chaos checks them.
package proof

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Sum is the SHA-256 of a nonce, data and tensors, in hex.
func Sum(nonce string, data []byte, tensors []ipc.Tensor) string {
	h := sha256.New()
	h.Write([]byte(nonce))
	h.Write(data)
	for _, t := range tensors {
		h.Write([]byte(t.Name))
		h.Write(t.Data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Mask is what a nonce's tensors are changed by.
func Mask(nonce string) uint64 {
	sum := sha256.Sum256([]byte(nonce))
	return binary.LittleEndian.Uint64(sum[:])
}

// Mix returns data with each of its little-endian 64-bit words XORed with mask. A tail of less than 8 bytes stays as it is.
func Mix(data []byte, mask uint64) []byte {
	mixed := make([]byte, len(data))
	MixInto(mixed, data, mask)
	return mixed
}

// MixInto is [Mix] into memory that is there already. Preconditions: to has as many bytes as data.
func MixInto(to, data []byte, mask uint64) {
	n := len(data) &^ 7
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(to[i:], binary.LittleEndian.Uint64(data[i:])^mask)
	}
	copy(to[n:], data[n:])
}

// Chain makes the chunks of a stream: each depends on the nonce and on every chunk before it.
type Chain struct {
	state [sha256.Size]byte
}

// NewChain begins a stream.
func NewChain(nonce string) *Chain { return &Chain{state: sha256.Sum256([]byte(nonce))} }

// Next returns the next chunk's bytes, size of them, and the checksum of all there has been.
func (c *Chain) Next(size int) (data []byte, sum string) {
	data = make([]byte, size)
	for rest := data; len(rest) > 0; {
		rest = rest[copy(rest, c.state[:]):]
	}
	h := sha256.New()
	h.Write(c.state[:])
	h.Write(data)
	h.Sum(c.state[:0])
	return data, hex.EncodeToString(c.state[:])
}
