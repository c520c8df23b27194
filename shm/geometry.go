package shm

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
	"math/rand/v2"
)

// Geometry is what both sides of a segment have to agree on. The creator chooses it, the segment's header carries it.
type Geometry struct {
	S2W         uint64 // capacity of the ring supervisor → worker in bytes: a power of two, 4 KiB to 1 GiB; 0: 4 MiB
	W2S         uint64 // capacity of the ring worker → supervisor, likewise
	MaxFrame    uint64 // longest payload of one frame in bytes: 64 to a quarter of the smaller capacity less 16; 0: that much
	Bell        bool   // the supervisor sleeps at its bell, and the worker too when it waits for messages; see [Bell]
	Eventfd     bool   // the supervisor sleeps at an eventfd instead when it waits for messages
	Socket      bool   // the worker sleeps at a socket instead when it waits for messages
	Incarnation uint64 // tells this segment's frames from any other's; 0: random
}

const defaultCapacity = 4 << 20

// withDefaults fills in what was left 0.
func (g Geometry) withDefaults() Geometry {
	if g.S2W == 0 {
		g.S2W = defaultCapacity
	}
	if g.W2S == 0 {
		g.W2S = defaultCapacity
	}
	if g.MaxFrame == 0 {
		g.MaxFrame = g.maxFrameLimit()
	}
	for g.Incarnation == 0 {
		g.Incarnation = rand.Uint64()
	}
	return g
}

// maxFrameLimit keeps a frame and the PAD before it well below a ring's capacity, so that a sender never waits for room that
// cannot come.
func (g Geometry) maxFrameLimit() uint64 { return min(g.S2W, g.W2S)/4 - frameHeaderBytes }

func (g Geometry) flags() uint32 {
	var flags uint32
	for _, f := range []struct {
		set  bool
		flag uint32
	}{{g.Bell, flagBell}, {g.Eventfd, flagEventfd}, {g.Socket, flagSocket}} {
		if f.set {
			flags |= f.flag
		}
	}
	return flags
}

// Bytes is how large the segment is.
//
// Preconditions: the capacities are filled in.
func (g Geometry) Bytes() uint64 { return headerBytes + g.S2W + g.W2S }

// validate names the first field that breaks a rule.
func (g Geometry) validate() error {
	for _, ring := range []struct {
		name     string
		capacity uint64
	}{{"S2W", g.S2W}, {"W2S", g.W2S}} {
		if bits.OnesCount64(ring.capacity) != 1 || ring.capacity < minCapacity || ring.capacity > maxCapacity {
			return fmt.Errorf("%s capacity is %d, want a power of two from %d to %d",
				ring.name, ring.capacity, minCapacity, maxCapacity)
		}
	}
	if g.MaxFrame < minMaxFrame || g.MaxFrame > g.maxFrameLimit() {
		return fmt.Errorf("max frame is %d, want %d to %d", g.MaxFrame, minMaxFrame, g.maxFrameLimit())
	}
	if g.Incarnation == 0 {
		return fmt.Errorf("incarnation is 0")
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeGeometry writes the immutable part of the header.
func encodeGeometry(b []byte, g Geometry, pid uint32) {
	le := binary.LittleEndian
	copy(b[offMagic:], magic)
	le.PutUint32(b[offVersion:], version)
	le.PutUint32(b[offHeaderBytes:], headerBytes)
	le.PutUint64(b[offSegmentBytes:], g.Bytes())
	le.PutUint64(b[offIncarnation:], g.Incarnation)
	le.PutUint32(b[offPID:], pid)
	le.PutUint32(b[offFlags:], g.flags())
	le.PutUint64(b[offMaxFrame:], g.MaxFrame)
	le.PutUint64(b[offS2WOffset:], headerBytes)
	le.PutUint64(b[offS2WCapacity:], g.S2W)
	le.PutUint64(b[offW2SOffset:], headerBytes+g.S2W)
	le.PutUint64(b[offW2SCapacity:], g.W2S)
	le.PutUint32(b[offCRC:], crc32.Checksum(b[:offCRC], castagnoli))
}

// decodeGeometry reads and checks the header of a segment of size bytes. Its errors are of type *ProtocolError.
//
// Preconditions: b has at least geometryBytes and is private memory.
func decodeGeometry(b []byte, size uint64) (Geometry, error) {
	le := binary.LittleEndian
	g := Geometry{
		S2W:         le.Uint64(b[offS2WCapacity:]),
		W2S:         le.Uint64(b[offW2SCapacity:]),
		MaxFrame:    le.Uint64(b[offMaxFrame:]),
		Incarnation: le.Uint64(b[offIncarnation:]),
		Bell:        le.Uint32(b[offFlags:])&flagBell != 0,
		Eventfd:     le.Uint32(b[offFlags:])&flagEventfd != 0,
		Socket:      le.Uint32(b[offFlags:])&flagSocket != 0,
	}
	if got := string(b[offMagic : offMagic+len(magic)]); got != magic {
		return Geometry{}, geometryError("magic is %q, want %q", got, magic)
	}
	if got := le.Uint32(b[offVersion:]); got != version {
		return Geometry{}, geometryError("version is %d, want %d", got, version)
	}
	if got, want := le.Uint32(b[offCRC:]), crc32.Checksum(b[:offCRC], castagnoli); got != want {
		return Geometry{}, geometryError("checksum is %#x, want %#x", got, want)
	}
	if err := g.validate(); err != nil { // before anything is computed from the capacities
		return Geometry{}, geometryError("%v", err)
	}
	for _, field := range []struct {
		name      string
		got, want uint64
	}{
		{"header size", uint64(le.Uint32(b[offHeaderBytes:])), headerBytes},
		{"flags", uint64(le.Uint32(b[offFlags:])), uint64(g.flags())}, // no others are known
		{"s2w offset", le.Uint64(b[offS2WOffset:]), headerBytes},
		{"w2s offset", le.Uint64(b[offW2SOffset:]), headerBytes + g.S2W},
		{"segment size", le.Uint64(b[offSegmentBytes:]), g.Bytes()},
		{"file size", size, g.Bytes()},
	} {
		if field.got != field.want {
			return Geometry{}, geometryError("%s is %#x, want %#x", field.name, field.got, field.want)
		}
	}
	return g, nil
}

func geometryError(format string, args ...any) error {
	return &ProtocolError{What: fmt.Sprintf(format, args...)}
}
