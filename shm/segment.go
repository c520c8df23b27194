package shm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

// Segment is one process's view of the memory shared with one incarnation of a worker.
//
//	Create ─┐                          ┌──────────┐ Shutdown  ┌───────────┐ Destroy
//	Open ───┼─▶ Supervisor or Worker ─▶│ in use   │──────────▶│ shut down │────────▶ gone
//	NewHeap ┘                          └──────────┘           └───────────┘
//
// Shutdown may come at any time and from any goroutine; Destroy only when all that used the ends have returned.
type Segment struct {
	geo    Geometry // immutable; never read from memory again
	mem    []byte   // the segment; immutable until Destroy
	mapped bool     // immutable; mem is a mapping, not Go memory
	file   *os.File // immutable; the memfd if this side created it, or nil
	s2w    ring
	w2s    ring

	bell  Bell       // set before the ends are taken; nil unless geo.Bell
	event *eventDoor // of w2s.items, set before the ends are taken; nil unless geo.Eventfd

	down       sync.Mutex // held by Shutdown
	unmapping  unmapping
	closed     atomic.Bool // Shutdown was called
	supervisor atomic.Bool // Supervisor was called
	worker     atomic.Bool // Worker was called
}

// unmapping is whether the memory is gone, for those who come when it may be.
type unmapping struct {
	sync.Mutex
	done bool // guarded by Mutex
}

// Create makes a segment in a memfd that is sealed, fully backed by memory and closed on exec. It is the supervisor's way to a
// Segment.
func Create(g Geometry) (*Segment, error) {
	g = g.withDefaults()
	if err := g.validate(); err != nil {
		return nil, fmt.Errorf("shm: create segment: %w", err)
	}
	if err := checkHost(); err != nil {
		return nil, fmt.Errorf("shm: create segment: %w", err)
	}
	file, err := createMemfd(memfdName, int64(g.Bytes()))
	if err != nil {
		return nil, fmt.Errorf("shm: create segment: %w", err)
	}
	// Fd puts a file into blocking mode; a memfd has no other.
	mem, err := mapMemory(int(file.Fd()), g.Bytes())
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("shm: create segment: %w", err)
	}
	format(mem, g, uint32(os.Getpid()))
	return newSegment(mem, g, true, file).withEventfd()
}

// Open maps the segment that fd refers to, after checking everything the protocol says about it. It is the worker's way to a
// Segment. What is wrong with the segment itself is reported as a [*ProtocolError]. fd stays the caller's and may be closed. If the geometry says that there is an eventfd, it has to be told to [Segment.UseEventfd].
func Open(fd int) (*Segment, error) { return open(fd, false) }

// OpenBelled is [Open] for a segment with a [Bell], which has to be told to [Segment.UseBell].
func OpenBelled(fd int) (*Segment, error) { return open(fd, true) }

func open(fd int, bell bool) (*Segment, error) {
	if err := checkHost(); err != nil {
		return nil, fmt.Errorf("shm: open segment: %w", err)
	}
	if err := checkSeals(fd); err != nil {
		return nil, fmt.Errorf("shm: open segment: %w", err)
	}
	g, err := readGeometry(fd)
	if err != nil {
		return nil, fmt.Errorf("shm: open segment: %w", err)
	}
	if g.Bell != bell {
		return nil, fmt.Errorf("shm: open segment: %w", geometryError("flags are %#x, want %#x", g.flags(), Geometry{Bell: bell}.flags()))
	}
	mem, err := mapMemory(fd, g.Bytes())
	if err != nil {
		return nil, fmt.Errorf("shm: open segment: %w", err)
	}
	return newSegment(mem, g, true, nil), nil
}

// NewHeap makes a segment in Go memory, both of whose sides are this process: for tests under the race detector, which sees Go
// memory only, and for fuzzing. Above the mapping it is the same code.
func NewHeap(g Geometry) (*Segment, error) {
	g = g.withDefaults()
	if err := g.validate(); err != nil {
		return nil, fmt.Errorf("shm: new heap segment: %w", err)
	}
	if err := checkHost(); err != nil {
		return nil, fmt.Errorf("shm: new heap segment: %w", err)
	}
	mem := heapBytes(g.Bytes())
	format(mem, g, uint32(os.Getpid()))
	return newSegment(mem, g, false, nil).withEventfd()
}

