package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/chain/trace"
	"github.com/ringmasterd/ringmaster/client"
)

// traceFlags choose requests of those that the server remembers.
type traceFlags struct {
	slow, errors bool
	pool         string
	count        int
}

// recentQuery is the body of the control request recent.
type recentQuery struct {
	Only  string `msgpack:"only"`
	Limit int    `msgpack:"limit"`
	Pool  string `msgpack:"pool"`
}

// traceQuery is the body of the control request trace.
type traceQuery struct {
	ID string `msgpack:"id"`
}

func (a *app) traceCommand() *cobra.Command {
	var f traceFlags
	cmd := &cobra.Command{
		Use:   "trace [ID]",
		Short: "Show the latest requests, or one request's way with times",
		Long: `Show the latest requests that have ended, or, given the number of a trace or how it
begins, the way of its request as a tree: what it waited for, which worker had it, and how
long each step took. The number is in the list, in the log ("trace_id"), and the second
part of the traceparent that the caller sent or the worker got.

The server remembers the last 1000 requests ("tracing.recent"), and beside them the last
256 that failed (--errors) and the last 256 that were slower than 99 of 100 requests to
their pool in the minute before (--slow). Times are milliseconds.`,
		Example: `  ringmaster trace
  ringmaster trace --errors --pool smollm2
  ringmaster trace 0af76519
  ringmaster trace 0af76519 --json | jq '.traces[].spans[] | {name, took_ms}'`,
		ValidArgsFunction: a.completeTrace,
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) > 1:
			return usagef(cmd, "trace takes the number of one trace, or none for a list; got %d arguments", len(args))
		case len(args) == 1 && (f.slow || f.errors || f.pool != "" || cmd.Flags().Changed("count")):
			return usagef(cmd, "--slow, --errors, --pool and --count are for the list; leave them out, or the trace's number")
		case f.slow && f.errors:
			return usagef(cmd, "--slow and --errors are two lists; ask for one")
		case f.count < 1 || f.count > 1000:
			return usagef(cmd, "--count is %d; use 1 to 1000", f.count)
		}
		return nil
	}
	cmd.RunE = a.command(func(ctx context.Context, args []string) error {
		return a.withClient(ctx, func(c *client.Client) error {
			if len(args) == 1 {
				return a.showTrace(ctx, c, args[0])
			}
			return a.listRequests(ctx, c, f)
		})
	})
	cmd.Flags().BoolVar(&f.slow, "slow", false, "only requests that were slow for their pool")
	cmd.Flags().BoolVar(&f.errors, "errors", false, "only requests that failed")
	cmd.Flags().StringVar(&f.pool, "pool", "", "only requests to this pool")
	cmd.Flags().IntVarP(&f.count, "count", "n", 20, "how many to list")
	_ = cmd.RegisterFlagCompletionFunc("pool", func(cmd *cobra.Command, _ []string, s string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.completePool(cmd, nil, s)
	})
	a.jsonFlag(cmd)
	return cmd
}

// completeTrace completes the number of a trace.
func (a *app) completeTrace(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), completeTimeout)
	defer cancel()
	var recent trace.Recent
	_ = a.withClient(ctx, func(c *client.Client) error { // without a server there is nothing to complete
		return controlWith(ctx, c, "recent", recentQuery{}, completeTimeout, &recent)
	})
	var ids []cobra.Completion
	for _, r := range recent.Requests {
		ids = append(ids, cobra.CompletionWithDesc(r.TraceID, fmt.Sprintf("%s.%s %s", r.Pool, r.Action, r.Outcome)))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

func (a *app) listRequests(ctx context.Context, c *client.Client, f traceFlags) error {
	q := recentQuery{Limit: f.count, Pool: f.pool}
	switch {
	case f.slow:
		q.Only = "slow"
	case f.errors:
		q.Only = "errors"
	}
	var recent trace.Recent
	if err := controlWith(ctx, c, "recent", q, statusTimeout, &recent); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(recent)
	}
	if len(recent.Requests) == 0 {
		fmt.Fprintln(a.err, "there are none; requests are listed once they have ended")
		return nil
	}
	return printRequests(a.out, recent.Requests)
}

func (a *app) printJSON(v any) error {
	out := json.NewEncoder(a.out)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(v)
}

