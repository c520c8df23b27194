package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/supervisor"
)

const statusTimeout = 10 * time.Second

func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the pools and their workers",
		Long: `Show the server's pools and their workers, and how the previous process of every worker
that is not ready ended.

A worker is starting (handshake), loading, ready, draining (it finishes and takes no
more), backoff (it ended and is started again soon) or failed (it ended too often;
"ringmaster restart POOL" tries again).`,
		Example: `  ringmaster status
  ringmaster status --json | jq '.pools[].workers[].pid'`,
		Args: noArgs,
		RunE: a.command(func(ctx context.Context, _ []string) error {
			var s supervisor.Status
			if err := a.control(ctx, "status", nil, statusTimeout, &s); err != nil {
				return err
			}
			if a.json {
				out := json.NewEncoder(a.out)
				out.SetIndent("", "  ")
				return out.Encode(withoutNulls(s))
			}
			return printStatus(a.out, s)
		}),
	}
	a.jsonFlag(cmd)
	return cmd
}

// withoutNulls makes the empty lists that MessagePack left nil print as [].
func withoutNulls(s supervisor.Status) supervisor.Status {
	list := func(l *[]string) {
		if *l == nil {
			*l = []string{}
		}
	}
	if s.Pipelines == nil {
		s.Pipelines = []supervisor.PipelineStatus{}
	}
	for i := range s.Pipelines {
		list(&s.Pipelines[i].Actions)
		list(&s.Pipelines[i].Steps)
	}
	if s.Pools == nil {
		s.Pools = []supervisor.PoolStatus{}
	}
	if s.GPUs == nil {
		s.GPUs = []supervisor.GPU{}
	}
	for i := range s.Pools {
		p := &s.Pools[i]
		list(&p.Actions)
		if p.Workers == nil {
			p.Workers = []supervisor.WorkerStatus{}
		}
		for j := range p.Workers {
			if e := p.Workers[j].LastExit; e != nil {
				list(&e.Stderr)
			}
		}
	}
	return s
}

func printStatus(out io.Writer, s supervisor.Status) error {
	fmt.Fprintf(out, "ringmaster %s, pid %d, up %s%s\n\n", s.Version, s.PID, duration(s.UptimeS), memoryUse(s.Memory))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "POOL\tSTATE\tREADY\tQUEUED\tIN FLIGHT")
	for _, p := range s.Pools {
		ready := 0
		for _, wk := range p.Workers {
			if wk.State == "ready" {
				ready++
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%d/%d\t%d\t%d\n", p.Name, p.State, ready, len(p.Workers), p.Queued, p.InFlight)
	}
	fmt.Fprintln(w)
	if err := w.Flush(); err != nil {
		return err
	}
	if err := printPipelines(out, s.Pipelines); err != nil {
		return err
	}
	fmt.Fprintln(w, "WORKER\tPID\tSTATE\tIN FLIGHT\tREQUESTS\tRESTARTS\tUPTIME\tCPU\tMEMORY\tDEVICES\tLAST EXIT")
	for _, p := range s.Pools {
		for _, wk := range p.Workers {
			fmt.Fprintf(w, "%s/%d\t%s\t%s\t%d\t%d\t%d\t%s\t%.0f%%\t%s\t%s\t%s\n", p.Name, wk.Slot, orDash(wk.PID), wk.State, wk.InFlight, wk.Requests, wk.Restarts,
				duration(wk.UptimeS), wk.CPUPercent, size(wk.RSSBytes), dash(wk.Devices), lastExit(wk.LastExit))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	printLastWords(out, s)
	return nil
}

// memoryUse is what the first line says of clients' memory.
func memoryUse(m supervisor.Memory) string {
	if m.Limit == 0 {
		return ""
	}
	return fmt.Sprintf(", clients hold %s of %s", size(uint64(m.Used)), size(uint64(m.Limit)))
}

func printPipelines(out io.Writer, pipelines []supervisor.PipelineStatus) error {
	if len(pipelines) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PIPELINE\tACTIONS\tSTEPS")
	for _, p := range pipelines {
		fmt.Fprintf(w, "%s\t%s\t%s\n", p.Name, strings.Join(p.Actions, ", "), strings.Join(p.Steps, ", "))
	}
	fmt.Fprintln(w)
	return w.Flush()
}

// lastLines is how much of a dead worker's stderr is shown.
const lastLines = 8

// printLastWords prints the end of the stderr of every worker that is not there.
func printLastWords(out io.Writer, s supervisor.Status) {
	for _, p := range s.Pools {
		for _, wk := range p.Workers {
			if wk.State == "ready" || wk.State == "draining" || wk.LastExit == nil || len(wk.LastExit.Stderr) == 0 {
				continue
			}
			fmt.Fprintf(out, "\n%s/%d ended (%s); its last words:\n", p.Name, wk.Slot, lastExit(wk.LastExit))
			lines := wk.LastExit.Stderr
			for _, line := range lines[max(0, len(lines)-lastLines):] {
				fmt.Fprintf(out, "    %s\n", line)
			}
		}
	}
}

func lastExit(e *supervisor.Exit) string {
	switch {
	case e == nil:
		return "-"
	case e.Detail == "":
		return e.Cause
	case strings.HasPrefix(e.Detail, e.Cause): // "signal: killed"
		return e.Detail
	}
	return e.Cause + ": " + e.Detail
}

func duration(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Minute:
		return d.Truncate(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Truncate(time.Second).String()
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

func size(b uint64) string {
	const units = "KMGT"
	if b < 1<<10 {
		return fmt.Sprintf("%d B", b)
	}
	v, i := float64(b)/(1<<10), 0
	for ; v >= 1024 && i < len(units)-1; i++ {
		v /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}

func orDash(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