// checkHost: atomics on shared words use the machine's byte order, which therefore has to be the format's.
func checkHost() error {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return errors.New("big-endian machines are not supported")
	}
	return nil
}

// format writes the header of an otherwise zero segment.
func format(mem []byte, g Geometry, pid uint32) {
	encodeGeometry(mem, g, pid)
	word32(mem, offSupervisorState).Store(uint32(StateRun))
}

func newSegment(mem []byte, g Geometry, mapped bool, file *os.File) *Segment {
	s := &Segment{geo: g, mem: mem, mapped: mapped, file: file}
	s.s2w = s.newRing("s2w", offS2W, headerBytes, g.S2W)
	s.w2s = s.newRing("w2s", offW2S, headerBytes+g.S2W, g.W2S)
	return s
}

func (s *Segment) newRing(name string, header, data, capacity uint64) ring {
	sem := func(off uint64) sem {
		return sem{
			count:   word32(s.mem, header+off+offCount),
			waiters: word32(s.mem, header+off+offWaiters),
			closed:  &s.closed,
			ring:    name,
			spin:    newSpin(),
			door:    futex{word32(s.mem, header+off+offCount)},
		}
	}
	return ring{
		name:      name,
		data:      s.mem[data : data+capacity : data+capacity],
		capacity:  capacity,
		maxFrame:  s.geo.MaxFrame,
		salt:      uint32(s.geo.Incarnation),
		mapped:    s.mapped,
		tailWord:  word64(s.mem, header+offTail),
		headWord:  word64(s.mem, header+offHead),
		items:     sem(offItems),
		space:     sem(offSpace),
		closed:    &s.closed,
		unmapping: &s.unmapping,
	}
}

// Geometry returns the segment's geometry, defaults filled in.
func (s *Segment) Geometry() Geometry { return s.geo }

// File returns the memfd to pass to the worker (in exec.Cmd.ExtraFiles), or nil for a segment that was opened or is on the heap.
// It stays the Segment's: Destroy closes it.
func (s *Segment) File() *os.File { return s.file }

// CloseFile closes the memfd, once it has been passed on: the mapping stays.
func (s *Segment) CloseFile() error {
	file := s.file
	if file == nil {
		return nil
	}
	s.file = nil
	if err := file.Close(); err != nil {
		return fmt.Errorf("shm: close segment's file: %w", err)
	}
	return nil
}

// withEventfd makes the eventfd of a segment that has one, for its creator.
func (s *Segment) withEventfd() (*Segment, error) {
	if !s.geo.Eventfd {
		return s, nil
	}
	e, err := newEventDoor(s.w2s.items.count)
	if err != nil {
		s.Shutdown()
		return nil, errors.Join(fmt.Errorf("shm: create segment: %w", err), s.Destroy())
	}
	s.event, s.w2s.items.door = e, e
	return s, nil
}

// Eventfd returns the eventfd to pass to the worker (in exec.Cmd.ExtraFiles), which wakes the supervisor by it, or nil if the segment has none or was opened. It stays the Segment's: Destroy closes it.
func (s *Segment) Eventfd() *os.File {
	if s.event == nil {
		return nil
	}
	return s.event.file
}

// UseEventfd says by which descriptor the supervisor is woken. It stays the caller's, and has to stay open while the segment is used.
//
// Preconditions: the geometry says that there is an eventfd, the segment was opened, and its ends were not taken.
func (s *Segment) UseEventfd(fd int) {
	if !s.geo.Eventfd || s.event != nil || s.worker.Load() {
		panic("shm: UseEventfd without an eventfd, or too late")
	}
	s.event = &eventDoor{fd: fd}
	s.w2s.items.door = s.event
}

