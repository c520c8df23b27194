package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ringmasterd/ringmaster/bench/drive"
	"github.com/ringmasterd/ringmaster/bench/plot"
)

// The page is written by hand but for what is between these lines.
const (
	beginMark = "<!-- begin: written by make bench -->"
	endMark   = "<!-- end -->"
)

// busy is the share of the machine from which other programs make the figures doubtful.
const busy = 0.05

// chapters are the page's tables, and what each is about. The hot ones and the honest ones stand side by side.
var chapters = []struct {
	scenarios []string
	title     string
	words     string
}{
	{[]string{"echo"}, "Echo", "The payload goes to the worker and comes back. Closed loop: so many requests are under way at a time."},
	{[]string{"sparse", "handler-100us", "frame"}, "As it is used", "`sparse` is one request of 64 B a millisecond, open loop, a request's time counted from when it was due. `handler-100us` computes for 100 µs, one request at a time, as a model on one device does. `frame` takes 6 MiB (a picture of 1920 × 1080), reads every cache line and answers 64 B."},
	{[]string{"idle"}, "Idle", "Four workers and 16 connected clients that ask for nothing."},
	{[]string{"scale"}, "As the work grows", "64 B, 256 requests outstanding, spread over so many connections and so many worker processes: what a request costs should stay what it is, as far as there are processors for the workers."},
	{[]string{"many-clients"}, "Clients that are idle", "256 connections with rings, each of which has asked once: the memory of the server's own that one takes. Its rings are shared with it and come on top."},
	{[]string{"python-echo", "python-frame", "python-model"}, "Python", "Client and worker in Python, one worker process, one client thread for each request outstanding. `python-model` is a perceptron of 784, 1024, 1024 and 10 in NumPy, in one thread. `mp-pool` is `multiprocessing.Pool`, one hop and no server: what one writes by hand. `litserve` gets its bytes as base64 in JSON, as its requests are JSON; the others get them as they are."},
}

// tables is all that the harness has to say, in Markdown.
func (r *report) tables() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d CPUs, %s memory, Linux %s, %s. Commit %s, %s, %s to %s UTC.\n\n", r.Machine.CPU, r.Machine.CPUs, r.Machine.Memory, r.Machine.Kernel, r.Machine.Go,
		r.Commit, r.Begin.Format("2006-01-02"), r.Begin.Format("15:04"), r.End.Format("15:04"))
	fmt.Fprintf(&b, "    %s\n\n", r.Command)
	fmt.Fprintf(&b, "Medians of %d runs of %g s (twice that from 1 MiB on), the transports in turn in each. Load average before %s, after %s; the run itself is part of it.\n", r.Repeats, r.Seconds, r.Load[0], r.Load[1])
	if least, most := r.othersRange(); most > busy {
		fmt.Fprintf(&b, "\n**Measured on a busy machine**: programs that have no part in this took %.0f %% of it in the median run, and up to %.0f %%. Read the ratios, and those with care; the absolute figures would be better on a quiet machine.\n", 100*least, 100*most)
	}
	for _, chapter := range chapters {
		rows := r.of(chapter.scenarios...)
		if len(rows) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n### %s\n\n%s\n\n", chapter.title, chapter.words)
		switch chapter.scenarios[0] {
		case "idle":
			writeIdle(&b, rows)
		case "scale":
			writeScale(&b, rows)
		case "many-clients":
			writeClients(&b, rows)
		default:
			writeRows(&b, rows)
		}
	}
	if len(r.Missing) > 0 {
		b.WriteString("\n### Not run\n\n")
		for _, m := range r.Missing {
			fmt.Fprintf(&b, "- `%s`: %s\n", m.Transport, m.Reason)
		}
	}
	return b.String()
}

