// Package shm is memory that knows no messages' content: a segment shared by two processes, one byte ring each way, and a
// doorbell per direction for the side that has to sleep. What the bytes mean is package ipc's business.
//
//	  supervisor                        segment (a sealed memfd)                        worker
//	┌────────────┐        ┌──────────────────────────────────────────────┐        ┌────────────┐
//	│ Producer   │─frames▶│ s2w   ··· consumed │ unread frames │ free ··· │─frames▶│ Consumer   │
//	│            │        │                    head            tail        │        │            │
//	│ Consumer   │◀frames─│ w2s   ··· free │ unread frames │ consumed ··· │◀frames─│ Producer   │
//	└────────────┘        └──────────────────────────────────────────────┘        └────────────┘
//
// The format is docs/protocol.md, sections 2 to 4; its section 10 names the steps at which crash tests kill a process. Read in
// this order: layout.go (where everything lies), frame.go (a frame's header), ring.go (sending and receiving), sem.go (sleeping
// and waking), where one sleeps (futex_linux.go; poller_linux.go with event_linux.go and socket_linux.go; bell.go), segment.go (a
// segment's life), check.go (what must hold between any two operations), arena.go (memory without rings, for large tensors).
// Pointer casts are in words_unsafe.go, what makes and maps memory in segment_linux.go.
//
// # Who owns what
//
// The supervisor creates a segment for one incarnation of one worker and destroys it after that incarnation's death; a segment is
// never repaired or used twice. Each word in it has one writer, except the semaphores, which are only hints. The bytes from head
// to tail belong to the consumer, all others to the producer, and publishing head or tail is what hands bytes over. Each end
// keeps its own position in private memory: what it publishes it never reads back.
//
// In a process, a [Producer] is for any number of goroutines (a mutex in its private memory makes them take turns) and a
// [Consumer] for one at a time. Messages are copied in and copied out: no slice of a segment leaves this package. An [Arena] is the
// opposite: it is there to be handed out, and what is in it decides nothing.
//
// # What a crash leaves behind
//
// Nothing that has to be repaired. No lock lives in shared memory, so none can be left held. A frame exists from the moment tail
// is published and is gone from the moment head is, each being one store; a process that dies before it has changed nothing, one
// that dies after it has finished. A process that dies on its way to wake its peer leaves the peer asleep, which is why whoever
// notices the death calls [Segment.Shutdown]: it wakes this process's side. After that [Consumer.Recv] still delivers every
// message that was committed, and [Producer.Consumed] says which messages the dead peer had taken. The segment has no name: the
// kernel frees it with its last user, however that one ends.
//
// # What a peer can do to us
//
// Waste our time, never our memory. Geometry is read and checked once, by [Open], and kept in Go variables; the seals keep the
// segment from being shrunk under us. Every word from the peer that decides something is loaded once and checked before it is
// used. What fails a check is reported as a [*ProtocolError], and that end of the ring is unusable from then on. Mistakes of the
// caller (an empty message, an end taken twice) panic.
package shm
