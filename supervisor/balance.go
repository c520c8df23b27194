package supervisor

// balancer chooses a slot for a request. It is pure but for what it remembers of earlier choices; its pool's lock guards it.
type balancer struct {
	policy  Balance
	last    int   // the slot chosen last
	weights []int // weighted: immutable
	current []int // weighted: smooth weighted round robin's running values
}

func newBalancer(policy Balance, slots int, weights []int) *balancer {
	return &balancer{policy: policy, last: slots - 1, weights: weights, current: make([]int, slots)}
}

// What load says of a slot that cannot take a request.
const (
	busy = -1 // now
	gone = -2 // as long as its worker is not up again
)

// choose returns the slot that takes the next request: by its key, if there is one and the policy heeds it, else as pick does. spill: a request with a key need not wait for the worker that it belongs to.
func (b *balancer) choose(load []int, key uint64, spill bool) int {
	if b.policy == Hash && key != 0 {
		return prefer(load, key, spill)
	}
	return b.pick(load)
}

// pick returns the slot that takes the next request, or −1 if none is free. load[i] is the number of requests in flight at slot i, or negative if it cannot take one.
func (b *balancer) pick(load []int) int {
	best := -1
	switch b.policy {
	case Weighted:
		// nginx's smooth weighted round robin, over the free slots: each gains its weight, the richest is chosen and pays the total.
		total := 0
		for i, l := range load {
			if l < 0 {
				continue
			}
			b.current[i] += b.weights[i]
			total += b.weights[i]
			if best < 0 || b.current[i] > b.current[best] {
				best = i
			}
		}
		if best >= 0 {
			b.current[best] -= total
		}
	default:
		// Looking begins after the slot chosen last, so ties go round.
		for k := range load {
			i := (b.last + 1 + k) % len(load)
			if load[i] < 0 {
				continue
			}
			if b.policy == RoundRobin {
				best = i
				break
			}
			if best < 0 || load[i] < load[best] {
				best = i
			}
		}
	}
	if best >= 0 {
		b.last = best
	}
	return best
}
