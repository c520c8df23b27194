package ipc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/shm"
)

// Ring is the [Transport] over a shared-memory segment: to a worker, or, with a [line] beside it, to a client.
type Ring struct {
	seg   *shm.Segment
	out   *shm.Producer
	in    *shm.Consumer
	limit int
	line  *line // a client's; nil towards a worker
	event int   // of a client's side: the eventfd that Free closes; -1: none

	rights *rightsReader // immutable: where descriptors of arenas come from; nil but at a client

	// Recv only, for messages of clients: asked for each frame, with what a message begins with and its size so far; an error makes Recv skip it. nil: all are taken.
	admit func(head []byte, size int) *Error
	keep  func(head []byte, size int) bool // immutable: decides by limit and admit; nil where a message over the limit breaks the protocol
	why   *Error                           // Recv only: what admit said

	mu     sync.Mutex
	broken error // guarded by mu; the first breach of the protocol that either side of the ring has seen
}

// SupervisorRing and WorkerRing take the two ends of a segment. Messages are limited to limit bytes each way.
func SupervisorRing(seg *shm.Segment, limit int) *Ring {
	out, in := seg.Supervisor()
	return &Ring{seg: seg, out: out, in: in, limit: limit, event: -1}
}

// WorkerRing takes the worker's end; see [SupervisorRing].
func WorkerRing(seg *shm.Segment, limit int) *Ring {
	out, in := seg.Worker()
	return &Ring{seg: seg, out: out, in: in, limit: limit, event: -1}
}

// ServerRing takes the supervisor's end of a segment that went to a client with the hello on s. From now on s is the ring's, which ends with it. A client that takes so little in
// writeTimeout that no frame finds space, or leaves a message that it has begun for readTimeout, loses the connection; 0 waits for ever. [Ring.Free] has to be called in the end.
func ServerRing(seg *shm.Segment, s *Socket, readTimeout, writeTimeout time.Duration) *Ring {
	line := newLine(s)
	seg.UseBell(line)
	r := SupervisorRing(seg, int(s.limit.Load()))
	r.keep = r.kept
	r.in.SetPatience(readTimeout)
	r.out.SetPatience(writeTimeout)
	r.attend(line)
	return r
}

// openRing takes the client's end of the segment that came with the hello on s, which is read through rights.
func openRing(rights *rightsReader, s *Socket, capacity uint64) (*Ring, error) {
	fd := rights.next()
	if fd < 0 {
		return nil, protocolErrorf("the server's hello says that rings come with it, and none do")
	}
	seg, err := shm.OpenBelled(fd)
	_ = unix.Close(fd)
	if err != nil {
		return nil, protocolErrorf("the rings that came with the server's hello cannot be used: %v", err)
	}
	if g := seg.Geometry(); max(g.S2W, g.W2S) > capacity {
		seg.Shutdown()
		_ = seg.Destroy()
		return nil, protocolErrorf("the rings that came with the server's hello are %d and %d bytes, more than the %d that were asked for", g.S2W, g.W2S, capacity)
	}
	event, err := useDoors(seg, rights)
	if err != nil {
		seg.Shutdown()
		_ = seg.Destroy()
		return nil, protocolErrorf("what came with the rings cannot be used: %v", err)
	}
	line := newLine(s)
	seg.UseBell(line)
	r := WorkerRing(seg, int(s.limit.Load()))
	r.event = event
	r.out.SetPatience(s.writeTimeout)
	r.rights = rights.onward()
	r.attend(line)
	return r, nil
}

// useDoors tells a client's segment how to wake the server, and to be woken. The eventfd is the caller's; -1: there is none.
func useDoors(seg *shm.Segment, rights *rightsReader) (event int, err error) {
	event = -1
	if seg.Geometry().Eventfd {
		event = rights.next()
		err = seg.UseEventfd(event)
	}
	if seg.Geometry().Socket && err == nil {
		err = seg.UseSocket(rights.next())
	}
	if err != nil {
		_ = unix.Close(event)
		event = -1
	}
	return event, err
}

// Send implements [Transport]. A closed or broken ring is [io.ErrClosedPipe]; of a broken one Recv tells what is wrong.
func (r *Ring) Send(parts ...[]byte) (uint64, error) {
	return r.SendIf(nil, parts...)
}

