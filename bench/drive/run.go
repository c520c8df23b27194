package drive

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/ringmasterd/ringmaster/bench/load"
	"github.com/ringmasterd/ringmaster/bench/plot"
	"github.com/ringmasterd/ringmaster/bench/usage"
	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/ipc"
)

// Config says what [Run] does.
type Config struct {
	Address      string // of the server's socket; "" is where clients look for it
	Pool, Action string // "": the only pool; echo, or the pool's only action

	Body    ipc.Body            // if not nil, each request is this body with Options, instead of a tensor of bytes
	Options []client.CallOption // with Body

	Sizes       []int // bytes of the tensor; not looked at with Body
	Arena       bool  // the tensor lies in an arena, and echo's answer is to be written there
	Ring        int   // bytes of each ring to ask for, 0 for none: everything goes through the socket; negative: the client's default
	Outstanding []int
	Rate        float64 // requests a second, an open loop; 0: a closed one
	Connections int
	Warmup      time.Duration
	Duration    time.Duration // of each row
	Timeout     time.Duration // of each request

	Progress io.Writer // a terminal; nil: nobody watches
}

// Row is what one load gave.
type Row struct {
	Size        int     `json:"size"` // bytes of payload
	Outstanding int     `json:"outstanding"`
	Via         string  `json:"via"`            // how the requests travelled, most of them: "arena", where their tensors lay; "copy", into an arena for the call; "message"; or "socket", where rings were not asked for
	Rate        float64 `json:"rate,omitempty"` // asked for, in an open loop
	Requests    int     `json:"requests"`       // answered rightly
	Seconds     float64 `json:"seconds"`
	PerSecond   float64 `json:"req_s"`

	P50  float64 `json:"p50_us"`
	P90  float64 `json:"p90_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
	Max  float64 `json:"max_us"`

	CPU    *Cost          `json:"cpu_us"` // of each request; null if it cannot be told
	Others float64        `json:"others"` // share of the machine that programs took which have no part in this
	Missed int            `json:"missed,omitempty"`
	Wrong  int            `json:"wrong"`
	Errors map[string]int `json:"errors"` // by CODE/reason

	curve []plot.Point // of the latency
}

// Result is a whole run.
type Result struct {
	Version     string        `json:"version"` // the server's
	Pool        string        `json:"pool"`
	Action      string        `json:"action"`
	Workers     int           `json:"workers"`
	Connections int           `json:"connections"`
	Checked     string        `json:"checked"` // what answers are held against: "the request", or "nothing"
	Machine     usage.Machine `json:"machine"`
	Load        [2]string     `json:"load"` // average before and after
	Rows        []Row         `json:"rows"`
	Note        string        `json:"note,omitempty"`  // why something is not told
	First       string        `json:"error,omitempty"` // the first of the errors in words
}

// Run loads a server. The error is that of the first request, or of what makes a run impossible; failures under load are in the rows.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	t, err := aim(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	defer t.close()
	r := &Result{Version: t.status.Version, Pool: t.pool, Action: t.action, Workers: t.workers(), Connections: len(t.clients), Checked: t.checked, Machine: usage.ThisMachine(), Rows: []Row{}}
	r.Load[0] = usage.LoadAverage()
	sizes := cfg.Sizes
	if cfg.Body != nil {
		sizes = []int{len(cfg.Body)}
	}
	n, total := 0, len(sizes)*len(cfg.Outstanding)
	for _, size := range sizes {
		for _, outstanding := range cfg.Outstanding {
			n++
			progress(cfg.Progress, fmt.Sprintf("%d/%d: %s, %d outstanding", n, total, Size(size), outstanding))
			row, first, err := t.measure(ctx, &cfg, size, outstanding)
			progress(cfg.Progress, "")
			if err != nil {
				return nil, err
			}
			r.Rows = append(r.Rows, *row)
			if first != nil && r.First == "" {
				r.First = first.Error()
			}
		}
	}
	r.Note = t.unknown
	r.Load[1] = usage.LoadAverage()
	return r, nil
}

// progress shows what goes on in a terminal's last line, and takes it away again.
func progress(w io.Writer, s string) {
	if w != nil {
		fmt.Fprintf(w, "\r\x1b[K%s", s)
	}
}

// measure fills a row.
func (t *target) measure(ctx context.Context, cfg *Config, size, outstanding int) (*Row, error, error) {
	var m meter
	bytes := size
	if cfg.Body != nil {
		bytes = load.MinSize // nobody sees it
	}
	calls := t.calls(cfg)
	var memory func(int) []byte
	if cfg.Arena {
		lot, err := newLot(ctx, t.clients, size, outstanding)
		if err != nil {
			return nil, nil, err
		}
		defer func() { _ = lot.close() }()
		calls, memory = []load.Call{t.inPlace(lot, cfg)}, lot.memory
	}
	r, err := load.Run(ctx, load.Config{
		Calls: calls, Memory: memory, Size: bytes, Outstanding: outstanding, Rate: cfg.Rate, Warmup: cfg.Warmup, Duration: cfg.Duration, Check: t.check,
		Begin: func() error { m = t.meter(ctx); t.ways.reset(); return nil },
	})
	if err != nil {
		return nil, nil, err
	}
	row := &Row{
		Via: t.ways.most(cfg), Size: size, Outstanding: outstanding, Rate: cfg.Rate, Requests: r.Requests, Seconds: r.Elapsed.Seconds(), PerSecond: r.PerSecond(),
		P50: r.Quantile(50), P90: r.Quantile(90), P99: r.Quantile(99), P999: r.Quantile(99.9), Max: r.Max(),
		Missed: r.Missed, Wrong: r.Wrong, Errors: r.Errors,
	}
	row.CPU, row.Others = t.read(m, r.Requests, r.Elapsed)
	for _, q := range plot.Percentiles {
		if float64(r.Requests)*(1-q/100) >= 1 { // beyond that it is one request's luck
			row.curve = append(row.curve, plot.Point{X: plot.PercentileX(q), Y: r.Quantile(q)})
		}
	}
	return row, r.First, nil
}

// Failed reports whether the run has shown that something is broken: wrong answers, or none at all.
func (r *Result) Failed() bool {
	answered, wrong := 0, 0
	for _, row := range r.Rows {
		answered += row.Requests
		wrong += row.Wrong
	}
	return wrong > 0 || answered == 0
}
