package chaos

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Result is what came of a run. It has kept all promises if Broken is empty.
type Result struct {
	Seed         uint64     `json:"seed"`
	Seconds      float64    `json:"seconds"`
	Pools        []string   `json:"pools"`
	Load         Load       `json:"load"`
	Arenas       []Count    `json:"arenas"` // what became of tensors in arenas
	Faults       []Count    `json:"faults"`
	NotSupported []Count    `json:"not_supported"`
	Outcomes     []Outcome  `json:"outcomes"`
	Latencies    []Latency  `json:"latencies"`
	Recovery     []Recovery `json:"recovery"`
	Leaks        []Leak     `json:"leaks"`
	Broken       []string   `json:"broken"`
	MoreBroken   int        `json:"more_broken"`
	Log          string     `json:"log,omitempty"` // the server's, kept if a promise was broken; the ledger is beside it
}

// Load is what the server was asked for.
type Load struct {
	Clients       int     `json:"clients"`
	Concurrent    int     `json:"concurrent"` // requests, at most
	Requests      int     `json:"requests"`
	PerSecond     float64 `json:"per_second"`
	Chunks        int     `json:"chunks"`
	SentBytes     int64   `json:"sent_bytes"`
	ReceivedBytes int64   `json:"received_bytes"`
	RunTwice      int     `json:"run_twice"` // idempotent requests whose worker died
}

// Count counts things of a kind.
type Count struct {
	Name string `json:"name"`
	N    int    `json:"n"`
}

// Outcome counts requests of a class that ended alike: "ok", or CODE/reason.
type Outcome struct {
	Class   string `json:"class"`
	Outcome string `json:"outcome"`
	N       int    `json:"n"`
}

// Latency is how long right answers to a class took.
type Latency struct {
	Class string  `json:"class"`
	P50MS float64 `json:"p50_ms"`
	P99MS float64 `json:"p99_ms"`
	MaxMS float64 `json:"max_ms"`
}

func (c *chaos) result(concurrent int) *Result {
	t := c.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	seconds := (warmUp + c.cfg.Duration).Seconds()
	r := &Result{
		Seed: c.cfg.Seed, Seconds: seconds, Pools: c.pools,
		Load: Load{
			Clients: c.cfg.Clients, Concurrent: concurrent, Requests: t.Requests, PerSecond: float64(t.Requests) / seconds,
			Chunks: t.Chunks, SentBytes: t.Sent, ReceivedBytes: t.Received, RunTwice: c.retried,
		},
		Faults: c.injected.list(), NotSupported: c.missing.list(), Arenas: []Count{}, Outcomes: []Outcome{}, Recovery: c.recover.summary(), Leaks: c.leaks,
		Broken: slices.Clone(t.Broken), MoreBroken: t.More,
	}
	for _, what := range slices.Sorted(maps.Keys(t.Arenas)) {
		r.Arenas = append(r.Arenas, Count{what, t.Arenas[what]})
	}
	for _, key := range slices.Sorted(maps.Keys(t.Outcomes)) {
		class, outcome, _ := strings.Cut(key, " ")
		r.Outcomes = append(r.Outcomes, Outcome{class, outcome, t.Outcomes[key]})
	}
	for _, class := range slices.Sorted(maps.Keys(t.Latency)) {
		h := t.Latency[class]
		r.Latencies = append(r.Latencies, Latency{class, milliseconds(h.quantile(0.5)), milliseconds(h.quantile(0.99)), milliseconds(h.Max)})
	}
	if r.Broken == nil {
		r.Broken = []string{}
	}
	return r
}

func (c *counts) list() []Count {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := []Count{}
	for _, name := range slices.Sorted(maps.Keys(c.n)) {
		list = append(list, Count{name, c.n[name]})
	}
	return list
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
