package cache

import (
	"context"
	"io"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// What a request may say of the cache in its header `cache`.
const (
	bypass  = "bypass"   // it goes to a worker, whatever is known, and its answer is not kept
	noStore = "no-store" // it may be answered from the cache; if a worker answers, that is not kept
	refresh = "refresh"  // it goes to a worker, and its answer takes the place of what is kept
)

// What a reply says of where it is from, in its header `cache`.
const (
	saidHit        = "hit"
	saidMiss       = "miss"
	saidStale      = "stale"
	saidCoalesced  = "coalesced"
	saidPrefetched = "prefetched"
)

// question is a request that the cache has to do with.
type question struct {
	ctx      context.Context
	req      *ipc.Request
	next     chain.Handler
	settings *settings
	pool     *pool
	action   *action
	key      Key
}

// answer answers a request for an action that the configuration names.
func (c *Cache) answer(q *question) (ipc.Replies, error) {
	if q.action.TTL == 0 {
		return c.watch(q)
	}
	wish := q.req.Headers["cache"]
	switch wish {
	case "", noStore, refresh:
	case bypass:
		return q.next(q.ctx, q.req)
	default:
		return nil, ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "the header cache is %q; use %s, %s or %s, or leave it out", wish, bypass, noStore, refresh)
	}
	if slow(q.req) {
		q.req.Waits()
	}
	q.key = c.key(q.ctx, q.req, q.pool, q.action)
	if q.settings.learn {
		c.ahead.observe(c, q)
	}
	if wish != refresh {
		if e, age := q.settings.store.find(q.key, q.action.TTL); e != nil {
			return c.hit(q, e, age), nil
		}
	}
	if wish == noStore {
		return q.next(q.ctx, q.req)
	}
	return c.ask(q, wish == refresh)
}

// hit hands an entry out.
func (c *Cache) hit(q *question, e *entry, age time.Duration) *replay {
	said := saidHit
	if e.ahead {
		said = saidPrefetched
		q.action.meters.ahead.Inc()
		if !e.used.Swap(true) {
			q.action.meters.used.Inc()
		}
	} else {
		q.action.meters.hits.Inc()
	}
	return &replay{cache: c, question: q, entry: e, said: said, age: age}
}

// replay is the [ipc.Replies] of an entry. Whoever takes them sets the pace, so that a stream needs no other credit.
type replay struct {
	cache    *Cache
	question *question
	entry    *entry
	said     string
	age      time.Duration
	next     int   // reply
	held     int64 // bytes of the last one, for which the client is charged
}

// Recv implements [ipc.Replies].
func (r *replay) Recv(ctx context.Context) (*ipc.Reply, error) {
	if r.next == len(r.entry.replies) {
		return nil, io.EOF
	}
	for _, c := range [...]context.Context{r.question.ctx, ctx} {
		if c.Err() != nil {
			r.next = len(r.entry.replies)
			return nil, ipc.AsError(context.Cause(c))
		}
	}
	kept := r.entry.replies[r.next]
	size := weigh(kept)
	if err := r.question.req.Hand(size, r.held); err != nil {
		r.next = len(r.entry.replies)
		return nil, err
	}
	r.held = size
	said := r.said
	if r.next++; r.next > 1 {
		said = ""
	}
	out := handed(kept, said, r.age)
	if out.End {
		r.cache.follow(r.question, kept, r.next == 1)
	}
	return out, nil
}

// Cancel implements [ipc.Replies].
func (r *replay) Cancel(string) { r.next = len(r.entry.replies) }

// watch waits for the end of an answer that is not cached, after which others are asked in advance.
func (c *Cache) watch(q *question) (ipc.Replies, error) {
	replies, err := q.next(q.ctx, q.req)
	if err != nil || len(q.action.then) == 0 {
		return replies, err
	}
	return &watched{Replies: replies, cache: c, question: q}, nil
}

type watched struct {
	ipc.Replies
	cache    *Cache
	question *question
	seen     int
}

// Recv implements [ipc.Replies].
func (w *watched) Recv(ctx context.Context) (*ipc.Reply, error) {
	r, err := w.Replies.Recv(ctx)
	if err == nil {
		if w.seen++; r.End {
			w.cache.follow(w.question, r, w.seen == 1)
		}
	}
	return r, err
}
