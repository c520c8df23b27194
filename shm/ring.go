package shm

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ring is one direction of a segment as one process sees it. All fields but the spins in the sems are immutable.
type ring struct {
	name     string // "s2w" or "w2s"
	data     []byte // in the segment; its length is the capacity, a power of two
	capacity uint64
	maxFrame uint64
	salt     uint32 // the low half of the incarnation
	mapped   bool   // the race detector does not see it

	tailWord *atomic.Uint64 // in the segment: bytes ever published
	headWord *atomic.Uint64 // in the segment: bytes ever consumed
	items    sem            // the consumer sleeps here
	space    sem            // the producer sleeps here

	closed    *atomic.Bool // this process's
	unmapping *unmapping   // locked by Wake: what it looks at must not be unmapped meanwhile
}

// offset is where position pos lies in data.
func (r *ring) offset(pos uint64) uint64 { return pos & (r.capacity - 1) }

// checkPositions returns what is wrong with a pair of positions, one of them the peer's, or the empty string.
func (r *ring) checkPositions(tail, head uint64) string {
	switch {
	case tail-head > r.capacity: // also if head > tail: the difference wraps
		return "head and tail are further apart than the capacity"
	case (tail-head)%frameAlign != 0:
		return "position is not aligned"
	}
	return ""
}

func (r *ring) protocolError(pos uint64, what string) *ProtocolError {
	return &ProtocolError{Ring: r.name, Position: pos, What: what}
}

// Producer is the sending end of a ring. Its methods may be called by any number of goroutines.
//
// Invariants: head ≤ tail ≤ head + capacity; tail is what was last published, or is about to be; every head
// passed checkPositions.
type Producer struct {
	*ring

	patience time.Duration // immutable once in use; see SetPatience

	waiting atomic.Bool // whoever has mu waits for space
	lengthy atomic.Bool // whoever has mu sends a message of several frames

	mu   sync.Mutex
	tail uint64 // own position
	head uint64 // the peer's position when last looked at
	seq  uint32 // of the next frame
	err  error  // sticky: a *ProtocolError, or that patience ran out
}

// SetPatience bounds how long Send waits for the space of one frame: then it fails with [os.ErrDeadlineExceeded], and so does every later Send. 0, the default, waits for ever.
//
// Preconditions: nobody is in Send.
func (p *Producer) SetPatience(d time.Duration) { p.patience = d }

// Send sends one message, the concatenation of parts, and returns the ring position of its end, for [Producer.Consumed]. It
// blocks while the ring is full, until [Segment.Shutdown]. When it has returned without an error, the message is the peer's, even
// if this process dies at once. On an error the peer never sees the message, though part of it may have gone out.
//
// Preconditions: parts are not all empty.
func (p *Producer) Send(parts ...[]byte) (end uint64, err error) {
	return p.SendIf(nil, parts...)
}

// SendIf is Send for a message that may have become unwanted while it waited: when there is room for its first frame, wanted is asked. If it is not, nothing is sent, and the error is [ErrUnwanted]. Half a message there never is:
// one that has begun is sent to its end. nil: it is wanted.
func (p *Producer) SendIf(wanted func() bool, parts ...[]byte) (end uint64, err error) {
	size := sizeOf(parts)
	p.mu.Lock()
	end, err = p.sendIf(wanted, parts, size)
	p.mu.Unlock()
	return end, p.sent(err)
}

func (p *Producer) sendIf(wanted func() bool, parts [][]byte, size uint64) (end uint64, err error) {
	if wanted != nil {
		if err := p.reserve(p.room(min(size, p.maxFrame))); err != nil {
			return 0, err
		}
		if !wanted() {
			return 0, ErrUnwanted
		}
	}
	return p.send(parts, size)
}

// sent wakes the peer for a message that is in the ring, and returns err. It is called without the lock, so that the next message need not wait for a system call.
func (p *Producer) sent(err error) error {
	if err == nil {
		p.items.post(stepS5)
		crashAt(stepS6, p.name)
	}
	return err
}

// TrySend is Send where that takes no waiting. false: it might, and nothing was sent.
func (p *Producer) TrySend(parts ...[]byte) (end uint64, sent bool, err error) {
	if end, sent, err = p.TryPut(parts...); sent {
		err = p.sent(err)
	}
	return end, sent, err
}

