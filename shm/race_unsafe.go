//go:build race

package shm

import (
	"runtime"
	"unsafe"
)

// The race detector does not see that what goes through mapped memory happens before it comes out: it has to be told, as it is for files and sockets.

var through byte

func raceRelease() { runtime.RaceReleaseMerge(unsafe.Pointer(&through)) }
func raceAcquire() { runtime.RaceAcquire(unsafe.Pointer(&through)) }