func printRequests(out io.Writer, requests []trace.Summary) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TRACE\tENDED\tTOOK\tQUEUED\tPOOL\tACTION\tBY\tWORKER\tOUTCOME")
	for _, r := range requests {
		fmt.Fprintf(w, "%s\t%s\t%.2f\t%.2f\t%s\t%s\t%s\t%s\t%s\n", r.TraceID, clock(r), r.TookMS, r.QueueMS, printable(r.Pool), printable(r.Action), dash(r.Protocol), dash(r.Worker), r.Outcome)
	}
	return w.Flush()
}

// clock is when a request ended, in local time.
func clock(r trace.Summary) string {
	begin, err := time.Parse(time.RFC3339Nano, r.Begin)
	if err != nil {
		return r.Begin
	}
	return begin.Add(time.Duration(r.TookMS * float64(time.Millisecond))).Local().Format("15:04:05.000")
}

// printable is a name as a terminal may be given it: what clients and workers call things is theirs.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
			return '\ufffd'
		}
		return r
	}, s)
}

func (a *app) showTrace(ctx context.Context, c *client.Client, id string) error {
	var found trace.Found
	if err := controlWith(ctx, c, "trace", traceQuery{id}, statusTimeout, &found); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(found)
	}
	for i, t := range found.Traces {
		if i > 0 {
			fmt.Fprintln(a.out)
		}
		if err := printTrace(a.out, t); err != nil {
			return err
		}
	}
	return nil
}

// printTrace prints a request's way as a tree.
func printTrace(out io.Writer, t trace.Trace) error {
	fmt.Fprintf(out, "trace %s: %s.%s, %s after %.2f ms\n", t.TraceID, printable(t.Pool), printable(t.Action), t.Outcome, t.TookMS)
	if t.Message != "" {
		fmt.Fprintf(out, "  %s\n", printable(t.Message))
	}
	from := fmt.Sprintf("uid %d, pid %d", t.UID, t.PID)
	if t.Address != "" {
		from = t.Address
	}
	fmt.Fprintf(out, "  %s by %s from %s", t.Begin, dash(t.Protocol), from)
	if t.Principal != "" {
		fmt.Fprintf(out, " (%s)", printable(t.Principal))
	}
	fmt.Fprintf(out, "; %s in, %s out", size(uint64(t.BytesIn)), size(uint64(t.BytesOut)))
	if t.Chunks > 0 {
		fmt.Fprintf(out, " in %d chunks", t.Chunks)
	}
	if t.Parent != "" {
		fmt.Fprintf(out, "; part of span %s", t.Parent)
	}
	fmt.Fprintf(out, "\n\n%10s %10s\n", "BEGIN", "TOOK")
	for i, line := range outline(t.Spans) {
		s := t.Spans[line.span]
		fmt.Fprintf(out, "%10.2f %10.2f  %s%s%s\n", s.BeginMS, s.TookMS, line.stem, printable(s.Name), about(s, i == 0))
	}
	return nil
}

// branch is a line of a tree: a span, and what is drawn before its name.
type branch struct {
	span int
	stem string
}

// outline puts spans in the order of a tree, those with the same parent as they began.
func outline(spans []trace.Step) []branch {
	below := map[int][]int{}
	for i, s := range spans {
		below[s.Within] = append(below[s.Within], i)
	}
	var lines []branch
	var draw func(span int, stem, under string)
	draw = func(span int, stem, under string) {
		lines = append(lines, branch{span, stem})
		children := below[span]
		sort.SliceStable(children, func(i, j int) bool { return spans[children[i]].BeginMS < spans[children[j]].BeginMS })
		for i, child := range children {
			if child <= span { // not a tree: an odd server
				continue
			}
			if i == len(children)-1 {
				draw(child, under+"└ ", under+"  ")
			} else {
				draw(child, under+"├ ", under+"│ ")
			}
		}
	}
	for _, root := range below[-1] {
		draw(root, "", "")
	}
	return lines
}

// about is what a line says beside a span's name: what is told of the request itself stands above the tree.
func about(s trace.Step, root bool) string {
	var said []string
	if s.Error != "" {
		said = append(said, s.Error)
	}
	keys := make([]string, 0, len(s.Attributes))
	for k := range s.Attributes {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		if short, ours := strings.CutPrefix(k, "ringmaster."); ours && !root && short != "reason" {
			said = append(said, fmt.Sprintf("%s %v", short, s.Attributes[k]))
		} else if tokens, is := strings.CutPrefix(k, "gen_ai.usage."); is {
			said = append(said, fmt.Sprintf("%s %v", tokens, s.Attributes[k]))
		}
	}
	if len(said) == 0 {
		return ""
	}
	return "  " + printable(strings.Join(said, ", "))
}
