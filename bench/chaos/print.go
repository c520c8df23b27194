package chaos

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Print writes the result as tables.
func (r *Result) Print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	row("LOAD\tseed %d, %.0f s, pools %s", r.Seed, r.Seconds, strings.Join(r.Pools, ", "))
	row("clients\t%d, with %d requests under way at most", r.Load.Clients, r.Load.Concurrent)
	row("requests\t%d, %.0f a second", r.Load.Requests, r.Load.PerSecond)
	row("chunks\t%d", r.Load.Chunks)
	row("bytes\t%d MiB sent, %d MiB received", r.Load.SentBytes>>20, r.Load.ReceivedBytes>>20)
	row("run twice\t%d, idempotent all of them", r.Load.RunTwice)
	row("")
	row("ARENAS\tTIMES")
	for _, a := range r.Arenas {
		row("%s\t%d", a.Name, a.N)
	}
	row("")
	row("FAULT\tTIMES")
	for _, f := range r.Faults {
		row("%s\t%d", f.Name, f.N)
	}
	for _, f := range r.NotSupported {
		row("%s\tnot supported (%d)", f.Name, f.N)
	}
	row("")
	row("OUTCOME\t\tREQUESTS")
	for _, o := range r.Outcomes {
		row("%s\t%s\t%d", o.Class, o.Outcome, o.N)
	}
	row("")
	row("LATENCY, ms\tP50\tP99\tMAX")
	for _, l := range r.Latencies {
		row("%s\t%.1f\t%.1f\t%.1f", l.Class, l.P50MS, l.P99MS, l.MaxMS)
	}
	row("")
	row("RECOVERY, ms\tKILLS\tP50\tP99\tMAX")
	for _, v := range r.Recovery {
		row("%s\t%d\t%.0f\t%.0f\t%.0f", v.Pool, v.Count, v.P50MS, v.P99MS, v.MaxMS)
	}
	row("")
	row("HELD\tBEFORE\tAFTER\tMAY GROW BY")
	for _, l := range r.Leaks {
		row("%s\t%d\t%d\t%d", l.What, l.Before, l.After, l.Allowed)
	}
	_ = w.Flush()
	if len(r.Broken) == 0 {
		fmt.Fprintln(out, "\nEvery promise was kept: 0 wrong bytes, 0 duplicated, 0 unanswered, 0 leaks.")
		return
	}
	fmt.Fprintf(out, "\nBROKEN PROMISES: %d\n", len(r.Broken)+r.MoreBroken)
	for _, b := range r.Broken {
		fmt.Fprintln(out, "  "+b)
	}
	if r.MoreBroken > 0 {
		fmt.Fprintf(out, "  and %d more\n", r.MoreBroken)
	}
	fmt.Fprintf(out, "The server's log is %s, the ledger of what was run is beside it. Again with the same faults: --seed %d\n", r.Log, r.Seed)
}
