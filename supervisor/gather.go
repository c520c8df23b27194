package supervisor

import (
	"container/list"
	"time"
)

// gather is what the queue knows of an action whose requests may be run together: which of them wait, and when it is time for them to go.
//
//	a worker is idle, none waits ──▶ a request goes alone, at once
//	else it waits ──┬─ max of them wait ─────────────────────────────────────────────────┐
//	                ├─ the one that came first has waited for delay ─────────────────────┼─▶ due: as soon as there is a place, up to max go together
//	                └─ one has no more time left than a run takes, before its deadline ──┘
//
// It is a pure data structure: its pool's lock guards it.
type gather struct {
	max     int           // requests in one call; 1: none is to be waited for any more
	delay   time.Duration // that the first waits for others
	took    time.Duration // running mean of what a call takes
	waiting list.List     // of *waiter, first come first
	waits   bool          // set by fairQueue.look: it is not due
}

// join puts a request with those that wait. deadline is when it has to have ended; zero: it may take for ever.
func (g *gather) join(w *waiter, now, deadline time.Time) {
	w.since, w.latest = now, deadline
	if !deadline.IsZero() {
		w.latest = deadline.Add(-g.took)
	}
}

// goes is until when a request waits for others.
func (g *gather) goes(w *waiter) time.Time {
	goes := w.since.Add(g.delay)
	if !w.latest.IsZero() && w.latest.Before(goes) {
		return w.latest
	}
	return goes
}

// due says when the requests that wait are to go: the zero time if at once.
func (g *gather) due(now time.Time) time.Time {
	if g.max <= 1 || g.waiting.Len() >= g.max {
		return time.Time{}
	}
	var first time.Time
	for e := g.waiting.Front(); e != nil; e = e.Next() {
		goes := g.goes(e.Value.(*waiter))
		if !goes.After(now) {
			return time.Time{}
		}
		if first.IsZero() || goes.Before(first) {
			first = goes
		}
	}
	return first
}

// look finds out which actions' requests wait for others of their kind, and returns when the first of these is due; zero: none waits.
func (q *fairQueue) look(now time.Time) (next time.Time) {
	q.held = 0
	for _, g := range q.gathers {
		due := g.due(now)
		g.waits = !due.IsZero()
		if !g.waits {
			continue
		}
		q.held += g.waiting.Len()
		if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return next
}

// gathering reports whether any requests are gathered. An action's gather stays when a reload says that they are not any more.
func (q *fairQueue) gathering() bool {
	for _, g := range q.gathers {
		if g.max > 1 {
			return true
		}
	}
	return false
}

// company removes up to n requests of an action, to go with one whose turn it was: those that came first, or, if there are more, as many of each client as is its part. Every one is charged.
func (q *fairQueue) company(g *gather, n int, quantum time.Duration) []*waiter {
	n = min(n, g.waiting.Len())
	chosen := make([]*waiter, 0, n)
	if n < g.waiting.Len() {
		chosen = q.fairest(chosen, g, n, quantum)
	} else {
		for e := g.waiting.Front(); e != nil; e = e.Next() {
			chosen = append(chosen, e.Value.(*waiter))
		}
	}
	for _, w := range chosen {
		w.flow.deficit -= max(minCost, w.cost)
		q.remove(w)
	}
	return chosen
}

// fairest appends n requests of an action, each of the client that is least in debt by then, measured by what it gets for a turn.
func (q *fairQueue) fairest(chosen []*waiter, g *gather, n int, quantum time.Duration) []*waiter {
	type line struct {
		waiting []*waiter
		credit  float64 // turns
		share   float64
	}
	var lines []*line
	byFlow := map[*flow]*line{}
	for e := g.waiting.Front(); e != nil; e = e.Next() {
		w := e.Value.(*waiter)
		l := byFlow[w.flow]
		if l == nil {
			share := float64(q.share(w.flow, quantum))
			l = &line{credit: float64(w.flow.deficit) / share, share: share}
			byFlow[w.flow], lines = l, append(lines, l)
		}
		l.waiting = append(l.waiting, w)
	}
	for range n {
		var best *line
		for _, l := range lines {
			if len(l.waiting) > 0 && (best == nil || l.credit > best.credit) {
				best = l
			}
		}
		w := best.waiting[0]
		best.waiting = best.waiting[1:]
		best.credit -= float64(max(minCost, w.cost)) / best.share
		chosen = append(chosen, w)
	}
	return chosen
}
