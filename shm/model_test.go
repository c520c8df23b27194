package shm

import (
	"fmt"
	"testing"
)

// The doorbell and the positions, checked in every interleaving: a producer sends modelMessages through a ring of a few slots to
// a consumer, and one of them may be closed at any moment, as happens when the other dies, which it may do at any moment too.
// Memory is sequentially consistent (SC) or has store buffers (TSO: an actor's stores reach memory in order but later, unless it
// fences). There are no timeouts here: what the real code would only be late for is a failure.
//
// The producer is any number of goroutines that take turns to publish, which a lock sees to. A post comes after the lock: it may be another goroutine's, the helper's, while the next message is published and posted; or it is put off
// until the producer is about to wait or to end, and then stands for all messages before it.
//
// What must hold: nobody sleeps for ever, except beside a peer that was closed, and then not beside a message; the ring never holds more than its capacity; a
// consumer that ends because it was closed has taken all that was committed before.

const modelMessages = 3

// Shared locations.
const (
	mTail = iota
	mHead
	mItemsCount
	mItemsWaiters
	mSpaceCount
	mSpaceWaiters
	mProducerClosed // process-local, but a location like any other to the goroutines of that process
	mConsumerClosed
	mLocations
)

// Actors.
const (
	producer = iota
	consumer
	closer
	helper // another goroutine of the producer, which only posts
	mActors
)

// Program counters of the producer and the consumer.
const (
	atStart       = iota // done? closed (producer)?
	atLook               // is there room, or a message?
	atPublish            // publish the own position
	atPost               // fence, does the peer wait?
	atPeerCounted        // is a wake-up under way?
	atSetCount           // count = 1
	atWake               // FUTEX_WAKE
	atArm                // wait begins: waiters = 1
	atClear              // count = 0
	atReadClosed         // closed?
	atLookAgain          // moved? closed?
	atLateClosed         // mutant closedAfter
	atLateClear          // mutant clearAfter
	atSleep              // FUTEX_WAIT; at an eventfd: forget what was written before; at a socket: take what has come
	atLookCount          // at an eventfd or a socket: count = 1?
	atPoll               // likewise: sleep until it is written to
	atDisarm             // waiters = 0
	atEnd
)

// Program counters of the closer.
const (
	closeNotYet = iota
	closeSetCount
	closeWake
	closeEnd
)

// A mutant leaves out or misplaces one thing.
type mutant struct {
	noFence        bool // post does not fence between publishing and looking for waiters
	plainArm       bool // waiters and count are written with plain stores by the waiter
	clearAfter     bool // count is cleared after looking, not before
	closedAfter    bool // closed is read after looking, not before
	closeNoCount   bool // close does not set count
	closeNoWake    bool // close does not wake
	closeOnlyWakes bool // close does not set closed
	deafBell       bool // what is rung while nobody sleeps is forgotten
	lateLook       bool // the sleeper looks only before it arms
	earlyCount     bool // the sleeper at an eventfd looks at count before it forgets what was written, not after
	waitsFirst     bool // the producer waits for space with a post that it has put off
	closeDrops     bool // a post that was put off is not made by who was closed
	lazyHandOver   bool // a post is another goroutine's before the position is published to all
}

type modelConfig struct {
	mutant
	door     string // where the sleeper sleeps: futex, bell, event or socket
	coalesce bool   // post does nothing if count is set already; the protocol leaves this to the implementation
	apart    bool   // posts may be the helper's, or be put off
	tso      bool
	capacity int8
	closes   int // producer, consumer, or mActors for neither
}

// storeBuffer is an actor's stores that have not reached memory, oldest first.
type storeBuffer struct {
	n int8
	e [4]struct{ loc, val int8 }
}

type modelState struct {
	mem      [mLocations]int8
	buf      [mActors]storeBuffer
	pc       [mActors]int8
	own      [2]int8 // private positions
	asleep   [2]bool
	rung     [2]bool // the side's bell was rung, or its eventfd or socket written to: on its way
	heard    [2]bool // it has come, and the sleeper does not know yet
	shut     [2]bool // the side has closed its door: nobody sleeps at its eventfd or socket any more
	isClosed [2]bool // the register that closed was read into
	due      int8    // tail in memory when the close began
	owes     bool    // the producer has put a post off
	died     bool    // the peer of the side that is closed
}

func (s *modelState) load(a int, loc int8) int8 {
	for i := s.buf[a].n - 1; i >= 0; i-- {
		if e := s.buf[a].e[i]; e.loc == loc {
			return e.val
		}
	}
	return s.mem[loc]
}

