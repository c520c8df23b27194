package client

import "unsafe"

// position returns where in memory b begins; false if it does not lie in it, or is empty.
func position(memory, b []byte) (uint64, bool) {
	if len(memory) == 0 || len(b) == 0 {
		return 0, false
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b))) - uintptr(unsafe.Pointer(unsafe.SliceData(memory))) // wraps around if it is before
	return uint64(at), at < uintptr(len(memory)) && uintptr(len(b)) <= uintptr(len(memory))-at
}
