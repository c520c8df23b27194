package ballast

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
)

// goal is the size of the heap, in bytes, at which the collector begins.
func goal() uint64 {
	runtime.GC()
	runtime.GC() // the first may have begun before
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.NextGC
}

// resident is what the process takes of the machine's memory, in bytes.
func resident(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

func TestHold(t *testing.T) {
	before := goal()
	drop := Hold()
	again := Hold()
	pages := resident(t)
	if with := goal(); with < 2*Bytes {
		t.Errorf("the heap may grow to %d bytes with ballast, to %d without", with, before)
	}
	if more := resident(t) - pages; more > Bytes/2 {
		t.Errorf("it takes %d bytes of memory", more)
	}
	again()
	again() // does nothing
	if with := goal(); with < before+Bytes {
		t.Error("it was dropped while somebody held it")
	}
	drop()
	if after := goal(); after > before+Bytes/2 {
		t.Errorf("the heap may grow to %d bytes after, to %d before", after, before)
	}
}

func TestSmallMemory(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(64 << 20))
	before := goal()
	defer Hold()()
	if with := goal(); with > before+Bytes/2 {
		t.Errorf("the heap may grow to %d bytes, to %d before: more than there is memory for", with, before)
	}
}
