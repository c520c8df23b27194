package shm

// The segment's layout, version 1. All integers are little-endian, all offsets and sizes are bytes.
//
//	0x0000 ┌────────────────────────────┐
//	       │ geometry, crc (immutable)  │ 0x000 … 0x053
//	0x0080 │ supervisor state           │ supervisor writes
//	0x0100 │ worker state               │ worker writes, advisory
//	0x1000 │ s2w ring header            │ supervisor → worker
//	0x1400 │ w2s ring header            │ worker → supervisor
//	0x2000 ├────────────────────────────┤
//	       │ s2w bytes                  │ capacity: a power of two
//	       ├────────────────────────────┤
//	       │ w2s bytes                  │ capacity: a power of two
//	       └────────────────────────────┘
const (
	version     = 1
	headerBytes = 0x2000 // everything before the rings' bytes

	minCapacity = 4 << 10
	maxCapacity = 1 << 30
	minMaxFrame = 64

	minSegment int64 = headerBytes + 2*minCapacity
	maxSegment int64 = headerBytes + 2*maxCapacity
)

// magic opens every segment.
const magic = "RNGSHM\x00\x01"

// Geometry: written once by the creator, covered by the checksum.
const (
	offMagic        = 0x000 // u8[8]
	offVersion      = 0x008 // u32
	offHeaderBytes  = 0x00C // u32
	offSegmentBytes = 0x010 // u64: the memfd's size
	offIncarnation  = 0x018 // u64: random, not 0
	offPID          = 0x020 // u32: the supervisor's, for information only
	offFlags        = 0x024 // u32: of flagBell, flagEventfd and flagSocket
	offMaxFrame     = 0x028 // u64: largest payload of one frame
	offS2WOffset    = 0x030 // u64
	offS2WCapacity  = 0x038 // u64
	offW2SOffset    = 0x040 // u64
	offW2SCapacity  = 0x048 // u64
	offCRC          = 0x050 // u32: CRC-32C of everything before it
	geometryBytes   = 0x054
)

// flagBell: the supervisor sleeps at its bell for items and for space, the worker for items; see [Bell].
const flagBell = 1 << 0

// flagEventfd: the supervisor sleeps at an eventfd for items; see [Segment.Eventfd].
const flagEventfd = 1 << 1

// flagSocket: the worker sleeps at a socket for items; see [Segment.Socket].
const flagSocket = 1 << 2

// Advisory words: each side writes its own line and the other may look.
const (
	offSupervisorState = 0x080 // u32
	offWorkerState     = 0x100 // u32
	offWorkerPID       = 0x104 // u32
	offWorkerBeat      = 0x108 // u64: CLOCK_MONOTONIC ns
	offWorkerRequest   = 0x110 // u64: id, 0 if none
	offWorkerSince     = 0x118 // u64: CLOCK_MONOTONIC ns
)

// Ring headers. Words with different writers lie 128 bytes apart: two cache lines, because processors prefetch lines in pairs.
//
//	+0x000 tail            producer writes   bytes ever published
//	+0x080 head            consumer writes   bytes ever consumed
//	+0x100 items.count     both              the consumer sleeps here
//	+0x104 items.waiters   both
//	+0x180 space.count     both              the producer sleeps here
//	+0x184 space.waiters   both
const (
	offS2W = 0x1000
	offW2S = 0x1400

	offTail    = 0x000 // u64
	offHead    = 0x080 // u64
	offItems   = 0x100 // semaphore
	offSpace   = 0x180 // semaphore
	offCount   = 0x000 // u32, in a semaphore
	offWaiters = 0x004 // u32, in a semaphore
)

// Frames. Each starts at a multiple of frameAlign, so that a PAD's header always fits before the ring's end.
//
//	0        4     6     8      12      16
//	├─ len ──┼type─┼flags┼─ seq ┼ guard ┼── payload (len bytes) ──┼─ 0…15 bytes of padding ─┤
//	  u32     u16   u16    u32    u32
//	└────── low word ────┴── high word ─┘
const (
	frameAlign       = 16
	frameHeaderBytes = 16

	typeData = 1
	typePad  = 2
	flagMore = 1 << 0 // DATA only: the message goes on in the next DATA frame

	guardMagic = 0x5AFEC0DE
)