// SendIf implements [prompt].
func (r *Ring) SendIf(wanted func() bool, parts ...[]byte) (uint64, error) {
	if err := r.fits(parts); err != nil {
		return 0, err
	}
	end, err := r.out.SendIf(wanted, parts...)
	return end, r.sent(err)
}

// TrySend implements [prompt].
func (r *Ring) TrySend(b *burst, parts ...[]byte) (uint64, bool, error) {
	if err := r.fits(parts); err != nil {
		return 0, false, err
	}
	if b == nil || !b.on.Load() {
		end, sent, err := r.out.TrySend(parts...)
		return end, sent, r.sent(err)
	}
	end, put, err := r.out.TryPut(parts...)
	if put {
		b.add(r)
	}
	return end, put, r.sent(err)
}

// pending implements [patient].
func (r *Ring) pending() bool { return r.in.Pending() }

// beforeWaiting implements [patient].
func (r *Ring) beforeWaiting(f func()) { r.in.BeforeWaiting(f) }

// fits is the error of a message that is too large.
func (r *Ring) fits(parts [][]byte) error {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if size > r.limit {
		return tooLarge(size, r.limit)
	}
	return nil
}

// sent is what Send returns for an error of the ring's.
func (r *Ring) sent(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, shm.ErrUnwanted):
		return err
	}
	r.fail(err)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("write to ring: the peer makes no room: %w", err)
	}
	return io.ErrClosedPipe
}

// Recv implements [Transport]. After Close it still returns the messages that the peer had committed, then io.EOF. A broken ring is DATA_LOSS/protocol.
func (r *Ring) Recv() ([]byte, error) {
	limit := r.limit
	if r.keep != nil {
		limit *= 4
	}
	b, err := r.in.RecvIf(nil, limit, r.keep)
	if err == nil {
		return b, nil
	}
	var dropped *shm.DroppedError
	switch {
	case errors.As(err, &dropped):
		return nil, r.skipped(dropped)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("read from ring: %w", err) // the peer may still be told
	}
	r.fail(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil {
		return nil, protocolErrorf("%v", r.broken)
	}
	return nil, io.EOF
}

// kept decides whether a client's message, or as much of it as has come, is to be kept.
func (r *Ring) kept(head []byte, size int) bool {
	if size > r.limit {
		return false
	}
	if r.admit != nil {
		r.why = r.admit(head, size)
	}
	return r.why == nil
}

// skipped says why a message was not kept.
func (r *Ring) skipped(d *shm.DroppedError) error {
	why := r.why
	r.why = nil
	if why == nil {
		why = tooLarge(d.Size, r.limit)
	}
	return &SkippedError{Head: d.Head, Size: uint64(d.Size), Why: why}
}

// fail closes the ring, and remembers err if it is the peer's fault.
func (r *Ring) fail(err error) {
	var broken *shm.ProtocolError
	if errors.As(err, &broken) {
		r.mu.Lock()
		if r.broken == nil {
			r.broken = err
		}
		r.mu.Unlock()
	}
	_ = r.Close()
}

// Close implements [Transport]. It does not unmap the segment.
func (r *Ring) Close() error {
	r.seg.Shutdown()
	if r.line != nil {
		return r.line.sock.Close()
	}
	return nil
}

// Free ends what a client's ring, on either side, has taken: its goroutine, and the segment. Close may still be called afterwards, and Send, which fails.
//
// Preconditions: Close was called, and nobody is in Send or Recv.
func (r *Ring) Free() error {
	<-r.line.ended
	if r.rights != nil {
		r.rights.close()
	}
	err := r.seg.Destroy()
	if r.event >= 0 {
		err = errors.Join(err, unix.Close(r.event))
	}
	return err
}

// file returns the next descriptor that came on the line, waiting for it: it was sent before what told of it. false: the line has ended.
//
// Preconditions: the ring is a client's.
func (r *Ring) file() (*os.File, bool) {
	select {
	case file := <-r.rights.files:
		return file, true
	case <-r.line.ended:
	}
	select { // it may have come last
	case file := <-r.rights.files:
		return file, true
	default:
		return nil, false
	}
}

// Consumed reports whether the peer had taken everything up to the position end. It means something only once the peer is dead.
func (r *Ring) Consumed(end uint64) (bool, error) { return r.out.Consumed(end) }

// Taken returns the position up to which the peer says that it has read. It is not checked; the peer may be alive.
func (r *Ring) Taken() uint64 { return r.out.Taken() }
