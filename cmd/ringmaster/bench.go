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
	"github.com/spf13/pflag"

	"github.com/ringmasterd/ringmaster/bench/chaos"
)

type benchFlags struct {
	load  loadFlags
	chaos chaosFlags
}

type chaosFlags struct {
	on      bool
	seconds int
	seed    uint64
	clients int
	python  string
}

func (a *app) benchCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench [POOL [ACTION]]",
		Short: "Measure a server under load; or break its workers, and check every answer",
		Long: `Load a running server and tell requests a second, latency, and what a request costs in
processor time in this client, the supervisor and the workers apart. Without POOL it is
the only pool, without ACTION echo, or the pool's only action. A request is a tensor x of
--size bytes, or with --data and --tensor whatever you send; echo's answers are compared
with what was sent. Each --size is combined with each --outstanding.

VIA says how the requests of a row travelled: in a message; through the socket (--ring 0);
as a copy that the client makes in memory that it shares with the workers, which it does
by itself with large tensors; or in such an arena from the start (--arena).

As many requests are under way as --outstanding says: a closed loop, which asks less of a
server that is slow. --rate makes a request due so often, whatever became of the last one:
an open loop, in which a request's time begins when it was due, not when it was sent, and
--outstanding bounds how many are under way.

Failed requests are counted by their code and reason, and not timed. Exit status 1: an
answer was wrong, or there was none.

--chaos starts a server of its own in a temporary directory, loads it from several clients
and processes, and meanwhile kills its workers, stops them, makes them hang, leak, crash
and lie to the server, restarts and reloads its pools, and misuses its socket. Every
answer is checked byte for byte, and that each request was run as often as it may be, and
that no worker writes into memory that clients share with it once it has been released; at
the end, that the server has leaked nothing and leaves nothing behind. It prints what was
held and done. Exit status 1: a promise was broken; each is named, and the server's log
is kept. Without --seed the seed is a random one; it is printed, and decides load and
faults.`,
		Example: `  ringmaster bench echo
  ringmaster bench echo --size 64,6MiB --outstanding 1,8 --plot echo.svg
  ringmaster bench echo --size 6MiB --arena
  ringmaster bench echo --rate 2000 --size 64KiB --duration 10s --json
  ringmaster bench smollm2 chat --data @question.json --outstanding 1,2,4 --duration 30s
  ringmaster bench --chaos --seconds 120 --seed 7 --python .venv/bin/python`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 2 {
				return usagef(cmd, "bench takes a pool and an action; got %d arguments", len(args))
			}
			return nil
		},
		ValidArgsFunction: a.completePoolAndAction,
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if !f.chaos.on {
			return a.benchLoad(cmd, f.load, args)
		}
		return a.benchChaos(cmd, f.chaos, args)
	}
	f.load.register(cmd)
	f.chaos.register(cmd)
	a.jsonFlag(cmd)
	cmd.AddCommand(a.chaosClientCommand())
	return cmd
}

// Each half of the command has flags of its own, and takes none of the other's.
const halfOf = "ringmaster_bench_half"

func (f *chaosFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.on, "chaos", false, "break things under load, and check that nothing is lost")
	flags.IntVar(&f.seconds, "seconds", 15, "chaos: how long to break things; some seconds more go by before and after")
	flags.Uint64Var(&f.seed, "seed", 0, "chaos: decides load and faults (default: random)")
	flags.IntVar(&f.clients, "clients", 8, "chaos: load clients, every fourth in a process of its own")
	flags.StringVar(&f.python, "python", "", "chaos: an interpreter that has the SDK: adds a pool of Python workers")
	_ = cmd.MarkFlagFilename("python")
	for _, name := range []string{"seconds", "seed", "clients", "python"} {
		_ = flags.SetAnnotation(name, halfOf, []string{"chaos"})
	}
}

// foreignFlag returns the flag that was given although it belongs to the other half, or "".
func foreignFlag(cmd *cobra.Command, half string) string {
	name := ""
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if of := f.Annotations[halfOf]; name == "" && len(of) > 0 && of[0] != half {
			name = f.Name
		}
	})
	return name
}

func (a *app) benchChaos(cmd *cobra.Command, f chaosFlags, args []string) error {
	name := foreignFlag(cmd, "chaos")
	switch {
	case len(args) > 0:
		return usagef(cmd, "--chaos has a server of its own, and pools; got %q", args)
	case name != "":
		return usagef(cmd, "--%s is not for --chaos, which has a load of its own", name)
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

func (a *app) chaos(ctx context.Context, f chaosFlags) error {
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