func (s *modelState) store(c *modelConfig, a int, loc, val int8) {
	if !c.tso {
		s.mem[loc] = val
		return
	}
	b := &s.buf[a]
	b.e[b.n] = struct{ loc, val int8 }{loc, val}
	b.n++
}

// flush moves an actor's oldest buffered store to memory.
func (s *modelState) flush(a int) {
	b := &s.buf[a]
	s.mem[b.e[0].loc] = b.e[0].val
	copy(b.e[:], b.e[1:])
	b.n--
	b.e[b.n] = struct{ loc, val int8 }{}
}

// fenced says whether a fence, a read-modify-write or a system call of actor a may go ahead: its buffer must have drained.
func (s *modelState) fenced(a int) bool { return s.buf[a].n == 0 }

// words are the locations as one side sees them.
type words struct{ mine, peers, count, waiters, peerCount, peerWaiters, closed int8 }

var sides = [2]words{
	producer: {mTail, mHead, mSpaceCount, mSpaceWaiters, mItemsCount, mItemsWaiters, mProducerClosed},
	consumer: {mHead, mTail, mItemsCount, mItemsWaiters, mSpaceCount, mSpaceWaiters, mConsumerClosed},
}

func (s *modelState) ready(c *modelConfig, a int) bool {
	peer := s.load(a, sides[a].peers)
	if a == producer {
		return s.own[a]-peer < c.capacity
	}
	return peer != s.own[a]
}

// step lets the producer or the consumer take its next step, if it can.
func (s *modelState) step(c *modelConfig, a int) bool {
	side := a
	if a == helper {
		side = producer
	}
	w, pc := sides[side], &s.pc[a]
	if a != helper && s.asleep[a] {
		return false
	}
	switch *pc {
	case atStart:
		if a == helper {
			return false // until something is handed over
		}
		*pc = atLook
		closed := a == producer && s.load(a, w.closed) != 0
		if closed || s.own[a] == modelMessages {
			*pc = atEnd
			if s.settles(a) && !(closed && c.closeDrops) {
				*pc = atPost
			}
		}
	case atLook:
		switch {
		case s.ready(c, a):
			*pc = atPublish
		case !c.waitsFirst && s.settles(a):
			*pc = atPost
		default:
			*pc = atArm
		}
	case atPublish:
		s.own[a]++
		s.store(c, a, w.mine, s.own[a])
		*pc = atPost
	case atPost:
		if !c.noFence && !s.fenced(a) {
			return false
		}
		*pc = atStart
		if s.load(a, w.peerWaiters) != 0 {
			*pc = atPeerCounted
		}
	case atPeerCounted:
		*pc = atSetCount
		if c.coalesce && s.load(a, w.peerCount) != 0 {
			*pc = atStart
		}
	case atSetCount:
		s.store(c, a, w.peerCount, 1)
		*pc = atWake
	case atWake:
		if !s.fenced(a) {
			return false
		}
		if c.door == "futex" {
			s.asleep[1-side] = false
		} else {
			s.rung[1-side] = true
		}
		*pc = atStart
	case atArm:
		if !s.waiterStores(c, a, w.waiters, 1) {
			return false
		}
		*pc = atClear
		if c.clearAfter {
			*pc = atReadClosed
		}
		if c.lateLook {
			*pc = atSleep
		}
	case atClear:
		if !s.waiterStores(c, a, w.count, 0) {
			return false
		}
		*pc = atReadClosed
		if c.closedAfter {
			*pc = atLookAgain
		}
	case atReadClosed:
		s.isClosed[a] = s.load(a, w.closed) != 0
		*pc = atLookAgain
	case atLookAgain:
		switch {
		case s.ready(c, a):
			s.isClosed[a] = false
			*pc = atDisarm
		case c.closedAfter:
			*pc = atLateClosed
		case s.isClosed[a]:
			*pc = atDisarm
		case c.clearAfter:
			*pc = atLateClear
		default:
			*pc = atSleep
		}
	case atLateClosed:
		s.isClosed[a] = s.load(a, w.closed) != 0
		*pc = atSleep
		if s.isClosed[a] {
			*pc = atDisarm
		}
	case atLateClear:
		if !s.waiterStores(c, a, w.count, 0) {
			return false
		}
		*pc = atSleep
	case atSleep:
		if !s.fenced(a) {
			return false
		}
		*pc = afterSleep(c)
		switch c.door {
		case "futex":
			s.asleep[a] = s.mem[w.count] == 0
		case "bell":
			s.asleep[a], s.heard[a] = !s.heard[a], false
		case "event":
			if !s.preparePoll(a, c.earlyCount) {
				*pc = atLookCount
			}
		case "socket":
			if !s.heard[a] {
				*pc = atLookCount
			}
			s.heard[a] = false
		}
	case atLookCount:
		*pc = atPoll
		if s.preparePoll(a, c.door == "socket" || !c.earlyCount) {
			*pc = afterSleep(c)
		}
	case atPoll:
		s.asleep[a], s.heard[a] = !s.heard[a] && !s.shut[a], false
		*pc = afterSleep(c)
	case atDisarm:
		s.store(c, a, w.waiters, 0)
		*pc = atStart
		if s.isClosed[a] {
			*pc = atEnd
		}
	case atEnd:
		return false
	}
	return true
}

