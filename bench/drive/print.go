package drive

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Print writes the run as a table.
func (r *Result) Print(w io.Writer) error {
	fmt.Fprintf(w, "%s %s of ringmaster %s, %s, %s; answers are held against %s\n\n", r.Pool, r.Action, r.Version, count(r.Workers, "worker"), count(r.Connections, "connection"), r.Checked)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "SIZE\tVIA\tOUTSTANDING\tREQ/S\tP50\tP90\tP99\tP99.9\tMAX\tCPU/REQ: CLIENT\tSUPERVISOR\tWORKERS\tOTHERS\tFAILED\t\n")
	for _, row := range r.Rows {
		failed := row.Wrong + row.Missed
		for _, n := range row.Errors {
			failed += n
		}
		client, supervisor, workers := "-", "-", "-"
		if c := row.CPU; c != nil {
			client, supervisor, workers = Micros(c.Client), Micros(c.Supervisor), Micros(c.Workers)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.0f%%\t%d\t\n", Size(row.Size), row.Via, row.Outstanding, thousands(row.PerSecond),
			Micros(row.P50), Micros(row.P90), Micros(row.P99), Micros(row.P999), Micros(row.Max), client, supervisor, workers, 100*row.Others, failed)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	r.printFailures(w)
	fmt.Fprintf(w, "\n%s, %d CPUs, Linux %s; load average %s before, %s after. OTHERS is the share of the machine that programs took which have no part in this.\n",
		r.Machine.CPU, r.Machine.CPUs, r.Machine.Kernel, r.Load[0], r.Load[1])
	if r.Note != "" {
		fmt.Fprintf(w, "%s\n", r.Note)
	}
	return nil
}

// printFailures says what went wrong, by kind.
func (r *Result) printFailures(w io.Writer) {
	kinds := map[string]int{}
	for _, row := range r.Rows {
		for kind, n := range row.Errors {
			kinds[kind] += n
		}
		if row.Wrong > 0 {
			kinds["wrong answer"] += row.Wrong
		}
		if row.Missed > 0 {
			kinds["due, but not sent in time"] += row.Missed
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		fmt.Fprintf(w, "\n%d × %s", kinds[kind], kind)
	}
	if len(kinds) > 0 {
		fmt.Fprintln(w)
	}
	if r.First != "" {
		fmt.Fprintf(w, "the first: %s\n", r.First)
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Micros writes microseconds with three digits that count.
func Micros(v float64) string {
	switch {
	case v >= 999_500:
		return digits(v/1e6) + " s"
	case v >= 999.5:
		return digits(v/1e3) + " ms"
	}
	return digits(v) + " µs"
}

func digits(v float64) string {
	switch {
	case v >= 99.95:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 9.995:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// thousands writes a whole number with its thousands apart.
func thousands(v float64) string {
	s := strconv.FormatFloat(v, 'f', 0, 64)
	for at := len(s) - 3; at > 0; at -= 3 {
		s = s[:at] + "," + s[at:]
	}
	return s
}

// units of sizes, the largest first.
var units = []struct {
	name  string
	bytes int
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// Size writes a number of bytes as [ParseSize] reads it.
func Size(n int) string {
	for _, u := range units {
		if n >= u.bytes && n%u.bytes == 0 {
			return fmt.Sprintf("%d%s", n/u.bytes, u.name)
		}
	}
	return fmt.Sprintf("%dB", n)
}

// ParseSize reads a number of bytes, such as 64, 64KiB or 6MiB.
func ParseSize(s string) (int, error) {
	number, unit := s, 1
	for _, u := range units {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			number, unit = rest, u.bytes
			break
		}
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n > 1<<31/unit {
		return 0, fmt.Errorf("%q: use a size such as 64, 64KiB or 6MiB", s)
	}
	return n * unit, nil
}