// TryPut is TrySend but for waking the peer: whoever has put a message calls Wake before he waits for anything. A peer that is awake sees it as it is.
func (p *Producer) TryPut(parts ...[]byte) (end uint64, put bool, err error) {
	size := sizeOf(parts)
	for !p.mu.TryLock() {
		if p.waiting.Load() || p.lengthy.Load() {
			return 0, false, nil
		}
		runtime.Gosched() // whoever has the lock only copies a frame
	}
	end, put, err = p.tryPut(parts, size)
	p.mu.Unlock()
	return end, put, err
}

// Wake wakes the peer, if it sleeps, for what was put, also after [Segment.Shutdown]: what was put before that is the peer's. It may be called at any time, by any goroutine; after [Segment.Destroy] it does nothing.
func (p *Producer) Wake() {
	p.unmapping.Lock()
	defer p.unmapping.Unlock()
	if !p.unmapping.done {
		_ = p.sent(nil)
	}
}

func (p *Producer) tryPut(parts [][]byte, size uint64) (end uint64, put bool, err error) {
	if p.err == nil && !p.closed.Load() { // else send says so
		frames := (size + p.maxFrame - 1) / p.maxFrame
		most := (frames + 1) * frameBytes(min(size, p.maxFrame)) // the one more is what a PAD takes at most
		if p.capacity-(p.tail-p.head) < most {
			if err := p.look(p.headWord.Load()); err != nil { // (B) acquire
				return 0, false, err
			}
			if p.capacity-(p.tail-p.head) < most {
				return 0, false, nil
			}
		}
	}
	end, err = p.send(parts, size)
	return end, err == nil, err
}

// sizeOf is how many bytes a message has.
func sizeOf(parts [][]byte) (size uint64) {
	for _, part := range parts {
		size += uint64(len(part))
	}
	if size == 0 {
		panic("shm: Send of an empty message")
	}
	return size
}

// send sends a message of so many bytes, but for waking the peer for its last frame: see sent. Preconditions: mu is held.
func (p *Producer) send(parts [][]byte, left uint64) (end uint64, err error) {
	from := gather{parts: parts}
	if left > p.maxFrame {
		p.lengthy.Store(true)
		defer p.lengthy.Store(false)
	}
	for left > 0 {
		n := min(left, p.maxFrame)
		left -= n
		if err := p.sendFrame(&from, n, left > 0); err != nil {
			return 0, err
		}
		if left > 0 { // the next frame may need the room that this one takes
			_ = p.sent(nil)
		}
	}
	return p.tail, nil
}

// sendFrame sends the next n bytes of a message as one frame, preceded by a PAD if they do not fit before the ring's end.
func (p *Producer) sendFrame(from *gather, n uint64, more bool) error {
	need := frameBytes(n)
	room := p.room(n)
	if err := p.reserve(room); err != nil {
		return err
	}
	pad := room - need
	crashAt(stepS1, p.name)
	start := p.offset(p.tail + pad)
	from.copyTo(p.data[start+frameHeaderBytes:][:n])
	crashAt(stepS2, p.name)
	if pad > 0 {
		p.putHeader(p.offset(p.tail), header{typ: typePad, len: uint32(pad - frameHeaderBytes)})
	}
	h := header{typ: typeData, len: uint32(n)}
	if more {
		h.flags = flagMore
	}
	p.putHeader(start, h)
	crashAt(stepS3, p.name)
	p.tail += pad + need
	if p.mapped {
		raceRelease()
	}
	p.tailWord.Store(p.tail) // (A) release: the frame's bytes come before it
	crashAt(stepS4, p.name)
	return nil
}

// room is how much the next frame takes if it has a payload of n bytes, with the PAD before it, should it need one.
func (p *Producer) room(n uint64) uint64 {
	need := frameBytes(n)
	if left := p.capacity - p.offset(p.tail); need > left {
		return left + need
	}
	return need
}

// reserve waits until n bytes from tail on are free. n is less than half the capacity, so an empty ring always has them.
func (p *Producer) reserve(n uint64) error {
	if p.err != nil {
		return p.err
	}
	if p.closed.Load() {
		return ErrClosed
	}
	for {
		free := p.capacity - (p.tail - p.head)
		if free >= n {
			return nil
		}
		p.waiting.Store(true)
		head, err := p.space.wait(p.headWord, p.head, n-free, p.patience) // (B) acquire: the peer has read what lay there
		p.waiting.Store(false)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				p.err = err // half a message may be out: nothing sensible can follow
			}
			return err
		}
		if err := p.look(head); err != nil {
			return err
		}
	}
}

