//go:build race

package shm

import "testing"

const underRace = true

// attach returns one segment as two processes would see it, in Go memory: the race detector sees nothing else.
func attach(t testing.TB, g Geometry) (supervisor, worker *Segment) {
	t.Helper()
	supervisor, err := NewHeap(g)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, supervisor)
	worker = twin(t, supervisor)
	cleanUp(t, worker)
	return supervisor, worker
}
