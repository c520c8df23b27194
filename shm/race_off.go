//go:build !race

package shm

// raceRelease and raceAcquire do something only under the race detector: see race_unsafe.go.
func raceRelease() {}
func raceAcquire() {}
