// Package ballast has the garbage collector of a process that has little memory in use run less often.
package ballast

import (
	"runtime"
	"runtime/debug"
	"sync"
)

// Bytes is what the collector takes to be in use beside what is. Nobody touches it, so it takes no memory; but as much garbage may gather before it is collected. A process that passes on small messages has a megabyte or two in use, and would collect its garbage a hundred times
// a second; in one that has much in use it makes no difference.
const Bytes = 16 << 20

// smallest is how small a memory limit ($GOMEMLIMIT) may be for there to be a ballast, which counts towards it.
const smallest = 8 * Bytes

var held struct {
	mu sync.Mutex
	by int    // guarded by mu
	it []byte // guarded by mu; nil if by is 0, or where there is to be none
}

// Hold sees to it that the process has a ballast until drop is called, which may be once. However many hold it, there is one.
func Hold() (drop func()) {
	held.mu.Lock()
	defer held.mu.Unlock()
	if held.by++; held.by == 1 && debug.SetMemoryLimit(-1) >= smallest {
		held.it = make([]byte, Bytes)
	}
	return sync.OnceFunc(release)
}

func release() {
	held.mu.Lock()
	defer held.mu.Unlock()
	runtime.KeepAlive(held.it)
	if held.by--; held.by == 0 {
		held.it = nil
	}
}
