package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// report is one run.
type report struct {
	Command string    `json:"command"`
	Commit  string    `json:"commit"`
	Machine machine   `json:"machine"`
	Begin   time.Time `json:"begin"`
	End     time.Time `json:"end"`
	Load    [2]string `json:"load"` // average at the beginning and at the end; the run itself counts
	Samples []*sample `json:"samples"`
}

func newReport() *report {
	r := &report{Command: strings.Join(append([]string{"go run ."}, os.Args[1:]...), " "), Commit: commit(), Machine: thisMachine(), Begin: time.Now().UTC()}
	r.Load[0] = loadAverage()
	return r
}

func (r *report) finish() {
	r.End = time.Now().UTC()
	r.Load[1] = loadAverage()
}

func loadAverage() string {
	b, _ := os.ReadFile("/proc/loadavg")
	return strings.Join(strings.Fields(string(b))[:3], " ")
}

func (r *report) write(path string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// print writes the run as Markdown tables of medians.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "%s, %d CPUs, %s memory, Linux %s, %s. Commit %s, %s, %s to %s UTC.\n", r.Machine.CPU, r.Machine.CPUs, r.Machine.Memory, r.Machine.Kernel, r.Machine.Go,
		r.Commit, r.Begin.Format("2006-01-02"), r.Begin.Format("15:04"), r.End.Format("15:04"))
	fmt.Fprintf(w, "Command: `%s`. Load average before %s, after %s. Other programs' share of the machine: median %.1f %%, most %.1f %%; %d of %d measurements were made again.\n",
		r.Command, r.Load[0], r.Load[1], 100*median(r.values(func(*sample) bool { return true }, foreign)), 100*slices.Max(r.values(func(*sample) bool { return true }, foreign)),
		r.again(), len(r.Samples))
	r.printLoads(w)
	r.printIdle(w)
}

func (r *report) printLoads(w io.Writer) {
	fmt.Fprint(w, "\n| load | transport | req/s | p50 µs | p99 µs | CPU µs/req | sleeps/req | req/s × control | CPU ÷ control |\n|---|---|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, c := range cells {
		if c.Clients > 0 {
			continue
		}
		for _, t := range transports {
			in := func(s *sample) bool { return s.Cell == c.Name && s.Transport == t }
			if len(r.values(in, perSecond)) == 0 {
				continue
			}
			m := func(f func(*sample) float64) string { return short(median(r.values(in, f))) }
			fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", c.describe(), t, m(perSecond), m(p50), m(p99), m(cpu), m(switches),
				r.ratio(c.Name, t, perSecond), r.ratio(c.Name, t, cpu))
		}
	}
}

func (r *report) printIdle(w io.Writer) {
	head := "\n| idle | transport | processes | CPU, % of one CPU, median (least–most) | wake-ups/s |\n|---|---|--:|--:|--:|\n"
	for _, c := range cells {
		for _, t := range transports {
			in := func(s *sample) bool { return s.Cell == c.Name && s.Transport == t }
			v := r.values(in, cpuPercent)
			if c.Clients == 0 || len(v) == 0 {
				continue
			}
			fmt.Fprint(w, head)
			head = ""
			fmt.Fprintf(w, "| %s | %s | %.0f | %.3f (%.3f–%.3f) | %s |\n", c.describe(), t, median(r.values(in, processes)), median(v), slices.Min(v), slices.Max(v),
				short(median(r.values(in, wakeUps))))
		}
	}
}

// ratio is the median, and the range, of a transport's values divided by those that the control had in the same repeat.
func (r *report) ratio(cell, transport string, f func(*sample) float64) string {
	if transport == control {
		return "1"
	}
	var ratios []float64
	for _, s := range r.Samples {
		if s.Cell != cell || s.Transport != transport {
			continue
		}
		for _, c := range r.Samples {
			if c.Cell == cell && c.Transport == control && c.Repeat == s.Repeat && f(c) > 0 {
				ratios = append(ratios, f(s)/f(c))
			}
		}
	}
	if len(ratios) == 0 {
		return ""
	}
	return fmt.Sprintf("%s (%s–%s)", short(median(ratios)), short(slices.Min(ratios)), short(slices.Max(ratios)))
}

func (r *report) values(in func(*sample) bool, f func(*sample) float64) []float64 {
	var v []float64
	for _, s := range r.Samples {
		if in(s) {
			v = append(v, f(s))
		}
	}
	return v
}

func (r *report) again() int {
	n := 0
	for _, s := range r.Samples {
		if s.Attempts > 1 {
			n++
		}
	}
	return n
}

func perSecond(s *sample) float64  { return s.PerSecond }
func p50(s *sample) float64        { return s.P50 }
func p99(s *sample) float64        { return s.P99 }
func cpu(s *sample) float64        { return s.CPU }
func switches(s *sample) float64   { return s.Switches }
func cpuPercent(s *sample) float64 { return s.CPUPercent }
func wakeUps(s *sample) float64    { return s.WakeUps }
func processes(s *sample) float64  { return float64(s.Processes) }
func foreign(s *sample) float64    { return s.Foreign }

func (c cell) describe() string {
	switch {
	case c.Clients > 0:
		return fmt.Sprintf("%d workers, %d clients", c.Workers, c.Clients)
	case c.Every > 0:
		return fmt.Sprintf("%s, one each %v", sizeName(c.Size), c.Every)
	}
	return fmt.Sprintf("%s × %d", sizeName(c.Size), c.Outstanding)
}

// median of v, 0 of nothing.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// short writes a number with three digits that count.
func short(v float64) string {
	switch {
	case v >= 1e5:
		return fmt.Sprintf("%.0f k", v/1e3)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
