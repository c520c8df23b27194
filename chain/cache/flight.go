package cache

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// flightCredit is how many replies a worker may send ahead of the flight, which takes them as they come while they may be kept.
const flightCredit = 16

// flight is one request on its way to a worker and back, for everybody who asks the same meanwhile.
//
//	take off ──▶ begun ──▶ replies … END ──▶ ended: the answer is kept
//	                │         └─ too large, no room: not whole, nobody may join any more, and the slowest reader sets the pace, for a while
//	                └─ the last one has left: cancelled
type flight struct {
	cache  *Cache
	key    Key
	action *action
	pool   *pool
	cancel context.CancelCauseFunc
	ahead  bool // immutable: it is a prefetch

	mu      sync.Mutex
	begun   bool          // guarded by mu; a worker has it
	replies []*ipc.Reply  // guarded by mu; those that somebody has not taken, and while it is whole all
	first   int           // guarded by mu; the number of replies[0]
	whole   bool          // guarded by mu; replies are copies, of everything that came, and what they take is held
	held    int64         // guarded by mu; bytes of the store's room
	ended   bool          // guarded by mu; nothing more will come
	err     *ipc.Error    // guarded by mu; how it ended, if not with an END
	joined  bool          // guarded by mu; of a prefetch: somebody who asked himself has joined
	yielded bool          // guarded by mu; of a prefetch: its worker was told to cancel it, and nobody may join any more
	waiting []*waiter     // guarded by mu
	wake    chan struct{} // guarded by mu; closed at the next change; nil: nobody waits for one
}

// takeOff begins a flight for a waiter, and lists it for others. Preconditions: cache.flying is held.
func (c *Cache) takeOff(w *waiter) *flight {
	q := w.question
	f := &flight{cache: c, key: q.key, action: q.action, pool: q.pool, ahead: w.ahead, whole: true, waiting: []*waiter{w}}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(q.ctx)) // it ends when nobody waits any more, not when the first one leaves
	f.cancel = cancel
	req, end := q.req.Fork()
	req.Credit = flightCredit
	if f.ahead {
		req.Yield = f.yield
	}
	if _, wish := req.Headers["cache"]; wish { // it has been granted
		req.Headers = maps.Clone(req.Headers)
		delete(req.Headers, "cache")
	}
	if req.Timeout > 0 { // those who join may have more time
		req.Timeout = max(req.Timeout, q.pool.timeout)
	}
	c.flights[f.key] = f
	c.work.Add(1)
	go f.run(ctx, q, req, end)
	return f
}

// run asks the next link, and gathers what it answers.
func (f *flight) run(ctx context.Context, q *question, req *ipc.Request, end func()) {
	defer f.cache.work.Done()
	defer f.cancel(nil)
	defer end()
	replies, err := q.next(ctx, req)
	if err != nil {
		f.fail(err)
		return
	}
	f.begin()
	for {
		r, err := replies.Recv(ctx)
		if err != nil {
			f.fail(err)
			return
		}
		f.add(r)
		if err := f.pace(ctx); err != nil {
			if !r.End {
				replies.Cancel(ipc.AsError(err).Reason)
				f.fail(err)
			}
			return
		}
		if r.End {
			return
		}
	}
}

func (f *flight) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.begun = true
	f.changed()
}

// changed wakes who waits. Preconditions: mu is held.
func (f *flight) changed() {
	if f.wake != nil {
		close(f.wake)
		f.wake = nil
	}
}

// change returns what is closed at the next change. Preconditions: mu is held.
func (f *flight) change() <-chan struct{} {
	if f.wake == nil {
		f.wake = make(chan struct{})
	}
	return f.wake
}

// fail ends the flight without an END.
func (f *flight) fail(err error) {
	e := ipc.AsError(err)
	if errors.Is(err, io.EOF) {
		e = ipc.Errorf(ipc.Internal, "internal", "the replies ended without an END")
	}
	f.unlist()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended, f.err = true, e
	f.settle()
	f.changed()
}

// unlist has nobody join any more.
func (f *flight) unlist() {
	f.cache.flying.Lock()
	defer f.cache.flying.Unlock()
	if f.cache.flights[f.key] == f {
		delete(f.cache.flights, f.key)
	}
}

// settle gives back what an answer holds that is not kept and that nobody will take any more. Preconditions: mu is held.
func (f *flight) settle() {
	if f.ended && len(f.waiting) == 0 && f.held > 0 {
		f.cache.store.Load().room.give(f.held)
		f.held = 0
	}
}

