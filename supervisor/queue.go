package supervisor

import (
	"container/list"
	"math"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// fairQueue holds the requests that wait for a worker and says whose turn it is: deficit round robin over clients (Shreedhar and Varghese, 1995), where a request costs the time that a worker is
// expected to spend on it, with fq_codel's two lists (RFC 8290, section 4.2): a client that has not waited goes before those that keep the queue full.
//
//	fresh:  C            a client's first turn: one quantum's worth, then it goes to the end of old
//	old:    A ─▶ B ─▶ …  the first in line is served while its deficit is above zero; then it gets a quantum and goes to the end
//
// A client is a process (see [ipc.Client]). Processes of one user share one user's part. It is a pure data structure: its pool's lock guards it.
type fairQueue struct {
	flows map[ipc.Client]*flow
	fresh list.List      // of *flow
	old   list.List      // of *flow
	users map[uint32]int // flows by user
	len   int            // waiting requests

	gathers map[string]*gather // by action: the pool's, see there
	held    int                // set by look and bind: requests that wait for others of their kind, or for a worker of their choice, and have no turn meanwhile
}

// flow is one client's part of the queue. It is in one of the two lists.
type flow struct {
	client  ipc.Client
	waiting list.List // of *waiter, first come first
	deficit time.Duration
	element *list.Element // in fresh or old
	fresh   bool
}

// A request that is expected to take no time still costs this much.
const minCost = time.Microsecond

// push appends a request. quantum is what an average one costs.
func (q *fairQueue) push(w *waiter, quantum time.Duration) {
	f := q.flows[w.client]
	if f == nil {
		if q.flows == nil {
			q.flows, q.users = map[ipc.Client]*flow{}, map[uint32]int{}
		}
		q.users[w.client.UID]++
		f = &flow{client: w.client, fresh: true}
		f.deficit = q.share(f, quantum)
		f.element = q.fresh.PushBack(f)
		q.flows[w.client] = f
	}
	w.flow = f
	w.element = f.waiting.PushBack(w)
	if w.gather != nil {
		w.gathered = w.gather.waiting.PushBack(w)
	}
	q.len++
}

// only reports whether nobody but c waits.
func (q *fairQueue) only(c ipc.Client) bool {
	f := q.flows[c]
	return q.len == 0 || f != nil && q.len == f.waiting.Len()
}

// share is what a flow gets for a turn.
func (q *fairQueue) share(f *flow, quantum time.Duration) time.Duration {
	return max(minCost, quantum/time.Duration(q.users[f.client.UID]))
}

// pop removes the request whose turn it is; nil if there is none. Clients all of whose requests are held keep their place in line.
func (q *fairQueue) pop(quantum time.Duration) *waiter {
	if q.len == q.held {
		return nil
	}
	for passed := 0; ; passed++ {
		if passed > len(q.flows) { // everybody has had a turn and is still in debt
			q.settle(quantum)
		}
		f := q.first()
		switch {
		case f.deficit <= 0:
			f.deficit += q.share(f, quantum)
			q.toEnd(f)
		case f.waiting.Len() == 0 && f.fresh:
			q.toEnd(f) // not forgotten yet, or a client that asks again and again would be new each time
		case f.waiting.Len() == 0:
			q.forget(f)
		default:
			w := f.next()
			f.deficit -= max(minCost, w.cost)
			q.remove(w)
			return w
		}
	}
}

// settle gives every flow as many turns as it takes until the first one with a request is out of debt. Preconditions: none is.
func (q *fairQueue) settle(quantum time.Duration) {
	turns := int64(math.MaxInt64)
	for _, f := range q.flows {
		if f.next() != nil {
			turns = min(turns, int64(max(0, -f.deficit)/q.share(f, quantum)))
		}
	}
	for _, f := range q.flows {
		f.deficit = min(f.deficit+time.Duration(turns)*q.share(f, quantum), max(f.deficit, q.share(f, quantum)))
	}
}

// first is the flow whose turn may be. Preconditions: there is a request that is not held.
func (q *fairQueue) first() *flow {
	for _, flows := range []*list.List{&q.fresh, &q.old} {
		for e := flows.Front(); e != nil; e = e.Next() {
			if f := e.Value.(*flow); q.held == 0 || f.waiting.Len() == 0 || f.next() != nil {
				return f
			}
		}
	}
	panic("nobody's turn, though somebody waits")
}

// next is the client's request that came first, of those that do not wait for company or for a worker of their choice; nil if there is none.
func (f *flow) next() *waiter {
	for e := f.waiting.Front(); e != nil; e = e.Next() {
		if w := e.Value.(*waiter); !w.bound && (w.gather == nil || !w.gather.waits) {
			return w
		}
	}
	return nil
}

func (q *fairQueue) toEnd(f *flow) {
	q.unlink(f)
	f.fresh = false
	f.element = q.old.PushBack(f)
}

func (q *fairQueue) unlink(f *flow) {
	if f.fresh {
		q.fresh.Remove(f.element)
	} else {
		q.old.Remove(f.element)
	}
}

func (q *fairQueue) forget(f *flow) {
	q.unlink(f)
	delete(q.flows, f.client)
	if q.users[f.client.UID]--; q.users[f.client.UID] == 0 {
		delete(q.users, f.client.UID)
	}
}

// remove takes a request out: it was granted, gave up or is turned away. With the last one the past is forgotten: who does not wait for anybody owes nobody anything.
func (q *fairQueue) remove(w *waiter) {
	w.flow.waiting.Remove(w.element)
	if w.gather != nil {
		w.gather.waiting.Remove(w.gathered)
	}
	if q.len--; q.len == 0 {
		q.flows, q.users = nil, nil
		q.fresh.Init()
		q.old.Init()
	}
}

// spent corrects what a client was charged for a request, once it is known.
func (q *fairQueue) spent(c ipc.Client, charged, took time.Duration) {
	if f := q.flows[c]; f != nil {
		f.deficit += max(minCost, charged) - max(minCost, took)
	}
}

// surplus returns the request that has to make room for one more of client c in a full queue: the last one of the client with the most, if that has more than c would have then. nil: it is c itself who has the most. One more for each time that a client
// is among lined counts as if it were in the queue, but cannot be taken out.
func (q *fairQueue) surplus(c ipc.Client, lined []ipc.Client) *waiter {
	has := func(client ipc.Client, waiting int) int {
		for _, l := range lined {
			if l == client {
				waiting++
			}
		}
		return waiting
	}
	var most *flow
	own, largest := has(c, 0), 0
	for _, f := range q.flows {
		n := has(f.client, f.waiting.Len())
		if f.client == c {
			own = n
		}
		if f.waiting.Len() > 0 && n > largest {
			most, largest = f, n
		}
	}
	if most == nil || largest <= own+1 {
		return nil
	}
	return most.waiting.Back().Value.(*waiter)
}

// ahead estimates how many requests will be served before a new one of client c: all, or as many as take their turns while c's own are served.
func (q *fairQueue) ahead(c ipc.Client) int {
	own, others := 0, 0
	for _, f := range q.flows {
		if n := f.waiting.Len(); f.client == c {
			own = n
		} else if n > 0 {
			others++
		}
	}
	return min(q.len, own+(own+1)*others)
}
