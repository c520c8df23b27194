package main

import (
	"os"
	"runtime/debug"

	"github.com/ringmasterd/ringmaster/gateway"
	"github.com/ringmasterd/ringmaster/internal/ballast"
)

// heapSlack is what the server takes beside the memory of its clients, in bytes: connections, workers, the runtime.
const heapSlack = 128 << 20

// limitHeap makes the garbage collector work harder before the heap is much larger than what clients may hold and the cache has. By itself it waits until the heap has doubled, so that what
// ended long ago would take as much again. $GOMEMLIMIT goes before it.
func limitHeap(cfg gateway.Config, cached int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(cfg.Memory + cfg.Memory/4 + cached + cached/4 + heapSlack + ballast.Bytes)
	}
}
