package main

import (
	"fmt"
	"time"
)

// transports are measured one after the other in every cell.
var transports = []string{"ringmaster", "ringmaster-socket", "ringmaster-embedded", "grpc-uds"}

// control is the transport that the others are compared with.
const control = "grpc-uds"

// concurrency is how many requests a worker takes at a time.
const concurrency = 64

// cell is one load.
type cell struct {
	Name        string        `json:"name"`
	Size        int           `json:"size"`        // bytes of payload, both ways
	Outstanding int           `json:"outstanding"` // closed loop: requests under way at a time
	Every       time.Duration `json:"every"`       // open loop: a request is due so often, whether or not the last one has been answered; 0: closed loop
	Clients     int           `json:"clients"`     // idle: client processes that are connected and ask for nothing; 0: one that asks
	Workers     int           `json:"workers"`     // worker processes
}

func closed(size, outstanding int) cell {
	return cell{Name: fmt.Sprintf("%s/%d", sizeName(size), outstanding), Size: size, Outstanding: outstanding, Workers: 1}
}

// plan is what one run measures.
type plan struct {
	cells      []cell
	repeats    int
	warmUp     time.Duration // with every reply compared byte by byte
	measure    time.Duration
	idle       time.Duration
	maxForeign float64 // a measurement is made again if other programs took more than this share of the machine meanwhile …
	attempts   int     // … up to so many times; the quietest one counts
}

// With 64 of the largest payload outstanding the three processes hold several GB.
var cells = []cell{
	closed(64, 1), closed(64, 64),
	closed(64<<10, 1), closed(64<<10, 64),
	closed(6<<20, 1), closed(6<<20, 8), closed(6<<20, 64),
	{Name: "sparse", Size: 64, Every: time.Millisecond, Workers: 1},
	{Name: "idle", Size: 64, Clients: 16, Workers: 4},
}

func fullPlan() plan {
	return plan{
		cells: cells, repeats: 5, warmUp: 300 * time.Millisecond, measure: time.Second, idle: 5 * time.Second,
		maxForeign: 0.10, attempts: 2,
	}
}

func quickPlan() plan {
	return plan{cells: cells, repeats: 1, warmUp: 20 * time.Millisecond, measure: 100 * time.Millisecond, idle: 200 * time.Millisecond, maxForeign: 1, attempts: 1}
}

// applies reports whether a transport can be measured in a cell: an app that holds the supervisor itself has no clients.
func (c cell) applies(transport string) bool {
	return c.Clients == 0 || transport != "ringmaster-embedded"
}

func sizeName(n int) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%dMiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%dKiB", n>>10)
	}
	return fmt.Sprintf("%dB", n)
}