// add takes a reply in. An END ends the flight; before anybody sees it, the answer is kept.
func (f *flight) add(r *ipc.Reply) {
	r, whole := f.copy(r)
	if !whole {
		f.unlist()
	} else if r.End {
		f.keep(r)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.replies = append(f.replies, r)
	f.ended = r.End
	f.settle()
	f.changed()
}

// copy returns a copy of a reply that may be kept; false: there is no room for it, or it is of no use, and neither is what came before.
func (f *flight) copy(r *ipc.Reply) (*ipc.Reply, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.whole {
		return r, false
	}
	size := weigh(r)
	if f.held == 0 {
		size += entryOverhead
	}
	if !keepable(r) || f.held+size > f.action.MaxEntry || !f.cache.store.Load().room.take(size) {
		f.whole = false
		f.trim()
		return r, false
	}
	f.held += size
	return replica(r), true
}

// keep stores the answer that ends with a reply, if it is still of use: the pool is what it was when the flight began, and no later one has been asked for instead.
func (f *flight) keep(end *ipc.Reply) {
	c := f.cache
	c.flying.Lock()
	defer c.flying.Unlock()
	if c.flights[f.key] != f {
		return
	}
	delete(c.flights, f.key)
	s := c.settings.Load()
	if s == nil || s.pools[f.action.pool] == nil || s.pools[f.action.pool].version != f.pool.version {
		return
	}
	f.mu.Lock()
	e := &entry{replies: append(slices.Clip(f.replies), end), size: f.held, at: s.store.now(), action: f.action, ahead: f.ahead}
	e.used.Store(f.joined)
	f.held = 0 // it is the entry's now
	f.mu.Unlock()
	s.store.keep(f.key, e)
}

// trim forgets what all have taken, where it is of no more use. Preconditions: mu is held.
func (f *flight) trim() {
	if f.whole {
		return
	}
	if len(f.waiting) == 0 {
		f.replies = nil
		f.changed()
		return
	}
	taken := f.waiting[0].taken
	for _, w := range f.waiting {
		taken = min(taken, w.taken)
	}
	if n := taken - f.first; n > 0 {
		f.replies = slices.Delete(f.replies, 0, n)
		f.first = taken
		f.changed()
	}
}

// maxDelay is how long in all a reader of what is handed through may make others wait before it is left behind.
const maxDelay = 10 * time.Second

// pace waits, where the answer is not being kept, until everybody has taken what came, or has been left behind.
func (f *flight) pace(ctx context.Context) error {
	var slow []*waiter // for whom others wait
	since := time.Now()
	for {
		f.mu.Lock()
		now := time.Now()
		for _, w := range slow {
			w.delay += now.Sub(since)
		}
		since = now
		slow = f.slow()
		left := f.leaveBehind(slow)
		if f.whole || len(f.replies) == 0 {
			f.mu.Unlock()
			return nil
		}
		wake := f.change()
		f.mu.Unlock()
		late, stop := after(left, len(slow) > 0)
		select {
		case <-wake:
		case <-late:
		case <-ctx.Done():
			stop()
			return context.Cause(ctx)
		}
		stop()
	}
}

// after is a timer, if there is to be one.
func after(d time.Duration, wanted bool) (<-chan time.Time, func() bool) {
	if !wanted {
		return nil, func() bool { return true }
	}
	t := time.NewTimer(d)
	return t.C, t.Stop
}

// slow returns the waiters who have not taken what came while somebody else has. Preconditions: mu is held.
func (f *flight) slow() (slow []*waiter) {
	for _, w := range f.waiting {
		if w.taken < f.first+len(f.replies) {
			slow = append(slow, w)
		}
	}
	if len(slow) == len(f.waiting) {
		return nil
	}
	return slow
}

// leaveBehind takes those off who have made others wait for too long, and returns how much longer the others may. Preconditions: mu is held.
func (f *flight) leaveBehind(slow []*waiter) (left time.Duration) {
	left = maxDelay
	for _, w := range slow {
		if w.delay < maxDelay {
			left = min(left, maxDelay-w.delay)
			continue
		}
		w.behind = true
		f.waiting = slices.DeleteFunc(f.waiting, func(o *waiter) bool { return o == w })
		f.trim()
		f.changed()
	}
	return left
}

// leave takes a waiter off. The last one to leave ends the flight.
func (f *flight) leave(w *waiter, why *ipc.Error) {
	f.mu.Lock()
	f.waiting = slices.DeleteFunc(f.waiting, func(o *waiter) bool { return o == w })
	f.trim()
	abandoned := len(f.waiting) == 0 && !f.ended
	f.settle()
	f.mu.Unlock()
	if abandoned {
		f.unlist()
		f.cancel(why)
	}
}

// yield gives a prefetch up for somebody who waits for its worker, unless somebody has joined it. If the worker finishes it all the same, the answer is kept.
func (f *flight) yield() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.yielded = !f.joined
	return f.yielded
}

// join adds a waiter, unless everybody has just left. Preconditions: cache.flying is held, the flight is listed.
func (f *flight) join(w *waiter) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.whole || f.yielded || len(f.waiting) == 0 {
		return false
	}
	f.waiting = append(f.waiting, w)
	if f.ahead && !w.ahead && !f.joined {
		f.joined = true
		f.action.meters.used.Inc()
	}
	return true
}
