package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/internal/version"
)

// app is one run of the program: its streams and the flags that many commands have.
type app struct {
	in       io.Reader
	out, err io.Writer

	socket string
	token  string // the file that has one
	json   bool
	ran    bool // the command line was understood: an error is not one of usage
}

const rootLong = `Ringmaster runs model workers on this host and lets the programs beside them call
those models like a local function: over a Unix socket, and through shared memory.

"ringmaster serve" runs the workers that ringmaster.yaml names; the other commands
talk to it. All find the socket in the same way: --socket, else $RINGMASTER_SOCKET,
else $RUNTIME_DIRECTORY/ringmaster.sock, else
$XDG_RUNTIME_DIR/ringmaster/ringmaster.sock, else /run/ringmaster/ringmaster.sock.
They send the token in --token-file, else in $RINGMASTER_TOKEN, if there is one.

Exit status: 0 success, 1 failed, 2 usage or configuration, 3 unavailable,
4 deadline exceeded, 128+N ended by signal N. Errors go to stderr as
"ringmaster: CODE/reason: message", with --json as {"error": {"code", "reason",
"message", "retry_after_ms", "details"}}.`

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "ringmaster",
		Short: "Run model workers on this host and call them like a local function",
		Long:  rootLong,
		Example: `  ringmaster serve --config ringmaster.yaml
  ringmaster call echo echo --data '{"hello": "world"}'
  ringmaster status`,
		SuggestionsMinimumDistance: 2,
		SilenceErrors:              true,
		SilenceUsage:               true,
		Version:                    version.Version,
		Args:                       cobra.ArbitraryArgs, // what is no command's name arrives here
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetVersionTemplate("ringmaster {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usagef(cmd, "%v", err) })
	root.PersistentFlags().StringVar(&a.socket, "socket", "", "the server's socket, a path or unix:///path, or its port, tcp://127.0.0.1:8080")
	root.PersistentFlags().StringVar(&a.token, "token-file", "", "a file with the token to send (default: $RINGMASTER_TOKEN)")
	_ = root.MarkPersistentFlagFilename("token-file")
	_ = root.MarkPersistentFlagFilename("socket")
	root.AddCommand(
		a.serveCommand(),
		a.callCommand(),
		a.statusCommand(),
		a.topCommand(),
		a.traceCommand(),
		a.healthCommand(),
		a.restartCommand(),
		a.drainCommand(),
		a.reloadCommand(),
		a.cacheCommand(),
		a.authCommand(),
		a.sessionCommand(),
		a.benchCommand(),
		a.versionCommand(),
		a.workerCommand(),
		a.guardCommand(),
		a.confineCommand(),
	)
	return root
}

// jsonFlag gives a command --json.
func (a *app) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON; an error is one JSON object on stderr")
}

// command makes a command's function of f, which runs until it is done or a signal ends its context.
func (a *app) command(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, args []string) error {
		a.ran = true
		return interruptible(func(ctx context.Context) error { return f(ctx, args) })
	}
}

// withClient runs f with a connection to the server.
func (a *app) withClient(ctx context.Context, f func(*client.Client) error, opts ...client.DialOption) error {
	if a.socket != "" {
		opts = append(opts, client.WithAddress(a.socket))
	}
	if a.token != "" {
		b, err := os.ReadFile(a.token)
		if err != nil {
			return fmt.Errorf("--token-file: %w", err)
		}
		opts = append(opts, client.WithToken(strings.TrimSpace(string(b))))
	}
	c, err := client.Dial(ctx, opts...)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef(cmd, "%s takes no arguments; got %q", cmd.Name(), args[0])
	}
	return nil
}
