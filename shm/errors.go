package shm

import (
	"errors"
	"fmt"
)

// ErrClosed is returned by Send and Recv after [Segment.Shutdown].
var ErrClosed = errors.New("shm: segment is shut down")

// ProtocolError says that the peer broke the protocol. It is final: the end of the ring, or the segment, that it concerns is not
// usable from then on.
type ProtocolError struct {
	Ring     string // "s2w" or "w2s"; empty if the segment's own header is wrong
	Position uint64 // the ring position at which it was noticed, in bytes
	What     string // which rule was broken
}

func (e *ProtocolError) Error() string {
	if e.Ring == "" {
		return "shm: segment header: " + e.What
	}
	return fmt.Sprintf("shm: ring %s, position %d: %s", e.Ring, e.Position, e.What)
}
