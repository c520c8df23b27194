package ipc

import "fmt"

// Transport moves whole messages between two processes. [Socket] and [Ring] are the two there are.
type Transport interface {
	// Send sends one message, the concatenation of parts, and returns the position of its end in the outgoing stream. Any number of goroutines may
	// send. It blocks while the peer does not read, until Close. A message that is too large fails with RESOURCE_EXHAUSTED/too_large and leaves the transport usable; any other error is final.
	Send(parts ...[]byte) (end uint64, err error)
	// Recv returns the next message, whose bytes then belong to the caller. One goroutine at a time. A [*SkippedError] concerns one message only; any other error is final.
	Recv() ([]byte, error)
	// Close unblocks Send and Recv. What the peer sent before may still be received where the transport can tell.
	Close() error
}

// SkippedError is returned by [Transport.Recv] for a message that was not kept: it was over the limit, or there was no room for it.
type SkippedError struct {
	Head []byte // its first bytes
	Size uint64 // bytes
	Why  *Error // what to answer
}

func (e *SkippedError) Error() string {
	return fmt.Sprintf("a message of %d bytes was skipped: %s", e.Size, e.Why.Message)
}

func tooLarge(size, limit int) *Error {
	return Errorf(ResourceExhausted, "too_large", "the message is %d bytes, the limit is %d bytes; send less at a time or raise max_message", size, limit)
}
