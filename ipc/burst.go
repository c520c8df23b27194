package ipc

import (
	"slices"
	"sync"
	"sync/atomic"
)

// To wake a process that sleeps costs several microseconds, and one that is woken for a single message soon sleeps again. So a goroutine that has received a message, and sees that others have come after it, puts what it sends
// meanwhile into the rings and wakes nobody until it is through with all of them. Where messages come one at a time it makes no difference.
//
//	Recv ─▶ more has come: what is sent for this message is put ─▶ Recv ─▶ no more: it is sent ─▶ Recv has to wait: those are woken first
//
// Whoever may have left somebody asleep must not wait for anything: Recv does not before it has called flush, nor does a handler before it has passed the reading on, nor the goroutine that receives before it sends something of its own, for
// which its peer may make no room.

// longestBurst is how many messages may be received until those are woken all the same who got something: more may come for as long as the peer likes.
const longestBurst = 16

// burst is the rings whose peers are still to be woken.
type burst struct {
	on   atomic.Bool // more has come: put rather than send. Written by the goroutine that receives
	some atomic.Bool // rings is not empty
	late int         // of the goroutine that receives: messages that came while it was not

	mu    sync.Mutex
	rings []*Ring // guarded by mu
}

// patient is a [Transport] that can tell what it has received, and when it is about to wait.
type patient interface {
	// pending reports whether Recv has something to begin with. For the goroutine that is in Recv at other times.
	pending() bool
	// beforeWaiting has f called whenever Recv is about to wait. Preconditions: nobody is in Recv.
	beforeWaiting(f func())
}

// follow has b's peers woken when t's receiver waits.
func (b *burst) follow(t Transport) {
	if p, ok := t.(patient); ok {
		p.beforeWaiting(b.flush)
	}
}

// received says that a message was received from t.
func (b *burst) received(t Transport) {
	p, ok := t.(patient)
	b.on.Store(ok && p.pending())
	if !b.some.Load() {
		b.late = 0
	} else if b.late++; b.late >= longestBurst {
		b.late = 0
		b.flush()
	}
}

// add says that a message was put into r.
func (b *burst) add(r *Ring) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Contains(b.rings, r) {
		b.rings = append(b.rings, r)
	}
	b.some.Store(true)
}

// flush wakes those who are still to be woken.
func (b *burst) flush() {
	if !b.some.Load() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, r := range b.rings {
		r.out.Wake()
		b.rings[i] = nil
	}
	b.rings = b.rings[:0]
	b.some.Store(false)
}
