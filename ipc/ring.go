package ipc

import (
	"errors"
	"io"
	"sync"

	"github.com/ringmasterd/ringmaster/shm"
)

// Ring is the [Transport] over a shared-memory segment.
type Ring struct {
	seg   *shm.Segment
	out   *shm.Producer
	in    *shm.Consumer
	limit int

	mu     sync.Mutex
	broken error // guarded by mu; the first breach of the protocol that either side of the ring has seen
}

// SupervisorRing and WorkerRing take the two ends of a segment. Messages are limited to limit bytes each way.
func SupervisorRing(seg *shm.Segment, limit int) *Ring {
	out, in := seg.Supervisor()
	return &Ring{seg: seg, out: out, in: in, limit: limit}
}

// WorkerRing takes the worker's end; see [SupervisorRing].
func WorkerRing(seg *shm.Segment, limit int) *Ring {
	out, in := seg.Worker()
	return &Ring{seg: seg, out: out, in: in, limit: limit}
}

// Send implements [Transport]. A closed or broken ring is [io.ErrClosedPipe]; of a broken one Recv tells what is wrong.
func (r *Ring) Send(parts ...[]byte) (uint64, error) {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if size > r.limit {
		return 0, tooLarge(size, r.limit)
	}
	end, err := r.out.Send(parts...)
	if err != nil {
		r.fail(err)
		return 0, io.ErrClosedPipe
	}
	return end, nil
}

// Recv implements [Transport]. After Close it still returns the messages that the peer had committed, then io.EOF. A broken ring is DATA_LOSS/protocol.
func (r *Ring) Recv() ([]byte, error) {
	b, err := r.in.Recv(nil, r.limit)
	if err == nil {
		return b, nil
	}
	r.fail(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil {
		return nil, protocolErrorf("%v", r.broken)
	}
	return nil, io.EOF
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
	return nil
}

// Consumed reports whether the peer had taken everything up to the position end. It means something only once the peer is dead.
func (r *Ring) Consumed(end uint64) (bool, error) { return r.out.Consumed(end) }

// Taken returns the position up to which the peer says that it has read. It is not checked; the peer may be alive.
func (r *Ring) Taken() uint64 { return r.out.Taken() }