// UseBell says how to ring at the peer.
//
// Preconditions: the geometry says that there are bells, and neither side's ends were taken in this process.
func (s *Segment) UseBell(b Bell) {
	if !s.geo.Bell || s.supervisor.Load() || s.worker.Load() {
		panic("shm: UseBell without bells, or too late")
	}
	s.bell = b
	s.w2s.items.door = newBellDoor(b, RungItems)
	s.s2w.space.door = newBellDoor(b, RungSpace)
	s.s2w.items.door = newBellDoor(b, RungItems)
	for _, sem := range []*sem{&s.w2s.items, &s.s2w.space, &s.s2w.items} {
		sem.spin.crowd = &spinners
	}
}

// Rung passes on what was rung at this process: any number of [RungItems] and [RungSpace], or'ed. It may be called at any time, by any goroutine, also after Destroy.
func (s *Segment) Rung(what byte) {
	if s.supervisor.Load() {
		if what&RungItems != 0 {
			s.w2s.items.door.(*bellDoor).hear()
		}
		if what&RungSpace != 0 {
			s.s2w.space.door.(*bellDoor).hear()
		}
	}
	if s.worker.Load() && what&RungItems != 0 {
		s.s2w.items.door.(*bellDoor).hear()
	}
}

// Supervisor returns the supervisor's ends of the rings.
//
// Preconditions: it is called once, on a segment that no messages were exchanged over, and by one process only; if it has bells, after UseBell.
func (s *Segment) Supervisor() (*Producer, *Consumer) {
	if s.geo.Bell && s.bell == nil {
		panic("shm: the segment has bells, and nobody said how to ring them")
	}
	if s.supervisor.Swap(true) {
		panic("shm: the supervisor's ends are taken")
	}
	return &Producer{ring: &s.s2w}, &Consumer{ring: &s.w2s}
}

// Worker returns the worker's ends of the rings.
//
// Preconditions: it is called once, on a segment that no messages were exchanged over in the worker's name, and by one process
// only; if it has bells, after UseBell, and if it was opened and has an eventfd, after UseEventfd.
func (s *Segment) Worker() (*Producer, *Consumer) {
	if s.geo.Bell && s.bell == nil {
		panic("shm: the segment has bells, and nobody said how to ring them")
	}
	if s.geo.Eventfd && s.event == nil {
		panic("shm: the segment has an eventfd, and nobody said which")
	}
	if s.worker.Swap(true) {
		panic("shm: the worker's ends are taken")
	}
	return &Producer{ring: &s.w2s}, &Consumer{ring: &s.s2w}
}

// Shutdown makes this process's Sends fail with [ErrClosed] from now on, and its Recvs once they have delivered what was
// committed before. Calls that are blocked return. The peer does not notice. Shutdown may be called any number of times, by any
// goroutine.
func (s *Segment) Shutdown() {
	s.down.Lock() // so that whoever comes second finds it done, and may Destroy
	defer s.down.Unlock()
	if s.closed.Swap(true) {
		return
	}
	if s.supervisor.Load() {
		s.s2w.space.close()
		s.w2s.items.close()
	}
	if s.worker.Load() {
		s.w2s.space.close()
		s.s2w.items.close()
	}
}

// Destroy unmaps the segment and closes its memfd and its eventfd. The memory goes back to the system when the peer has done the same, or is
// dead.
//
// Preconditions: Shutdown was called; no call on the segment or its ends is running, and none follows but Shutdown, which does
// nothing, Send, which returns ErrClosed, and Wake, which does nothing.
func (s *Segment) Destroy() error {
	if !s.closed.Load() {
		panic("shm: Destroy without Shutdown")
	}
	if s.mem == nil {
		panic("shm: Destroy twice")
	}
	s.unmapping.Lock()
	defer s.unmapping.Unlock()
	mem := s.mem
	s.mem, s.unmapping.done = nil, true
	var err error
	if s.mapped {
		err = unmapMemory(mem)
	}
	if s.file != nil {
		err = errors.Join(err, s.file.Close())
	}
	if event := s.Eventfd(); event != nil {
		err = errors.Join(err, event.Close())
	}
	if err != nil {
		return fmt.Errorf("shm: destroy segment: %w", err)
	}
	return nil
}
