package supervisor

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

func client(uid uint32, pid int32) ipc.Client { return ipc.Client{UID: uid, PID: pid} }

// fill pushes n requests of a client.
func fill(q *fairQueue, c ipc.Client, n int, cost time.Duration) {
	for range n {
		q.push(&waiter{client: c, cost: cost}, time.Millisecond)
	}
}

// served pops n requests and says how much time each client got.
func served(q *fairQueue, n int, quantum time.Duration) map[ipc.Client]time.Duration {
	got := map[ipc.Client]time.Duration{}
	for range n {
		w := q.pop(quantum)
		got[w.client] += w.cost
	}
	return got
}

func TestFairQueueIsFirstComeFirstServedForOneClient(t *testing.T) {
	var q fairQueue
	var all []*waiter
	for range 10 {
		w := &waiter{client: client(1, 1), cost: time.Second}
		all = append(all, w)
		q.push(w, time.Millisecond)
	}
	for i, w := range all {
		if got := q.pop(time.Millisecond); got != w {
			t.Fatalf("number %d is not the %d. that came", i, i)
		}
	}
	if q.pop(time.Millisecond) != nil || q.len != 0 || q.flows != nil {
		t.Errorf("%+v is left", q)
	}
}

// Clients get the same time, whatever their requests cost and however many they have.
func TestFairQueueSharesTime(t *testing.T) {
	for name, costs := range map[string][2]time.Duration{
		"alike":           {time.Millisecond, time.Millisecond},
		"long and short":  {50 * time.Millisecond, time.Millisecond},
		"very long":       {2 * time.Second, 500 * time.Microsecond},
		"short and short": {time.Microsecond, time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			var q fairQueue
			a, b := client(1, 1), client(2, 2)
			fill(&q, a, 1000, costs[0])
			fill(&q, b, 100_000, costs[1])
			got := map[ipc.Client]time.Duration{}
			for got[a] < 20*costs[0] {
				for c, d := range served(&q, 1, time.Millisecond) {
					got[c] += d
				}
			}
			if d := (got[a] - got[b]).Abs(); d > costs[0]+costs[1]+2*time.Millisecond {
				t.Errorf("%v and %v", got[a], got[b])
			}
		})
	}
}

// One user's many processes get no more than another's only one.
func TestFairQueueSharesBetweenUsersFirst(t *testing.T) {
	var q fairQueue
	for pid := range int32(9) {
		fill(&q, client(1, 100+pid), 1000, time.Millisecond)
	}
	alone := client(2, 7)
	fill(&q, alone, 5000, time.Millisecond)
	got := served(&q, 4000, time.Millisecond)
	if share := got[alone].Seconds() / 4; share < 0.45 || share > 0.55 {
		t.Errorf("the user with one process got %.2f of the time", share)
	}
}

// Who comes now and then goes before those that keep the queue full, but not twice in a row.
func TestFairQueueLetsNewClientsGoFirst(t *testing.T) {
	var q fairQueue
	flood, rare := client(1, 1), client(1, 2)
	fill(&q, flood, 1000, time.Millisecond)
	served(&q, 10, time.Millisecond)
	for range 20 {
		q.push(&waiter{client: rare, cost: time.Millisecond}, time.Millisecond)
		q.push(&waiter{client: rare, cost: time.Millisecond}, time.Millisecond)
		turns := 0
		for q.flows[rare].waiting.Len() > 0 {
			served(&q, 1, time.Millisecond)
			turns++
		}
		if turns > 6 {
			t.Fatalf("two requests took %d turns", turns)
		}
		served(&q, 3, time.Millisecond)
	}
	// One that asks again each time it was served, and always a long request, does not keep the others from theirs.
	greedy := client(1, 3)
	var flooded, greed time.Duration
	for range 200 {
		if q.flows[greedy] == nil || q.flows[greedy].waiting.Len() == 0 {
			q.push(&waiter{client: greedy, cost: 20 * time.Millisecond}, time.Millisecond)
		}
		for c, d := range served(&q, 1, time.Millisecond) {
			if c == greedy {
				greed += d
			} else {
				flooded += d
			}
		}
	}
	if greed > 2*flooded {
		t.Errorf("%v for one that is always new, %v for the other", greed, flooded)
	}
}

// A client is charged what its requests really took.
func TestFairQueueCorrectsTheCharge(t *testing.T) {
	var q fairQueue
	liar, honest := client(1, 1), client(1, 2)
	fill(&q, liar, 1000, time.Millisecond) // as expected, but they take ten times as long
	fill(&q, honest, 1000, time.Millisecond)
	got := map[ipc.Client]int{}
	for range 440 {
		w := q.pop(time.Millisecond)
		got[w.client]++
		took := time.Millisecond
		if w.client == liar {
			took = 10 * time.Millisecond
		}
		q.spent(w.client, w.cost, took)
	}
	if r := float64(got[honest]) / float64(got[liar]); r < 8 || r > 12 {
		t.Errorf("%v: a ratio of %.1f, want 10", got, r)
	}
}

func TestFairQueueSurplusAndAhead(t *testing.T) {
	var q fairQueue
	a, b, c := client(1, 1), client(1, 2), client(1, 3)
	if q.surplus(a, nil) != nil || q.ahead(a) != 0 {
		t.Error("an empty queue has no surplus")
	}
	fill(&q, a, 10, time.Millisecond)
	last := &waiter{client: a, cost: time.Millisecond}
	q.push(last, time.Millisecond)
	fill(&q, b, 2, time.Millisecond)
	if q.surplus(a, nil) != nil {
		t.Error("the client with the most is to make room for itself")
	}
	if got := q.surplus(c, nil); got != last {
		t.Errorf("surplus %+v, want the last one of the client with the most", got)
	}
	for want, client := range map[int]ipc.Client{13: a, 5: b, 2: c} {
		if got := q.ahead(client); got != want {
			t.Errorf("ahead of %v: %d, want %d", client, got, want)
		}
	}
	q.remove(last)
	if q.len != 12 {
		t.Errorf("%d are left", q.len)
	}
}

// Whatever is pushed, popped and removed, the counts agree and everything comes out once.
func TestFairQueueAgainstAModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var q fairQueue
	in := map[*waiter]bool{}
	for range 20_000 {
		switch rng.IntN(3) {
		case 0:
			w := &waiter{client: client(uint32(rng.IntN(3)), int32(rng.IntN(10))), cost: time.Duration(rng.IntN(1e7))}
			q.push(w, time.Duration(rng.IntN(1e6)))
			in[w] = true
		case 1:
			w := q.pop(time.Duration(rng.IntN(1e6)))
			if (w == nil) != (len(in) == 0) || w != nil && !in[w] {
				t.Fatal("popped what was not in")
			}
			delete(in, w)
		case 2:
			for w := range in {
				q.remove(w)
				delete(in, w)
				break
			}
		}
		if q.len != len(in) {
			t.Fatalf("len %d, want %d", q.len, len(in))
		}
		flows, users := 0, 0
		for range q.fresh.Len() + q.old.Len() {
			flows++
		}
		for _, n := range q.users {
			users += n
		}
		if flows != len(q.flows) || users != len(q.flows) || len(q.flows) > 30 {
			t.Fatalf("%d flows listed, %d mapped, %d of users", flows, len(q.flows), users)
		}
	}
}