func writeRows(b *strings.Builder, rows []row) {
	with := control
	if strings.HasPrefix(rows[0].Scenario, "python-") {
		with = pythonControl
	}
	fmt.Fprintf(b, "| load | transport | hops | req/s | p50 | p99 | p99.9 | CPU/request | req/s ÷ %s's | CPU ÷ %s's | others |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n", with, with)
	for _, w := range rows {
		fmt.Fprintf(b, "| %s | %s | %d | %s | %s | %s | %s | %s | %s | %s | %.0f %% |\n", w.load(), w.Transport, w.Hops, short(w.PerSecond), drive.Micros(w.P50),
			w.tail(99, w.P99), w.tail(99.9, w.P999), drive.Micros(w.CPU), w.Ratio, w.CPURatio, 100*w.Others)
	}
}

// tail is a percentile, or nothing where there were too few requests for it.
func (w *row) tail(q, v float64) string {
	if float64(w.Requests)/float64(w.Runs)*(1-q/100) < 1 {
		return "–"
	}
	return drive.Micros(v)
}

func writeIdle(b *strings.Builder, rows []row) {
	b.WriteString("| transport | processes | CPU, % of one | wake-ups/s |\n|---|--:|--:|--:|\n")
	for _, w := range rows {
		fmt.Fprintf(b, "| %s | %d | %.3f | %s |\n", w.Transport, w.Processes, w.CPUPercent, short(w.WakeUps))
	}
}

func writeScale(b *strings.Builder, rows []row) {
	b.WriteString("| workers | connections | req/s | p50 | p99 | CPU/request | others |\n|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, w := range rows {
		fmt.Fprintf(b, "| %d | %d | %s | %s | %s | %s | %.0f %% |\n", w.Workers, w.Clients, short(w.PerSecond), drive.Micros(w.P50), w.tail(99, w.P99), drive.Micros(w.CPU), 100*w.Others)
	}
}

func writeClients(b *strings.Builder, rows []row) {
	b.WriteString("| transport | connections | memory of one | CPU of all, % of one | wake-ups/s |\n|---|--:|--:|--:|--:|\n")
	for _, w := range rows {
		fmt.Fprintf(b, "| %s | %d | %.1f KiB | %.3f | %s |\n", w.Transport, w.Clients, w.PerClient/1024, w.CPUPercent, short(w.WakeUps))
	}
}

func (w *row) load() string {
	what := sizeName(w.Size)
	if w.Scenario != "echo" {
		what = w.Scenario + ", " + what
	}
	if w.Scenario == "sparse" {
		return what
	}
	return fmt.Sprintf("%s × %d", what, w.Outstanding)
}

// String is the median, with the range.
func (s *spread) String() string {
	if s == nil {
		return "1"
	}
	return fmt.Sprintf("%s (%s–%s)", short(s.Median), short(s.Least), short(s.Most))
}

func (r *report) of(scenarios ...string) []row {
	var rows []row
	for _, w := range r.Rows {
		if slices.Contains(scenarios, w.Scenario) {
			rows = append(rows, w)
		}
	}
	return rows
}

// othersRange is the median and the most of what other programs took.
func (r *report) othersRange() (middle, most float64) {
	v := values(r.Samples, others)
	if len(v) == 0 {
		return 0, 0
	}
	return median(v), slices.Max(v)
}

