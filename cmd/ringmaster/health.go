package main

import (
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/supervisor"
)

func (a *app) healthCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "health [POOL]",
		Short: "Check that a frame makes the round trip through a ready worker",
		Long: `Check that a real frame makes the round trip through a ready worker of the pool, or of
every pool. The exit status is 0 only then, and 3 if a pool is not healthy or no server
runs: fit for a container's probe.`,
		Example: `  ringmaster health
  ringmaster health smollm2 --timeout 2s --json`,
		Args:              optionalPool,
		ValidArgsFunction: a.completePool,
		RunE: a.command(func(ctx context.Context, args []string) error {
			var h supervisor.Health
			if err := a.control(ctx, "health", args, timeout, &h); err != nil {
				return err
			}
			return a.printHealth(h)
		}),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "give up after this long")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) printHealth(h supervisor.Health) error {
	if err := a.printHealthTable(h); err != nil {
		return err
	}
	for _, p := range h.Pools {
		if !p.OK {
			return silently(exitUnavailable)
		}
	}
	return nil
}

func (a *app) printHealthTable(h supervisor.Health) error {
	if a.json {
		return json.NewEncoder(a.out).Encode(h)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "POOL\tHEALTH\tROUND TRIP\tERROR")
	for _, p := range h.Pools {
		if p.OK {
			fmt.Fprintf(w, "%s\tok\t%.2f ms\t\n", p.Name, p.RoundMS)
		} else {
			fmt.Fprintf(w, "%s\tfailed\t-\t%s\n", p.Name, p.Error)
		}
	}
	return w.Flush()
}
