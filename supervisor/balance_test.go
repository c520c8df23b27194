package supervisor

import (
	"slices"
	"testing"
)

// picks has b choose n times, each choice staying in flight.
func picks(b *balancer, load []int, n int) []int {
	var chosen []int
	for range n {
		i := b.pick(load)
		chosen = append(chosen, i)
		if i >= 0 {
			load[i]++
		}
	}
	return chosen
}

func TestLeastConnectionTakesTheLeastLoaded(t *testing.T) {
	b := newBalancer(LeastConnection, 3, nil)
	load := []int{5, 2, 4}
	if got, want := picks(b, load, 6), []int{1, 1, 2, 1, 2, 0}; !slices.Equal(got, want) { // 5 2 4 → 5 3 4 → 5 4 4 → 5 4 5 → 5 5 5 → ties go on after the last
		t.Fatalf("chose %v, want %v", got, want)
	}
	if got, want := b.pick([]int{-1, 9, -1}), 1; got != want {
		t.Fatalf("chose %d, the only free one is %d", got, want)
	}
	if got := b.pick([]int{-1, -1, -1}); got != -1 {
		t.Fatalf("chose %d where none is free", got)
	}
}

func TestTiesGoRound(t *testing.T) {
	for _, policy := range []Balance{LeastConnection, RoundRobin} {
		b := newBalancer(policy, 3, nil)
		var got []int
		for range 7 { // each ends before the next comes
			got = append(got, b.pick([]int{0, 0, 0}))
		}
		if want := []int{0, 1, 2, 0, 1, 2, 0}; !slices.Equal(got, want) {
			t.Errorf("%s chose %v, want %v", policy, got, want)
		}
	}
}

func TestRoundRobinSkipsTheBusy(t *testing.T) {
	b := newBalancer(RoundRobin, 4, nil)
	var got []int
	for range 5 {
		got = append(got, b.pick([]int{7, -1, 0, 3}))
	}
	if want := []int{0, 2, 3, 0, 2}; !slices.Equal(got, want) {
		t.Fatalf("chose %v, want %v", got, want)
	}
	if got := b.pick([]int{-1, -1, -1, -1}); got != -1 {
		t.Fatalf("chose %d where none is free", got)
	}
	if got := b.pick([]int{0, 0, 0, 0}); got != 3 {
		t.Fatalf("chose %d, want 3: nothing was chosen in between", got)
	}
}

// The sequence that nginx's documentation gives for smooth weighted round robin.
func TestWeightedIsSmooth(t *testing.T) {
	b := newBalancer(Weighted, 3, []int{5, 1, 1})
	var got []int
	for range 14 {
		got = append(got, b.pick([]int{0, 0, 0}))
	}
	if want := []int{0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0}; !slices.Equal(got, want) {
		t.Fatalf("chose %v, want %v", got, want)
	}
}

func TestWeightedKeepsProportions(t *testing.T) {
	weights := []int{7, 2, 1, 10}
	b := newBalancer(Weighted, 4, weights)
	count := make([]int, 4)
	for range 5 * 20 {
		count[b.pick([]int{0, 0, 0, 0})]++
	}
	for i, w := range weights {
		if count[i] != 5*w {
			t.Errorf("slot %d of weight %d was chosen %d times of 100, want %d", i, w, count[i], 5*w)
		}
	}
}

func TestWeightedWhileOneIsBusy(t *testing.T) {
	b := newBalancer(Weighted, 3, []int{2, 1, 1})
	count := make([]int, 3)
	for range 30 {
		count[b.pick([]int{0, -1, 0})]++
	}
	if want := []int{20, 0, 10}; !slices.Equal(count, want) {
		t.Fatalf("chose %v, want %v", count, want)
	}
	// It has not saved up what it missed.
	clear(count)
	for range 40 {
		count[b.pick([]int{0, 0, 0})]++
	}
	if want := []int{20, 10, 10}; !slices.Equal(count, want) {
		t.Fatalf("chose %v, want %v", count, want)
	}
	if got := b.pick([]int{-1, -1, -1}); got != -1 {
		t.Fatalf("chose %d where none is free", got)
	}
}