// preparePoll is one of the two steps before sleeping at an eventfd.
func (s *modelState) preparePoll(a int, look bool) (counted bool) {
	if look {
		return s.load(a, sides[a].count) != 0
	}
	s.heard[a] = false
	return false
}

// afterSleep is where a sleeper goes on.
func afterSleep(c *modelConfig) int8 {
	if c.clearAfter {
		return atReadClosed
	}
	return atClear
}

// settles reports whether the actor has put a post off, which it is now to make.
func (s *modelState) settles(a int) bool {
	if a != producer || !s.owes {
		return false
	}
	s.owes = false
	return true
}

// putOff lets the producer put the post off that it is about to make.
func (s *modelState) putOff(c *modelConfig) bool {
	if !c.apart || s.pc[producer] != atPost || s.owes || s.own[producer] == modelMessages {
		return false
	}
	s.owes, s.pc[producer] = true, atStart
	return true
}

// handOver lets the helper make the post that the producer is about to make. The lock has been unlocked, which is a fence.
func (s *modelState) handOver(c *modelConfig) bool {
	if !c.apart || s.pc[producer] != atPost || s.pc[helper] != atStart || !c.lazyHandOver && !s.fenced(producer) {
		return false
	}
	s.pc[helper], s.pc[producer] = atPost, atStart
	return true
}

// waiterStores is how a waiter writes its semaphore: with a read-modify-write, unless the mutant knows better.
func (s *modelState) waiterStores(c *modelConfig, a int, loc, val int8) bool {
	if c.plainArm {
		s.store(c, a, loc, val)
		return true
	}
	if !s.fenced(a) {
		return false
	}
	s.mem[loc] = val
	return true
}

// stepCloser lets another goroutine of the closed side's process close it. Its stores are plain, which is more than the real ones
// may do.
func (s *modelState) stepCloser(c *modelConfig) bool {
	if c.closes == mActors {
		return false
	}
	w := sides[c.closes]
	switch s.pc[closer] {
	case closeNotYet:
		s.due = s.mem[mTail]
		if !c.closeOnlyWakes {
			s.store(c, closer, w.closed, 1)
		}
	case closeSetCount:
		if !c.closeNoCount {
			s.store(c, closer, w.count, 1)
		}
	case closeWake:
		if !s.fenced(closer) {
			return false
		}
		switch {
		case c.closeNoWake:
		case c.door == "bell":
			s.hear(c, c.closes)
		default:
			s.asleep[c.closes], s.shut[c.closes] = false, true
		}
	case closeEnd:
		return false
	}
	s.pc[closer]++
	return true
}

// hear brings what was rung at a side to its sleeper.
func (s *modelState) hear(c *modelConfig, a int) {
	if !s.asleep[a] && !c.deafBell {
		s.heard[a] = true
	}
	s.asleep[a] = false
}

// carry lets what was rung at a side arrive.
func (s *modelState) carry(c *modelConfig, a int) bool {
	if !s.rung[a] {
		return false
	}
	s.rung[a] = false
	s.hear(c, a)
	return true
}

// die ends the peer of the side that is closed, wherever it is. What it stored still reaches memory.
func (s *modelState) die(c *modelConfig) bool {
	if c.closes == mActors || c.apart || s.pc[1-c.closes] == atEnd { // where posts are apart it would take too long to try
		return false
	}
	s.pc[1-c.closes], s.asleep[1-c.closes], s.died = atEnd, false, true
	return true
}

// wrong says what is wrong with a state, if anything is. final says that no actor can go on.
func (s *modelState) wrong(c *modelConfig, final bool) string {
	if d := s.mem[mTail] - s.mem[mHead]; d < 0 || d > c.capacity {
		return "positions apart"
	}
	if s.pc[consumer] == atEnd && s.own[consumer] < s.due && c.closes == consumer {
		return "committed message lost in a close"
	}
	if !final {
		return ""
	}
	for a := range sides {
		besideClosed := c.closes == 1-a && s.pc[1-a] == atEnd
		if s.pc[a] != atEnd && !besideClosed {
			return "asleep for ever"
		}
	}
	if c.closes == producer && !s.died && s.pc[consumer] != atEnd && s.mem[mTail] != s.own[consumer] {
		return "asleep beside a message"
	}
	return ""
}

