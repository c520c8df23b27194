package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/chain/trace"
	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/supervisor"
)

const (
	topLeast   = 100 * time.Millisecond
	topMost    = time.Hour
	topTimeout = 5 * time.Second // for one look at the server
)

type topFlags struct {
	once     bool
	interval time.Duration
	sort     string
	filter   string
	width    int
}

func (a *app) topCommand() *cobra.Command {
	var f topFlags
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch pools, workers, queues, rates and errors as they change",
		Long: `Watch the server: its pools with requests a second, latency (half of the requests, and 99
of 100, took no longer, in the last ten seconds), queues and errors; its workers with
memory and processor time; the machine's GPUs; and the latest requests that failed.

Keys: q quits, p s c m sort by pool, rate, latency (99 of 100) or memory, / filters by the
name of the pool (Enter keeps it, Esc drops it), w shows or hides the workers, e the
errors, space pauses, arrows and Page keys scroll.

Without a terminal, or with --once, it prints one frame and ends.`,
		Example: `  ringmaster top
  ringmaster top --sort rate --filter smol
  ringmaster top --once | head -20`,
		Args: noArgs,
	}
	check := func() error {
		if _, ok := topOrders[f.sort]; !ok {
			return usagef(cmd, "--sort is %q; use pool, rate, latency or memory", f.sort)
		}
		if f.interval < topLeast || f.interval > topMost {
			return usagef(cmd, "--interval is %s; use %s to %s", f.interval, topLeast, topMost)
		}
		if f.width < 40 || f.width > 1000 {
			return usagef(cmd, "--width is %d; use 40 to 1000", f.width)
		}
		return nil
	}
	cmd.RunE = func(*cobra.Command, []string) error {
		if err := check(); err != nil {
			return err
		}
		a.ran = true
		return interruptible(func(ctx context.Context) error {
			return a.withClient(ctx, func(c *client.Client) error { return a.top(ctx, c, f) })
		})
	}
	cmd.Flags().BoolVar(&f.once, "once", false, "print one frame and end")
	cmd.Flags().DurationVarP(&f.interval, "interval", "i", time.Second, "how often it looks")
	cmd.Flags().StringVar(&f.sort, "sort", "pool", "order: pool, rate, latency or memory")
	cmd.Flags().StringVar(&f.filter, "filter", "", "only pools whose name has this in it")
	cmd.Flags().IntVar(&f.width, "width", 120, "columns of a frame that --once prints")
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions([]cobra.Completion{"pool", "rate", "latency", "memory"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) top(ctx context.Context, c *client.Client, f topFlags) error {
	m := topModel{look: func() topLook { return look(ctx, c) }, every: f.interval, order: f.sort, filter: f.filter, width: f.width, workers: true, errors: true}
	if f.once || !isTerminal(a.out) || !readable(a.in) {
		m.now = m.look()
		if m.now.err != nil {
			return m.now.err
		}
		_, err := fmt.Fprintln(a.out, m.whole(isTerminal(a.out) && os.Getenv("NO_COLOR") == ""))
		return err
	}
	p := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(a.in), tea.WithOutput(a.out), tea.WithoutSignalHandler())
	last, err := p.Run()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, tea.ErrInterrupted):
		return nil
	case err != nil:
		return fmt.Errorf("top: %w", err)
	}
	return last.(topModel).fatal
}

// readable reports whether keys can be read from in.
func readable(in io.Reader) bool {
	f, ok := in.(*os.File)
	return ok && isTerminal(f)
}

// topLook is what one look at the server has found.
type topLook struct {
	at     time.Time
	status supervisor.Status
	stats  trace.Stats
	err    error
}

func look(ctx context.Context, c *client.Client) topLook {
	l := topLook{at: time.Now()}
	if l.err = controlWith(ctx, c, "status", nil, topTimeout, &l.status); l.err == nil {
		l.err = controlWith(ctx, c, "stats", nil, topTimeout, &l.stats)
	}
	return l
}
