package shm

import (
	"errors"
	"fmt"
)

// ErrClosed is returned by Send and Recv after [Segment.Shutdown].
var ErrClosed = errors.New("shm: segment is shut down")

// ErrUnwanted is returned by [Producer.SendIf] for a message that was not wanted any more. Nothing of it was sent.
var ErrUnwanted = errors.New("shm: the message is not wanted any more")

// DroppedError is returned by [Consumer.RecvIf] for a message that was not to be kept. The next one may be received.
type DroppedError struct {
	Head []byte // its first bytes, at most HeadBytes
	Size int    // bytes
}

func (e *DroppedError) Error() string {
	return fmt.Sprintf("shm: a message of %d bytes was dropped", e.Size)
}

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