// drawings are the page's charts, by file name.
func (r *report) drawings() map[string][]byte {
	all := map[string][]byte{}
	for _, size := range []int{64, 64 << 10} {
		c := plot.Chart{Title: "echo, " + drive.Size(size) + ": throughput", X: plot.Axis{Label: "requests outstanding", Log: true}, Y: plot.Axis{Label: "requests/s", Log: true}}
		for _, n := range []int{1, 8, 64} {
			c.X.Ticks = append(c.X.Ticks, plot.Tick{Value: float64(n), Label: strconv.Itoa(n)})
		}
		for _, w := range r.of("echo") {
			if w.Size == size {
				add(&c, w.Transport, plot.Point{X: float64(w.Outstanding), Y: w.PerSecond})
			}
		}
		all["throughput-"+drive.Size(size)+".svg"] = plot.SVG(c)
	}
	for _, l := range []struct {
		file, title, scenario string
		outstanding           int
	}{{"latency-echo", "echo, 64 B, 1 outstanding", "echo", 1}, {"latency-sparse", "1 request a millisecond, 64 B", "sparse", 64}, {"latency-frame", "6 MiB in, 64 B out, 1 outstanding", "frame", 1}, {"latency-python-frame", "Python, 6 MiB in, 64 B out, 1 outstanding", "python-frame", 1}} {
		c := plot.Chart{Title: l.title + ": latency", X: plot.PercentileAxis(), Y: plot.Axis{Label: "µs", Log: true}}
		for _, w := range r.of(l.scenario) {
			if w.Outstanding != l.outstanding || l.scenario == "echo" && w.Size != 64 {
				continue
			}
			for _, p := range w.Curve {
				add(&c, w.Transport, plot.Point{X: plot.PercentileX(p[0]), Y: p[1]})
			}
		}
		if len(c.Series) > 0 {
			all[l.file+".svg"] = plot.SVG(c)
		}
	}
	for _, y := range []struct {
		file, title, label string
		of                 func(row) float64
	}{
		{"scale-throughput", "throughput", "requests/s", func(w row) float64 { return w.PerSecond }},
		{"scale-cpu", "CPU for a request", "µs", func(w row) float64 { return w.CPU }},
	} {
		c := plot.Chart{Title: "as the work grows: " + y.title, X: plot.Axis{Label: "connections", Log: true}, Y: plot.Axis{Label: y.label, Log: true}}
		for _, w := range r.of("scale") {
			if !slices.ContainsFunc(c.X.Ticks, func(t plot.Tick) bool { return t.Label == strconv.Itoa(w.Clients) }) {
				c.X.Ticks = append(c.X.Ticks, plot.Tick{Value: float64(w.Clients), Label: strconv.Itoa(w.Clients)})
			}
			add(&c, fmt.Sprintf("%d workers", w.Workers), plot.Point{X: float64(w.Clients), Y: y.of(w)})
		}
		if len(c.Series) > 0 {
			all[y.file+".svg"] = plot.SVG(c)
		}
	}
	return all
}

func add(c *plot.Chart, series string, p plot.Point) {
	i := slices.IndexFunc(c.Series, func(s plot.Series) bool { return s.Name == series })
	if i < 0 {
		i = len(c.Series)
		c.Series = append(c.Series, plot.Series{Name: series})
	}
	c.Series[i].Points = append(c.Series[i].Points, p)
}

// writePage puts tables and drawings into the page.
func (r *report) writePage(path, images string) error {
	if images == "" {
		images = filepath.Join(filepath.Dir(path), "img")
	}
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, found := bytes.Cut(page, []byte(beginMark))
	_, tail, closed := bytes.Cut(rest, []byte(endMark))
	if !found || !closed {
		return fmt.Errorf("%s has no lines %q and %q: the tables go between them", path, beginMark, endMark)
	}
	if err := os.MkdirAll(images, 0o755); err != nil {
		return err
	}
	between := r.tables()
	drawings := r.drawings()
	names := make([]string, 0, len(drawings))
	for name, svg := range drawings {
		if err := os.WriteFile(filepath.Join(images, name), svg, 0o644); err != nil {
			return err
		}
		names = append(names, name)
	}
	slices.Sort(names)
	where, err := filepath.Rel(filepath.Dir(path), images)
	if err != nil {
		return err
	}
	between += "\n### Drawn\n\n"
	for _, name := range names {
		between += fmt.Sprintf("![%s](%s)\n", strings.TrimSuffix(name, ".svg"), filepath.ToSlash(filepath.Join(where, name)))
	}
	return os.WriteFile(path, slices.Concat(head, []byte(beginMark+"\n\n"+between+"\n"+endMark), tail), 0o644)
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
