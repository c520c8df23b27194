package ipc

import (
	"errors"
	"io"

	"github.com/ringmasterd/ringmaster/shm"
)

// Ring is the [Transport] over a shared-memory segment.
type Ring struct {
	seg   *shm.Segment
	out   *shm.Producer
	in    *shm.Consumer
	limit int
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

// Send implements [Transport].
func (r *Ring) Send(parts ...[]byte) (uint64, error) {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if size > r.limit {
		return 0, tooLarge(size, r.limit)
	}
	return r.out.Send(parts...)
}

// Recv implements [Transport]. After Close it still returns the messages that the peer had committed, then io.EOF. A broken ring is DATA_LOSS/protocol.
func (r *Ring) Recv() ([]byte, error) {
	b, err := r.in.Recv(nil, r.limit)
	var broken *shm.ProtocolError
	switch {
	case err == nil:
		return b, nil
	case errors.Is(err, shm.ErrClosed):
		return nil, io.EOF
	case errors.As(err, &broken):
		return nil, protocolErrorf("%v", broken)
	}
	return nil, err
}

// Close implements [Transport]. It does not unmap the segment.
func (r *Ring) Close() error {
	r.seg.Shutdown()
	return nil
}

// Consumed reports whether the peer had taken everything up to the position end. It means something only once the peer is dead.
func (r *Ring) Consumed(end uint64) (bool, error) { return r.out.Consumed(end) }
