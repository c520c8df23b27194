package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ringmasterd/ringmaster/bench/usage"
)

// report is one run.
type report struct {
	Command string        `json:"command"`
	Commit  string        `json:"commit"`
	Machine usage.Machine `json:"machine"`
	Begin   time.Time     `json:"begin"`
	End     time.Time     `json:"end"`
	Load    [2]string     `json:"load"` // average at the beginning and at the end; the run itself counts
	Repeats int           `json:"repeats"`
	Seconds float64       `json:"seconds"` // of each measurement
	Rows    []row         `json:"rows"`
	Missing []absent      `json:"not_run"`
	Samples []*sample     `json:"-"`
}

// row is the medians of a transport's samples under one load.
type row struct {
	Scenario    string  `json:"scenario"`
	Transport   string  `json:"transport"`
	Size        int     `json:"size"`
	Outstanding int     `json:"outstanding"`
	PerSecond   float64 `json:"req_s"`
	P50         float64 `json:"p50_us"`
	P99         float64 `json:"p99_us"`
	P999        float64 `json:"p999_us"`
	CPU         float64 `json:"cpu_us"` // for each request, all processes together
	Runs        int     `json:"runs"`

	Hops       int         `json:"hops"` // between client and worker, one way
	Processes  int         `json:"processes"`
	CPUPercent float64     `json:"cpu_percent"` // of one CPU, all processes together
	WakeUps    float64     `json:"wake_ups_s"`  // likewise
	Others     float64     `json:"others"`      // share of the machine that other programs took
	Requests   int         `json:"requests"`    // in all runs together
	Workers    int         `json:"workers"`
	Clients    int         `json:"clients,omitempty"`    // scale, many-clients: connections
	PerClient  float64     `json:"per_client,omitempty"` // many-clients: bytes of the server's own memory
	Ratio      *spread     `json:"req_s_ratio"`          // to the control's, repeat by repeat; null for the control itself
	CPURatio   *spread     `json:"cpu_ratio"`
	Curve      [][]float64 `json:"curve,omitempty"` // percentile, µs
}

// spread is a median with its range.
type spread struct {
	Median float64 `json:"median"`
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
}

func newReport() *report {
	r := &report{Command: command(), Commit: usage.Commit(), Machine: usage.ThisMachine(), Begin: time.Now().UTC(), Missing: []absent{}}
	r.Load[0] = usage.LoadAverage()
	return r
}

// command is how to have this run again.
func command() string {
	var words []string
	for _, name := range []string{"BENCH_REPEATS", "BENCH_SECONDS"} {
		if v := os.Getenv(name); v != "" {
			words = append(words, name+"="+v)
		}
	}
	if os.Getenv("BENCH_COMMAND") != "" { // make says how it was called
		return strings.Join(append(words, os.Getenv("BENCH_COMMAND")), " ")
	}
	return strings.Join(append(append(words, "go run ."), os.Args[1:]...), " ")
}

func (r *report) finish() {
	r.End = time.Now().UTC()
	r.Load[1] = usage.LoadAverage()
	for _, c := range cells() {
		for i := range peers {
			if t := &peers[i]; t.applies(c) {
				if row, ok := r.row(t, c); ok {
					r.Rows = append(r.Rows, row)
				}
			}
		}
	}
}

// row makes the medians.
func (r *report) row(t *peer, c cell) (row, bool) {
	samples := r.samples(t.name, c)
	if len(samples) == 0 {
		return row{}, false
	}
	m := func(f func(*sample) float64) float64 { return digits(median(values(samples, f))) }
	w := row{
		Scenario: c.Scenario, Transport: t.name, Size: c.Size, Outstanding: c.Outstanding, Hops: t.hops, Runs: len(samples), Processes: samples[0].Processes,
		Workers: c.Workers, Clients: c.Connections,
		PerSecond: m(perSecond), P50: m(p50), P99: m(p99), P999: m(p999), CPU: m(cpu), CPUPercent: m(cpuPercent), WakeUps: m(wakeUps), Others: m(others),
	}
	for _, s := range samples {
		w.Requests += s.Requests
	}
	if c.Scenario == "many-clients" {
		w.PerClient = m(func(s *sample) float64 { return float64(s.Private-s.Alone) / float64(c.Connections) })
	}
	w.Ratio, w.CPURatio = r.ratio(t, c, perSecond), r.ratio(t, c, cpu)
	for i, point := range samples[0].Curve {
		at := point[0]
		if float64(w.Requests)/float64(w.Runs)*(1-at/100) < 1 {
			break // beyond that it is one request's luck
		}
		w.Curve = append(w.Curve, []float64{at, m(func(s *sample) float64 { return s.Curve[i][1] })})
	}
	return w, true
}

// samples are those of a transport under a load, by repeat.
func (r *report) samples(transport string, c cell) []*sample {
	var found []*sample
	for _, s := range r.Samples {
		if s.Transport == transport && s.Cell == c {
			found = append(found, s)
		}
	}
	return found
}

// ratio is that of a transport's values to those that the control had in the same repeat.
func (r *report) ratio(t *peer, c cell, f func(*sample) float64) *spread {
	with := control
	if t.python {
		with = pythonControl
	}
	if t.name == with {
		return nil
	}
	var ratios []float64
	for _, s := range r.samples(t.name, c) {
		for _, o := range r.samples(with, c) {
			if o.Repeat == s.Repeat && f(o) > 0 {
				ratios = append(ratios, f(s)/f(o))
			}
		}
	}
	if len(ratios) == 0 {
		return nil
	}
	return &spread{digits(median(ratios)), digits(slices.Min(ratios)), digits(slices.Max(ratios))}
}

func (r *report) write(path string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	// One row a line, so that a change of one is a change of one line.
	text := strings.NewReplacer(`"rows":[`, "\"rows\":[\n", `},{"scenario"`, "},\n{\"scenario\"", `],"not_run"`, "\n],\"not_run\"").Replace(string(b))
	return os.WriteFile(path, []byte(text+"\n"), 0o644)
}

// print writes the tables.
func (r *report) print(w io.Writer) {
	fmt.Fprintln(w)
	_, _ = io.WriteString(w, r.tables())
}

func values(samples []*sample, f func(*sample) float64) []float64 {
	v := make([]float64, len(samples))
	for i, s := range samples {
		v[i] = f(s)
	}
	return v
}

func perSecond(s *sample) float64  { return s.PerSecond }
func p50(s *sample) float64        { return s.P50 }
func p99(s *sample) float64        { return s.P99 }
func p999(s *sample) float64       { return s.P999 }
func cpu(s *sample) float64        { return s.CPU }
func cpuPercent(s *sample) float64 { return s.CPUPercent }
func wakeUps(s *sample) float64    { return s.WakeUps }
func others(s *sample) float64     { return s.Others }

// digits leaves a number the four that count; what follows is noise.
func digits(v float64) float64 {
	v, _ = strconv.ParseFloat(strconv.FormatFloat(v, 'g', 4, 64), 64)
	return v
}

// median of v, 0 of nothing.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
