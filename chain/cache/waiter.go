package cache

import (
	"context"
	"io"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// waiter is one who waits for a flight's answer; its [ipc.Replies].
type waiter struct {
	cache    *Cache
	question *question
	ahead    bool // immutable: it is a prefetch, nobody waits

	flight *flight
	leads  bool          // the flight began with this one
	taken  int           // replies; guarded by flight.mu
	held   int64         // bytes of the last reply, for which the client is charged
	delay  time.Duration // guarded by flight.mu; for how long others have waited for it
	behind bool          // guarded by flight.mu; others wait no longer
	over   bool          // it has left

	kept *replay // what it gets instead, because that was found in the cache in the end
}

// ask has a question answered by a worker, together with others that are the same; anew: not by what was asked before. It returns when a worker has it.
func (c *Cache) ask(q *question, anew bool) (ipc.Replies, error) {
	w := &waiter{cache: c, question: q}
	if w.board(anew); w.kept != nil {
		return w.kept, nil
	}
	if w.leads {
		q.action.meters.misses.Inc()
	} else {
		q.action.meters.coalesced.Inc()
	}
	if err := w.await(); err != nil {
		return nil, err
	}
	return w, nil
}

// board joins the flight that is under way, or begins one, unless an answer was kept since it was looked for.
func (w *waiter) board(anew bool) {
	c, q := w.cache, w.question
	c.flying.Lock()
	defer c.flying.Unlock()
	if !anew {
		if f := c.flights[q.key]; f != nil && f.join(w) {
			w.flight, w.over = f, false
			return
		}
		if e, age := q.settings.store.find(q.key, q.action.TTL); e != nil {
			w.kept = c.hit(q, e, age)
			return
		}
	}
	w.flight, w.leads, w.over = c.takeOff(w), true, false
}

// await waits until a worker has the request, or the answer is kept.
func (w *waiter) await() error {
	for {
		f := w.flight
		f.mu.Lock()
		failed, begun := f.ended && f.err != nil && len(f.replies) == 0, f.begun || f.ended
		err, wake := f.err, (<-chan struct{})(nil)
		if !begun {
			wake = f.change()
		}
		f.mu.Unlock()
		switch {
		case failed:
			if !w.again(err) {
				w.leave(err)
				return err
			}
			if w.retry(err); w.kept != nil {
				return nil
			}
			continue
		case begun:
			return nil
		}
		w.question.req.Waits()
		select {
		case <-wake:
		case <-w.question.ctx.Done():
			return w.ended(w.question.ctx)
		}
	}
}

// again reports whether to ask once more by oneself, because the flight failed for a reason that was the first one's: his deadline, his place in the queue, his memory.
func (w *waiter) again(err *ipc.Error) bool {
	if w.leads || w.taken > 0 || w.question.ctx.Err() != nil {
		return false
	}
	return err.Code == ipc.ResourceExhausted || err.Code == ipc.Cancelled || err.Code == ipc.DeadlineExceeded && err.Reason == "deadline"
}

// retry leaves a flight that failed for another.
func (w *waiter) retry(err *ipc.Error) {
	w.leave(err)
	w.board(false)
}

// ended leaves at the end of a context.
func (w *waiter) ended(ctx context.Context) *ipc.Error {
	err := ipc.AsError(context.Cause(ctx))
	w.leave(err)
	return err
}

func (w *waiter) leave(why *ipc.Error) {
	if !w.over {
		w.over = true
		w.flight.leave(w, why)
	}
}

// Recv implements [ipc.Replies].
func (w *waiter) Recv(ctx context.Context) (*ipc.Reply, error) {
	for {
		switch {
		case w.kept != nil:
			return w.kept.Recv(ctx)
		case w.over:
			return nil, io.EOF
		}
		r, err, wake := w.take()
		switch {
		case r != nil:
			return w.hand(r)
		case err != nil && w.again(err):
			w.retry(err)
			continue
		case err != nil:
			w.leave(err)
			return nil, err
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, w.ended(ctx)
		case <-w.question.ctx.Done():
			return nil, w.ended(w.question.ctx)
		}
	}
}

// take takes the next reply if it is there, else says how the flight ended, or what to wait for.
func (w *waiter) take() (r *ipc.Reply, err *ipc.Error, wake <-chan struct{}) {
	f := w.flight
	f.mu.Lock()
	defer f.mu.Unlock()
	if w.behind {
		return nil, ipc.Errorf(ipc.ResourceExhausted, "slow_reader", "others who asked the same have waited %v in all for this reader; read faster, or ask with the header cache: bypass", maxDelay), nil
	}
	if i := w.taken - f.first; i < len(f.replies) {
		r = f.replies[i]
		w.taken++
		if !f.whole {
			f.trim()
			f.changed()
		}
		return r, nil, nil
	}
	if f.ended {
		return nil, f.err, nil
	}
	return nil, nil, f.change()
}

// hand gives a reply out.
func (w *waiter) hand(r *ipc.Reply) (*ipc.Reply, error) {
	size := weigh(r)
	if err := w.question.req.Hand(size, w.held); err != nil {
		w.leave(err)
		return nil, err
	}
	w.held = size
	said := ""
	if w.taken == 1 {
		said = saidMiss
		if !w.leads {
			said = saidCoalesced
		}
	}
	if r.End {
		w.leave(nil)
		if !w.ahead {
			w.cache.follow(w.question, r, w.taken == 1)
		}
	}
	return handed(r, said, -1), nil
}

// Cancel implements [ipc.Replies].
func (w *waiter) Cancel(reason string) {
	if w.kept != nil {
		w.kept.Cancel(reason)
	}
	w.leave(ipc.Errorf(ipc.Cancelled, reason, "the request was cancelled"))
}