// explore visits every reachable state and returns how many there are and the first thing found wrong.
func explore(c modelConfig) (states int, wrong string) {
	seen := map[modelState]bool{{}: true}
	for stack := []modelState{{}}; len(stack) > 0; {
		s := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		final := true
		visit := func(next modelState) {
			final = false
			if !seen[next] {
				seen[next] = true
				stack = append(stack, next)
			}
		}
		for a := range mActors {
			next := s
			if a == closer && next.stepCloser(&c) || a != closer && next.step(&c, a) {
				visit(next)
			}
			if next = s; next.buf[a].n > 0 {
				next.flush(a)
				visit(next)
			}
		}
		for a := range sides {
			if next := s; next.carry(&c, a) {
				visit(next)
			}
		}
		for _, may := range []func(*modelState, *modelConfig) bool{(*modelState).putOff, (*modelState).handOver} {
			if next := s; may(&next, &c) {
				visit(next)
			}
		}
		if what := s.wrong(&c, final); what != "" {
			return len(seen), fmt.Sprintf("%s: %+v", what, s)
		}
		if next := s; next.die(&c) { // which nobody may count on
			visit(next)
		}
	}
	return len(seen), ""
}

// doors are where a sleeper may sleep.
var doors = [...]string{"futex", "bell", "event", "socket"}

func forEachModel(m mutant, visit func(c modelConfig, name string)) {
	for flags := range 8 * len(doors) {
		tso, coalesce, apart, door := flags&1 != 0, flags&2 != 0, flags&4 != 0, doors[flags/8]
		for _, capacity := range []int8{1, 2} {
			for _, closes := range []int{mActors, producer, consumer} {
				// What makes no difference to posts that are apart is left out there; and but in the futex a close, whose peer hears of it by other means, for that takes long.
				if apart && !(tso && coalesce && closes != consumer) || apart && door != "futex" && closes == producer {
					continue
				}
				if (door == "event" || door == "socket") && !tso { // which can do nothing else
					continue
				}
				c := modelConfig{mutant: m, door: door, coalesce: coalesce, tso: tso, apart: apart, capacity: capacity, closes: closes}
				name := [...]string{producer: "producer", consumer: "consumer", mActors: "nobody"}[closes]
				visit(c, fmt.Sprintf("door=%s tso=%t coalesce=%t apart=%t capacity=%d closes=%s", door, tso, coalesce, apart, capacity, name))
			}
		}
	}
}

func TestModel(t *testing.T) {
	forEachModel(mutant{}, func(c modelConfig, name string) {
		states, wrong := explore(c)
		if wrong != "" {
			t.Errorf("%s: %s", name, wrong)
		}
		t.Logf("%s: %d states", name, states)
	})
}

// TestModelCatchesMutants shows that the model would notice: each mistake must be found in at least one of the configurations.
func TestModelCatchesMutants(t *testing.T) {
	for name, m := range map[string]mutant{
		"no fence in post":             {noFence: true},
		"armed with a plain store":     {plainArm: true},
		"count cleared after looking":  {clearAfter: true},
		"closed read after looking":    {closedAfter: true},
		"close does not set count":     {closeNoCount: true},
		"close does not wake":          {closeNoWake: true},
		"close does not set closed":    {closeOnlyWakes: true},
		"a bell forgets":               {deafBell: true},
		"no look after arming":         {lateLook: true},
		"count looked at too early":    {earlyCount: true},
		"a post is owed while waiting": {waitsFirst: true},
		"a close drops what is owed":   {closeDrops: true},
		"handed over too early":        {lazyHandOver: true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, door := range doors {
				// A bell keeps what is rung until somebody sleeps, and at an eventfd or a socket nobody sleeps any more, so their closes have no need of count, and who closes one of those and does not say so is not asleep but busy; what is forgotten count makes up for, but at a bell.
				polled := door == "event" || door == "socket"
				if polled && m.closeOnlyWakes || door != "futex" && (m.closeNoCount || m.closeDrops) || door != "bell" && m.deafBell || door != "event" && m.earlyCount {
					continue
				}
				caught := ""
				forEachModel(m, func(c modelConfig, in string) {
					if caught != "" || c.door != door || !c.apart && (m.waitsFirst || m.closeDrops || m.lazyHandOver) {
						return
					}
					if _, wrong := explore(c); wrong != "" {
						caught = in + ": " + wrong
					}
				})
				if caught == "" {
					t.Fatalf("the model does not notice this mistake at the %s", door)
				}
				t.Log(caught)
			}
		})
	}
}
