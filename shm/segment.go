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

	// Set before the ends are taken.
	bell   Bell        // nil unless geo.Bell
	event  *eventDoor  // of w2s.items; nil unless geo.Eventfd
	socket *socketDoor // of s2w.items; nil unless geo.Socket

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
	return newSegment(mem, g, true, file).withDoors()
}

// Open maps the segment that fd refers to, after checking everything the protocol says about it. It is the worker's way to a
// Segment. What is wrong with the segment itself is reported as a [*ProtocolError]. fd stays the caller's and may be closed. If the geometry says that there is an eventfd, it has to be told to [Segment.UseEventfd].
func Open(fd int) (*Segment, error) { return open(fd, 0, flagEventfd) }

// OpenBelled is [Open] for a segment with a [Bell], which has to be told to [Segment.UseBell], as its socket, if there is one, to [Segment.UseSocket].
func OpenBelled(fd int) (*Segment, error) { return open(fd, flagBell, flagEventfd|flagSocket) }

// open is Open for a segment that has to have the flags in must, and may have those in may.
func open(fd int, must, may uint32) (*Segment, error) {
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
	if g.flags()&^may != must {
		return nil, fmt.Errorf("shm: open segment: %w", geometryError("flags are %#x, want %#x, and perhaps %#x", g.flags(), must, may))
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
	s, err := newSegment(mem, g, false, nil).withDoors()
	if err == nil && g.Socket {
		if err = s.socket.listenHere(s.s2w.items.count); err != nil {
			s.Shutdown()
			return nil, errors.Join(fmt.Errorf("shm: new heap segment: %w", err), s.Destroy())
		}
	}
	return s, err
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

// ClosePassed closes the memfd and the worker's end of the socket, once they have been passed on: the mapping stays.
func (s *Segment) ClosePassed() error {
	file := s.file
	s.file = nil
	var err error
	if file != nil {
		err = file.Close()
	}
	if s.socket != nil {
		err = errors.Join(err, s.socket.closePeer())
	}
	if err != nil {
		return fmt.Errorf("shm: close what was passed on: %w", err)
	}
	return nil
}

// withDoors makes the eventfd and the socket of a segment that has them, for its creator.
func (s *Segment) withDoors() (*Segment, error) {
	var err error
	if s.geo.Eventfd {
		if s.event, err = newEventDoor(s.w2s.items.count); err == nil {
			s.w2s.items.sleepAt(s.event)
		}
	}
	if s.geo.Socket && err == nil {
		if s.socket, err = newSocketDoor(); err == nil {
			s.s2w.items.sleepAt(s.socket)
		}
	}
	if err != nil {
		s.Shutdown()
		return nil, errors.Join(fmt.Errorf("shm: create segment: %w", err), s.Destroy())
	}
	return s, nil
}

// Eventfd returns the eventfd to pass to the worker (in exec.Cmd.ExtraFiles), which wakes the supervisor by it, or nil if the segment has none or was opened. It stays the Segment's: Destroy closes it.
func (s *Segment) Eventfd() *os.File {
	if s.event == nil || s.event.poller == nil {
		return nil
	}
	return s.event.file
}

// Socket returns the worker's end of the socket to pass to it (in exec.Cmd.ExtraFiles), which is in blocking mode, or nil if the segment has none, was opened, or has passed it on. It stays the Segment's: ClosePassed or Destroy closes it.
func (s *Segment) Socket() *os.File {
	if s.socket == nil {
		return nil
	}
	return s.socket.peer
}

// UseEventfd says by which descriptor the supervisor is woken. It stays the caller's, and has to stay open while the segment is used. An error says that it is no eventfd: what is written there is not to end up elsewhere.
//
// Preconditions: the geometry says that there is an eventfd, the segment was opened, and its ends were not taken.
func (s *Segment) UseEventfd(fd int) error {
	if !s.geo.Eventfd || s.event != nil || s.worker.Load() {
		panic("shm: UseEventfd without an eventfd, or too late")
	}
	if err := checkEventfd(fd, "/proc/self/fd"); err != nil {
		return fmt.Errorf("shm: fd %d, the eventfd: %w", fd, err)
	}
	s.event = &eventDoor{fd: fd}
	s.w2s.items.sleepAt(s.event)
	return nil
}

// UseSocket says at which socket the worker sleeps. The descriptor is the segment's from now on: Destroy closes it, or UseSocket itself, with an error, if it is no socket.
//
// Preconditions: the geometry says that there is a socket, the segment was opened, and its ends were not taken; UseBell was not called.
func (s *Segment) UseSocket(fd int) error {
	if !s.geo.Socket || s.socket != nil || s.worker.Load() {
		panic("shm: UseSocket without a socket, or too late")
	}
	door := &socketDoor{fd: -1}
	if err := door.listen(fd, s.s2w.items.count); err != nil {
		return fmt.Errorf("shm: fd %d, the socket: %w", fd, err)
	}
	s.socket = door
	s.s2w.items.sleepAt(door)
	return nil
}

// UseBell says how to ring at the peer.
//
// Preconditions: the geometry says that there are bells, and neither side's ends were taken in this process; UseEventfd and UseSocket were called if they are going to be.
func (s *Segment) UseBell(b Bell) {
	if !s.geo.Bell || s.supervisor.Load() || s.worker.Load() {
		panic("shm: UseBell without bells, or too late")
	}
	s.bell = b
	if s.event == nil {
		s.w2s.items.sleepAt(newBellDoor(b, RungItems))
	}
	s.s2w.space.sleepAt(newBellDoor(b, RungSpace))
	if s.socket == nil {
		s.s2w.items.sleepAt(newBellDoor(b, RungItems))
	}
	for _, sem := range []*sem{&s.w2s.items, &s.s2w.space, &s.s2w.items} {
		sem.spin.crowd = &spinners
	}
}

// Rung passes on what was rung at this process: any number of [RungItems] and [RungSpace], or'ed. It may be called at any time, by any goroutine, also after Destroy.
func (s *Segment) Rung(what byte) {
	if s.supervisor.Load() {
		if what&RungItems != 0 {
			s.w2s.items.hear()
		}
		if what&RungSpace != 0 {
			s.s2w.space.hear()
		}
	}
	if s.worker.Load() && what&RungItems != 0 {
		s.s2w.items.hear()
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
// only; if it has bells, after UseBell, and if it was opened and has an eventfd, after UseEventfd; if it has a socket, after UseSocket.
func (s *Segment) Worker() (*Producer, *Consumer) {
	if s.geo.Bell && s.bell == nil {
		panic("shm: the segment has bells, and nobody said how to ring them")
	}
	if s.geo.Eventfd && s.event == nil {
		panic("shm: the segment has an eventfd, and nobody said which")
	}
	if s.geo.Socket && (s.socket == nil || s.socket.poller == nil) {
		panic("shm: the segment has a socket, and nobody said which")
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

// Destroy unmaps the segment and closes its memfd, its eventfd and its socket. The memory goes back to the system when the peer has done the same, or is
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
	err := s.unmap()
	if s.file != nil {
		err = errors.Join(err, s.file.Close())
	}
	if event := s.Eventfd(); event != nil {
		err = errors.Join(err, event.Close())
	}
	if s.socket != nil {
		err = errors.Join(err, s.socket.destroy())
	}
	if err != nil {
		return fmt.Errorf("shm: destroy segment: %w", err)
	}
	return nil
}

// unmap takes the memory from those who may still wake the peer.
func (s *Segment) unmap() error {
	s.unmapping.Lock()
	defer s.unmapping.Unlock()
	mem := s.mem
	s.mem, s.unmapping.done = nil, true
	if !s.mapped {
		return nil
	}
	return unmapMemory(mem)
}
