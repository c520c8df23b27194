package cache

import (
	"context"
	"sync/atomic"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// prefetcher asks in advance. What it asks is background work (see [ipc.Request]): its pool runs it only if a worker is idle and nobody waits, and refuses it otherwise; and it gives way to who comes later, see flight.yield, so that
// nobody waits for more than the one request that happens to run in advance in a worker that does not listen. It is not asked again, does not queue, and what finds as many under way as may be is forgotten.
type prefetcher struct {
	next    chain.Handler   // immutable once requests come
	ctx     context.Context // immutable; ends with the cache
	stop    context.CancelCauseFunc
	running atomic.Int64
	most    atomic.Int64
	learner learner
}

var errClosing = ipc.Errorf(ipc.Cancelled, "cancelled", "the server is shutting down, and nobody waits for what is asked in advance")

func (p *prefetcher) init() { p.ctx, p.stop = context.WithCancelCause(context.Background()) }

func (p *prefetcher) configure(cfg Prefetch) { p.most.Store(int64(cfg.Concurrency)) }

func (p *prefetcher) close() { p.stop(errClosing) }

// enter takes one of the places there are for prefetches, if there is one.
func (p *prefetcher) enter() bool {
	if p.running.Add(1) <= p.most.Load() && p.ctx.Err() == nil {
		return true
	}
	p.running.Add(-1)
	return false
}

// follow asks in advance what is likely to be asked after a question whose answer ended with a reply, the only one of it or not.
func (c *Cache) follow(q *question, reply *ipc.Reply, only bool) {
	learned := q.settings.learn && q.action.TTL > 0
	if len(q.action.then) == 0 && !learned || !c.ahead.enter() {
		return
	}
	c.work.Add(1)
	go c.runAhead(q, reply, only && len(q.action.then) > 0, learned)
}

// runAhead asks in advance, one after the other.
func (c *Cache) runAhead(q *question, reply *ipc.Reply, declared, learned bool) {
	defer c.work.Done()
	defer c.ahead.running.Add(-1)
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(q.ctx)) // as the same peer
	defer cancel(nil)
	defer context.AfterFunc(c.ahead.ctx, func() { cancel(errClosing) })()
	if declared {
		for i := range q.action.then {
			f := &q.action.then[i]
			if body, ok := render(f.body, q.req.Body, reply.Body); ok {
				c.fetch(ctx, &ipc.Request{Pool: f.pool, Action: f.action, Body: body, Client: q.req.Client, Principal: q.req.Principal, Affinity: q.req.Affinity, Context: q.req.Context, Headers: followHeaders(q.req.Headers)})
			}
		}
	}
	if learned {
		if req := c.ahead.learner.after(c.ownKey(q.ctx, q.req, q.key), q.settings.store.now()); req != nil {
			req.Client, req.Principal, req.Affinity = q.req.Client, q.req.Principal, q.req.Affinity
			c.fetch(ctx, req)
		}
	}
}

// followHeaders are the headers of a request that follows another: those that say something about the answer are taken to be the same, such as the session.
func followHeaders(h map[string]string) map[string]string {
	var c map[string]string
	for name, v := range h {
		if !ownHeaders[name] {
			if c == nil {
				c = make(map[string]string, len(h))
			}
			c[name] = v
		}
	}
	return c
}

// fetch asks a worker in advance, and waits for the end of the answer, which is then in the cache.
func (c *Cache) fetch(ctx context.Context, req *ipc.Request) {
	s := c.settings.Load()
	if s == nil || ctx.Err() != nil {
		return
	}
	p := s.pools[req.Pool]
	if p == nil {
		return
	}
	a := p.actions[req.Action]
	if a == nil || a.TTL == 0 {
		return
	}
	req.Background = true
	q := &question{ctx: ctx, req: req, next: c.ahead.next, settings: s, pool: p, action: a}
	q.key = c.key(ctx, req, p, a)
	w := &waiter{cache: c, question: q, ahead: true}
	if !w.scout() {
		return
	}
	a.meters.issued.Inc()
	for {
		r, err := w.Recv(ctx)
		if err != nil {
			a.meters.refused.Inc()
			return
		}
		if r.End {
			return
		}
	}
}

// scout begins a flight, unless the answer is there or under way.
func (w *waiter) scout() bool {
	c, q := w.cache, w.question
	c.flying.Lock()
	defer c.flying.Unlock()
	if e, _ := q.settings.store.find(q.key, q.action.TTL); e != nil || c.flights[q.key] != nil {
		return false
	}
	w.flight, w.leads = c.takeOff(w), true
	return true
}