// look takes over a head loaded from shared memory, if it can be true.
func (p *Producer) look(head uint64) error {
	if wrong := p.checkPositions(p.tail, head); wrong != "" {
		p.err = p.protocolError(p.tail, wrong)
		return p.err
	}
	p.head = head
	return nil
}

// putHeader writes the header of the next frame at off.
func (p *Producer) putHeader(off uint64, h header) {
	h.seq = p.seq
	p.seq++
	low, high := h.encode(p.salt)
	binary.LittleEndian.PutUint64(p.data[off:], low)
	binary.LittleEndian.PutUint64(p.data[off+8:], high)
}

// Consumed reports whether the peer has taken the whole message that ends at end, a result of [Producer.Send]. The answer is
// final once the peer is dead. Consumed waits for a Send that waits for space: call it after [Segment.Shutdown].
//
// Preconditions: end was returned by this producer's Send.
func (p *Producer) Consumed(end uint64) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if end == 0 || end > p.tail {
		panic("shm: Consumed of a position that Send did not return")
	}
	if p.err != nil {
		return false, p.err
	}
	if err := p.look(p.headWord.Load()); err != nil { // (B) acquire
		return false, err
	}
	return p.head >= end, nil
}

// Taken returns the position up to which the peer says that it has read. It is not checked: good for a look at a live peer from outside, and it does not wait for a Send that waits.
func (p *Producer) Taken() uint64 { return p.headWord.Load() }

// gather reads the concatenation of parts from front to back.
type gather struct {
	parts [][]byte // never written to: it is the caller's
	part  int      // the part to go on with
	off   int      // and the offset in it
}

// copyTo fills dst.
//
// Preconditions: at least len(dst) bytes are left.
func (g *gather) copyTo(dst []byte) {
	for len(dst) > 0 {
		n := copy(dst, g.parts[g.part][g.off:])
		dst = dst[n:]
		if g.off += n; g.off == len(g.parts[g.part]) {
			g.part, g.off = g.part+1, 0
		}
	}
}

// Consumer is the receiving end of a ring, for one goroutine at a time.
//
// Invariants: head ≤ tail ≤ head + capacity; head is what was last published; every tail passed checkPositions.
type Consumer struct {
	*ring

	head uint64 // own position
	tail uint64 // the peer's position when last looked at
	last bool   // tail was loaded after the close: nothing beyond it counts
	seq  uint32 // that the next frame must have
	err  error  // sticky

	patience time.Duration   // immutable once in use; see SetPatience
	waits    func()          // immutable once in use; see BeforeWaiting
	first    [HeadBytes]byte // what a message begins with, while it is decided whether to keep it
}

// HeadBytes is how much of a message's beginning [Consumer.RecvIf] shows, in bytes.
const HeadBytes = 64

// SetPatience bounds how long Recv waits for the next frame of a message that has begun: then it fails with [os.ErrDeadlineExceeded]. 0, the default, waits for ever.
//
// Preconditions: nobody is in Recv.
func (c *Consumer) SetPatience(d time.Duration) { c.patience = d }

// BeforeWaiting has f called whenever Recv has nothing to go on with, before it waits, and before it goes on with a message of several frames, which takes its time.
//
// Preconditions: nobody is in Recv.
func (c *Consumer) BeforeWaiting(f func()) { c.waits = f }

// Pending reports whether there is something for Recv to begin with. Preconditions: nobody is in Recv.
func (c *Consumer) Pending() bool { return c.tail != c.head || c.tailWord.Load() != c.head }

// Recv appends the next message to buf[:0], growing it if it is too small, and returns the result. It blocks until there is a
// message or [Segment.Shutdown] is called; even then it first delivers every message that was complete in the ring. A message of
// more than limit bytes is the peer's mistake. buf is not kept. After an error Recv returns the same error for ever.
//
// Preconditions: limit > 0, and no other Recv on this consumer is running.
func (c *Consumer) Recv(buf []byte, limit int) ([]byte, error) {
	return c.RecvIf(buf, limit, nil)
}

