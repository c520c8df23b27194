package main

import (
	"os"
	"runtime/debug"

	"github.com/ringmasterd/ringmaster/gateway"
)

// heapSlack is what the server takes beside the memory of its clients, in bytes: connections, workers, the runtime.
const heapSlack = 128 << 20

// garbagePercent is how much garbage may gather before it is collected, in percent of what is in use. That is a few megabytes in a server, whose requests leave as much behind many times a second; at the
// usual 100 the collector took a tenth of its time. What clients may hold is bounded by the limit below all the same.
const garbagePercent = 400

// limitHeap makes the garbage collector work harder before the heap is much larger than what clients may hold and the cache has. By itself it waits until the heap has doubled, so that what
// ended long ago would take as much again. $GOMEMLIMIT and $GOGC go before it.
func limitHeap(cfg gateway.Config, cached int64) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(cfg.Memory + cfg.Memory/4 + cached + cached/4 + heapSlack)
	}
}
