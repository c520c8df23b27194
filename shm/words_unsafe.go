package shm

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// word64 is the 8-byte word at off in mem. Atomics on it are lock-free and hold across processes.
//
// Preconditions: the word lies inside mem and its address is a multiple of 8.
func word64(mem []byte, off uint64) *atomic.Uint64 {
	return (*atomic.Uint64)(at(mem, off, 8))
}

// word32 is the 4-byte word at off in mem.
//
// Preconditions: the word lies inside mem and its address is a multiple of 4.
func word32(mem []byte, off uint64) *atomic.Uint32 {
	return (*atomic.Uint32)(at(mem, off, 4))
}

func at(mem []byte, off, size uint64) unsafe.Pointer {
	p := unsafe.Pointer(&mem[off : off+size][0])
	if uintptr(p)%uintptr(size) != 0 {
		panic(fmt.Sprintf("shm: word of %d bytes at %#x is not aligned", size, off))
	}
	return p
}

// heapBytes returns n zero bytes of Go memory, aligned for word64.
func heapBytes(n uint64) []byte {
	words := make([]uint64, (n+7)/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), n)
}