// RecvIf is Recv for messages that there may be no room for. Before each frame is copied, keep is asked whether size bytes of the message are to be kept; head is its beginning,
// at most [HeadBytes] of it, and the same each time. If they are not, the message is taken out of the ring to its end without being kept, and the error is a [*DroppedError], which is not final.
func (c *Consumer) RecvIf(buf []byte, limit int, keep func(head []byte, size int) bool) ([]byte, error) {
	if limit <= 0 {
		panic("shm: Recv with a limit that is not positive")
	}
	if c.err != nil {
		return nil, c.err
	}
	m := incoming{bytes: buf[:0]}
	for more := true; more; {
		if more, c.err = c.recvFrame(&m, limit, keep); c.err != nil {
			return nil, c.err
		}
	}
	if m.dropped {
		return nil, &DroppedError{Head: m.bytes, Size: m.size}
	}
	return m.bytes, nil
}

// incoming is a message that is being received.
type incoming struct {
	bytes   []byte // so far; if it is dropped, its beginning
	size    int    // so far
	dropped bool
}

// recvFrame takes one frame, adds its payload to m and reports whether the message goes on.
func (c *Consumer) recvFrame(m *incoming, limit int, keep func([]byte, int) bool) (more bool, err error) {
	if c.waits != nil && (m.size > 0 || c.tail == c.head && c.tailWord.Load() == c.head) {
		c.waits()
	}
	if c.tail == c.head {
		if c.last {
			return false, ErrClosed
		}
		patience := time.Duration(0)
		if m.size > 0 {
			patience = c.patience
		}
		c.last = c.closed.Load()                                   // before tail, which then covers all that was committed before the close
		tail, err := c.items.wait(c.tailWord, c.head, 1, patience) // (A) acquire: the frames' bytes are there
		if err != nil {
			return false, err
		}
		if wrong := c.checkPositions(tail, c.head); wrong != "" {
			return false, c.protocolError(c.head, wrong)
		}
		c.tail = tail
		if c.mapped {
			raceAcquire()
		}
	}
	crashAt(stepR1, c.name)
	off := c.offset(c.head)
	// Loaded once and into private memory: the peer may change the original while it is being checked.
	low, high := word64(c.data, off).Load(), word64(c.data, off+8).Load()
	h, wrong := parseHeader(low, high, place{
		salt: c.salt, seq: c.seq, avail: c.tail - c.head, room: c.capacity - off, maxFrame: c.maxFrame,
	})
	if wrong != "" {
		return false, c.protocolError(c.head, wrong)
	}
	crashAt(stepR2, c.name)
	n := uint64(h.len)
	if h.typ == typeData {
		if n > uint64(limit-m.size) {
			return false, c.protocolError(c.head, "message is longer than the limit")
		}
		c.add(m, c.data[off+frameHeaderBytes:][:n], keep)
	}
	crashAt(stepR3, c.name)
	c.head += frameBytes(n)
	c.seq++
	c.headWord.Store(c.head) // (B) release: what lay there was read before it
	crashAt(stepR4, c.name)
	c.space.post(stepR5)
	crashAt(stepR6, c.name)
	return h.typ == typePad || h.flags&flagMore != 0, nil
}

// add adds a frame's payload, which lies in shared memory and is read once, to m.
func (c *Consumer) add(m *incoming, payload []byte, keep func([]byte, int) bool) {
	begins := m.size == 0
	m.size += len(payload)
	switch {
	case m.dropped:
	case begins && keep == nil:
		m.bytes = append(m.bytes, payload...)
	case !begins && (keep == nil || keep(m.bytes[:min(len(m.bytes), HeadBytes)], m.size)):
		if cap(m.bytes)-len(m.bytes) < len(payload) { // append would grow it by a quarter at a time, and copy a long message many times over
			m.bytes = slices.Grow(m.bytes, max(len(payload), len(m.bytes)))
		}
		m.bytes = append(m.bytes, payload...)
	case !begins:
		m.bytes, m.dropped = slices.Clone(m.bytes[:min(len(m.bytes), HeadBytes)]), true
	default:
		head := c.first[:copy(c.first[:], payload)]
		if !keep(head, m.size) {
			m.bytes, m.dropped = slices.Clone(head), true
			return
		}
		m.bytes = append(slices.Grow(m.bytes, len(payload)), head...)
		m.bytes = append(m.bytes, payload[len(head):]...)
	}
}
