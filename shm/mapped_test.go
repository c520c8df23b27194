//go:build !race

package shm

import "testing"

const underRace = false

// attach returns one segment as two processes would see it: each side with a mapping of its own.
func attach(t testing.TB, g Geometry) (supervisor, worker *Segment) {
	t.Helper()
	supervisor, err := Create(g)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, supervisor)
	worker, err = open(int(supervisor.File().Fd()), 0, flagEventfd|flagSocket)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, worker)
	useDoors(t, supervisor, worker)
	return supervisor, worker
}
