package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/bench/chaos"
)

type benchFlags struct {
	chaos   bool
	seconds int
	seed    uint64
	clients int
	python  string
}

func (a *app) benchCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench --chaos",
		Short: "Break a server's workers under load, and check every answer",
		Long: `Start a server of its own in a temporary directory, load it from several clients and
processes, and meanwhile kill its workers, stop them, make them hang, leak, crash and lie
to the server, restart and reload its pools, and misuse its socket. Every answer is
checked byte for byte, and that each request was run as often as it may be; at the end,
that the server has leaked nothing and leaves nothing behind.

It prints what was held and done. Exit status 1: a promise was broken; each is named, and
the server's log is kept.

Without --seed the seed is a random one; it is printed, and decides load and faults.`,
		Example: `  ringmaster bench --chaos
  ringmaster bench --chaos --seconds 120 --seed 7 --python .venv/bin/python`,
		Args: noArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case !f.chaos:
			return usagef(cmd, "there is only `ringmaster bench --chaos` so far; the load generator comes with a later version")
		case f.seconds < 1:
			return usagef(cmd, "--seconds is %d; use 1 or more", f.seconds)
		case f.clients < 1 || f.clients > 200:
			return usagef(cmd, "--clients is %d; use 1 to 200", f.clients)
		}
		if !cmd.Flags().Changed("seed") {
			f.seed = uint64(rand.Uint32())
		}
		a.ran = true
		return interruptible(func(ctx context.Context) error { return a.chaos(ctx, f) })
	}
	cmd.Flags().BoolVar(&f.chaos, "chaos", false, "break things under load, and check that nothing is lost")
	cmd.Flags().IntVar(&f.seconds, "seconds", 15, "how long to break things; some seconds more go by before and after")
	cmd.Flags().Uint64Var(&f.seed, "seed", 0, "decides load and faults (default: random)")
	cmd.Flags().IntVar(&f.clients, "clients", 8, "load clients, every fourth in a process of its own")
	cmd.Flags().StringVar(&f.python, "python", "", "an interpreter that has the SDK: adds a pool of Python workers")
	_ = cmd.MarkFlagFilename("python")
	a.jsonFlag(cmd)
	cmd.AddCommand(a.chaosClientCommand())
	return cmd
}

func (a *app) chaos(ctx context.Context, f benchFlags) error {
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program's own file: %w", err)
	}
	var progress io.Writer
	if isTerminal(a.err) {
		progress = a.err
	}
	if !a.json {
		fmt.Fprintf(a.out, "chaos: seed %d, %d s, %d clients\n", f.seed, f.seconds, f.clients)
	}
	result, err := chaos.Run(ctx, chaos.Config{
		Executable: executable, Python: f.python, Seed: f.seed, Duration: time.Duration(f.seconds) * time.Second, Clients: f.clients, Progress: progress,
	})
	if err != nil {
		return err
	}
	if a.json {
		out := json.NewEncoder(a.out)
		out.SetIndent("", "  ")
		err = out.Encode(result)
	} else {
		result.Print(a.out)
	}
	if err == nil && len(result.Broken) > 0 {
		return silently(exitFailed)
	}
	return err
}

// chaosClientCommand is what `bench --chaos` runs for its clients that have processes of their own.
func (a *app) chaosClientCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "client",
		Short:  "A client of bench --chaos; started by it",
		Long:   "A client of bench --chaos. It is told on stdin what to do; it is of no use by hand.",
		Hidden: true,
		Args:   noArgs,
		RunE: a.command(func(ctx context.Context, _ []string) error {
			return chaos.RunClient(ctx, a.in, a.out)
		}),
	}
}
