package main

import (
	"fmt"
	"strconv"
	"time"
)

// concurrency is how many requests a worker in Go takes at a time.
const concurrency = 64

// cell is one load.
type cell struct {
	Scenario    string  `json:"scenario"`
	Size        int     `json:"size"`        // bytes of payload
	Outstanding int     `json:"outstanding"` // closed loop: requests under way at a time; open loop: the most that there may be
	Rate        float64 `json:"rate"`        // open loop: requests a second; 0: closed loop
	Clients     int     `json:"clients"`     // idle: client processes that are connected and ask for nothing; 0: one that asks
	Workers     int     `json:"workers"`     // worker processes
	Connections int     `json:"connections"` // of each client; 0: 1
}

// The workers' actions are echo; frame: every cache line read, 64 bytes answered; spin: 100 µs of computing, one request at a time, and an echo. In Python beside the first two: model.
var actions = map[string]string{"echo": "echo", "sparse": "echo", "idle": "echo", "scale": "echo", "many-clients": "echo", "handler-100us": "spin", "frame": "frame", "python-echo": "echo", "python-frame": "frame", "python-model": "model"}

func closed(scenario string, size int, outstanding ...int) []cell {
	var cs []cell
	for _, n := range outstanding {
		cs = append(cs, cell{Scenario: scenario, Size: size, Outstanding: n, Workers: 1})
	}
	return cs
}

// scale is the same load on so many workers, each time from 1, 16 and 256 connections.
func scale(workers ...int) []cell {
	var cs []cell
	for _, n := range workers {
		for _, connections := range []int{1, 16, maxConnections} {
			cs = append(cs, cell{Scenario: "scale", Size: 64, Outstanding: maxConnections, Workers: n, Connections: connections})
		}
	}
	return cs
}

const (
	maxConnections = 256 // of one client

	frameSize = 6 << 20 // an RGB picture of 1920 × 1080
	modelSize = 784     // a picture of 28 × 28
)

func cells() []cell {
	var cs []cell
	for _, more := range [][]cell{
		closed("echo", 64, 1, 8, 64),
		closed("echo", 4<<10, 1, 64),
		closed("echo", 64<<10, 1, 8, 64),
		closed("echo", 1<<20, 1, 8),
		closed("echo", frameSize, 1, 8),
		{{Scenario: "sparse", Size: 64, Outstanding: 64, Rate: 1000, Workers: 1}},
		closed("handler-100us", 64, 1, 8),
		closed("frame", frameSize, 1, 8),
		{{Scenario: "idle", Size: 64, Outstanding: 1, Clients: 16, Workers: 4}},
		scale(1, 4, 16),
		{{Scenario: "many-clients", Size: 64, Outstanding: 1, Clients: 1, Workers: 1, Connections: maxConnections}},
		closed("python-echo", 64, 1, 8, 64),
		closed("python-frame", frameSize, 1, 8),
		closed("python-model", modelSize, 1, 8),
	} {
		cs = append(cs, more...)
	}
	return cs
}

// plan is what one run measures.
type plan struct {
	cells    []cell
	selected func(name string) bool // of "transport/scenario/size/outstanding"
	repeats  int
	warmUp   time.Duration // with every answer compared to the last byte
	measure  time.Duration // twice as long from 1 MiB on, where requests are few
	idle     time.Duration // once, in the first repeat
	settle   time.Duration // before that: what a start and a first request leave to do is done
}

// fullPlan takes BENCH_REPEATS and BENCH_SECONDS from the environment.
func fullPlan(env func(string) string) (plan, error) {
	p := plan{cells: cells(), repeats: 5}
	seconds := 0.25
	if s := env("BENCH_REPEATS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 1000 {
			return p, fmt.Errorf("BENCH_REPEATS is %q; use a whole number from 1 to 1000", s)
		}
		p.repeats = n
	}
	if s := env("BENCH_SECONDS"); s != "" {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || !(v > 0 && v <= 3600) {
			return p, fmt.Errorf("BENCH_SECONDS is %q; use a number of seconds, such as 0.25", s)
		}
		seconds = v
	}
	p.measure = time.Duration(seconds * float64(time.Second))
	p.warmUp = min(p.measure/4, 300*time.Millisecond)
	p.idle, p.settle = min(80*p.measure, 20*time.Second), 3*time.Second // a server that is idle looks around every 10 s
	return p, nil
}

// smokePlan has the first and the last load of each scenario.
func smokePlan() plan {
	var few []cell
	all := cells()
	for i, c := range all {
		if i == 0 || i == len(all)-1 || all[i-1].Scenario != c.Scenario || all[i+1].Scenario != c.Scenario {
			few = append(few, c)
		}
	}
	return plan{cells: few, repeats: 1, warmUp: time.Millisecond, measure: 20 * time.Millisecond, idle: 50 * time.Millisecond}
}

func (p *plan) duration(c cell) time.Duration {
	switch {
	case c.Clients > 0:
		return p.idle
	case c.Size >= 1<<20:
		return 2 * p.measure
	}
	return p.measure
}

// name is how -only calls a load.
func (c cell) name() string {
	if c.Connections > 0 {
		return fmt.Sprintf("%s/%s/%d/%d/%d", c.Scenario, sizeName(c.Size), c.Outstanding, c.Workers, c.Connections)
	}
	return fmt.Sprintf("%s/%s/%d", c.Scenario, sizeName(c.Size), c.Outstanding)
}

func sizeName(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%dKiB", n>>10)
	}
	return fmt.Sprintf("%dB", n)
}
