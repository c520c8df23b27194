package supervisor

import (
	"context"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Affinity: with `balance: hash` requests of one key (a session, else a client) go to the same worker, where what they have in common may still lie in a cache.
//
//	rank the slots by a hash of key and number ──▶ the first that takes requests at all ──free──▶ it
//	                                                        └─busy──▶ wait in the queue, affinity_wait at most, others pass ──▶ the next in rank that is free
//
// Nothing is remembered: where a key belongs follows from its hash and from which workers are up. When a worker goes, its keys and only those move to the next in their own rank, each another; when it is back, they come back. One
// worker more or less moves as many keys as one worker has.

// affinityKey is the key of a request; 0: it has none, and any worker will do.
func affinityKey(req *ipc.Request) uint64 {
	if req.Affinity != 0 || req.Client == (ipc.Client{}) {
		return req.Affinity
	}
	return max(1, mix(uint64(req.Client.UID)<<32|uint64(uint32(req.Client.PID))))
}

// weight is a slot's in the ranking of a key: rendezvous hashing (Thaler and Ravishankar, 1998).
func weight(key uint64, slot int) uint64 { return mix(key ^ mix(uint64(slot)+1)) }

// mix is splitmix64's finalizer: every bit of the result depends on every bit of x.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// prefer returns the slot for a request with a key, or −1 if it is to wait: the first in rank that takes requests is busy, and spill does not allow another.
func prefer(load []int, key uint64, spill bool) int {
	best, first := -1, -1
	var bestWeight, firstWeight uint64
	for i, l := range load {
		if l == gone {
			continue
		}
		w := weight(key, i)
		if first < 0 || w > firstWeight {
			first, firstWeight = i, w
		}
		if l >= 0 && (best < 0 || w > bestWeight) {
			best, bestWeight = i, w
		}
	}
	if best == first || spill {
		return best
	}
	return -1
}

// spillAt is until when a request waits for the worker that it belongs to: for a while, and no longer than half of what its deadline leaves.
func spillAt(ctx context.Context, now time.Time, wait time.Duration) time.Time {
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, deadline.Sub(now)/2)
	}
	return now.Add(wait)
}

// spills reports whether a request takes whatever place there is, rather than wait for the worker that it belongs to.
func (w *waiter) spills(now time.Time) bool { return w.again || w.alone || !now.Before(w.spill) }

// bind marks the requests that wait for a worker of their own choice, though there may be a place elsewhere, and returns when the first of these stops doing so; zero: none does. Those that others are gathered with are counted already.
func (q *fairQueue) bind(load []int, now time.Time) (next time.Time) {
	for _, f := range q.flows {
		for e := f.waiting.Front(); e != nil; e = e.Next() {
			w := e.Value.(*waiter)
			w.bound = w.key != 0 && !w.spills(now) && prefer(load, w.key, false) < 0
			if !w.bound {
				continue
			}
			if w.gather == nil || !w.gather.waits {
				q.held++
			}
			if next.IsZero() || w.spill.Before(next) {
				next = w.spill
			}
		}
	}
	return next
}

// unbind has every request take whatever place there is.
func (q *fairQueue) unbind() {
	for _, f := range q.flows {
		for e := f.waiting.Front(); e != nil; e = e.Next() {
			w := e.Value.(*waiter)
			w.key, w.bound = 0, false
		}
	}
	q.held = 0 // what is gathered is counted again before the next turn
}
