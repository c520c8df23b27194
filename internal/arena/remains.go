package arena

import (
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/shm"
)

// A client that loses its connection may go on looking at what it has, so its memory is not taken away; nor is it given to others before it is free: a client that hangs up and keeps its mapping keeps what it was charged for it.
//
//	region ends ──its client gave it up──▶ emptied, given back
//	     └─ its connection is gone ──▶ leftover ──look, again and again──▶ nobody has it: given back
//
// Nobody says when a mapping ends, so there is somebody who looks, for as long as there are leftovers: soon at first, for most processes end with their connections and workers unmap what they are told to.

// Leftovers are looked at so often, at first and at most.
const (
	firstLook = 5 * time.Millisecond
	lastLook  = time.Second
)

// leftovers are regions that have ended, and whose memory somebody still has.
type leftovers struct {
	mu    sync.Mutex
	list  []leftover    // guarded by mu
	timer *time.Timer   // guarded by mu; nil while there are none
	pause time.Duration // guarded by mu: before the next look
}

type leftover struct {
	remains *shm.Remains
	client  *Client
	bytes   uint64
}

// leave ends a region whose client may still have it.
func (r *Region) leave() {
	remains, err := shm.LeaveArena(r.File)
	if err != nil || remains.Gone() {
		r.client.give(r.Bytes)
		return
	}
	r.client.store.left.add(leftover{remains, r.client, r.Bytes})
}

func (l *leftovers) add(one leftover) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, one)
	l.pause = firstLook
	if l.timer == nil {
		l.timer = time.AfterFunc(l.pause, l.lookAgain)
	} else {
		l.timer.Reset(l.pause)
	}
}

// look gives back what nobody has any more, and reports whether there was any.
func (l *leftovers) look() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sift()
}

// lookAgain is what the timer does.
func (l *leftovers) lookAgain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sift()
	if len(l.list) == 0 {
		l.timer = nil
		return
	}
	l.pause = min(2*l.pause, lastLook)
	l.timer.Reset(l.pause)
}

// Preconditions: mu is held.
func (l *leftovers) sift() bool {
	kept := l.list[:0]
	for _, one := range l.list {
		if one.remains.Gone() {
			one.client.give(one.bytes)
		} else {
			kept = append(kept, one)
		}
	}
	some := len(kept) < len(l.list)
	clear(l.list[len(kept):])
	l.list = kept
	return some
}
