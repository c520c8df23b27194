package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/gateway"
	"github.com/ringmasterd/ringmaster/internal/address"
	"github.com/ringmasterd/ringmaster/internal/config"
	"github.com/ringmasterd/ringmaster/internal/version"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// defaultConfigs are looked for in this order.
var defaultConfigs = []string{"ringmaster.yaml", "/etc/ringmaster/ringmaster.yaml"}

type serveFlags struct {
	config    string
	check     bool
	logLevel  string
	logFormat string
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the workers that ringmaster.yaml names, and serve the socket",
		Long: `Run the workers that the configuration names, keep them alive, and serve the socket.

The configuration is --config, else $RINGMASTER_CONFIG, else ./ringmaster.yaml, else
/etc/ringmaster/ringmaster.yaml. Workers start in the directory in which serve was
started, so a relative command or dir counts from there. Flags go before environment
variables ($RINGMASTER_SOCKET, $RINGMASTER_LOG_LEVEL, $RINGMASTER_LOG_FORMAT), and those
before the file.

SIGTERM or SIGINT ends it: the socket is closed, requests in flight are answered, the
workers are stopped. A second signal ends it at once; the workers go with it.

--check validates the configuration, prints what would run, and exits.`,
		Example: `  ringmaster serve
  ringmaster serve --config /etc/ringmaster/ringmaster.yaml --log-format json
  ringmaster serve --check`,
		Args: noArgs,
	}
	cmd.RunE = a.command(func(ctx context.Context, _ []string) error { return a.serve(ctx, f) })
	cmd.Flags().StringVarP(&f.config, "config", "c", "", "the configuration file")
	cmd.Flags().BoolVar(&f.check, "check", false, "validate the configuration, print what would run, and exit")
	cmd.Flags().StringVar(&f.logLevel, "log-level", "", "debug, info, warn or error (default info)")
	cmd.Flags().StringVar(&f.logFormat, "log-format", "", "text or json (default text)")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	return cmd
}

// serve runs the server until ctx ends.
func (a *app) serve(ctx context.Context, f serveFlags) error {
	file, err := loadConfig(f.config)
	if err != nil {
		return err
	}
	if err := checkBuiltins(file); err != nil {
		return err
	}
	socket, err := address.Resolve(a.socket, file.Socket)
	if err != nil {
		return &usageError{message: err.Error(), command: "ringmaster serve"}
	}
	logger, err := newLogger(a.err,
		firstSet(f.logLevel, "RINGMASTER_LOG_LEVEL", file.Log.Level, "info"),
		firstSet(f.logFormat, "RINGMASTER_LOG_FORMAT", file.Log.Format, "text"))
	if err != nil {
		return &usageError{message: err.Error(), command: "ringmaster serve"}
	}
	cfg := file.Supervisor
	cfg.Logger = logger
	if cfg.Executable, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program's own file: %w", err)
	}
	sup, err := supervisor.New(cfg)
	if err != nil {
		return file.Locate(err)
	}
	if f.check {
		return a.check(file, socket)
	}
	ln, err := gateway.Listen(socket, file.SocketGroup)
	if err != nil {
		return err
	}
	front := file.Gateway.WithMemory()
	front.Logger = logger
	limitHeap(front)
	return a.runServer(ctx, sup, ln, front)
}

// runServer runs the pools and the gateway in front of them. When ctx ends the gateway drains first: what it lets finish needs the pools.
func (a *app) runServer(ctx context.Context, sup *supervisor.Supervisor, ln *gateway.Listener, cfg gateway.Config) error {
	cfg.Logger.Info("serving", "socket", ln.Path(), "version", version.Version, "pid", os.Getpid(), "memory_mib", cfg.Memory>>20)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	poolsCtx, stopPools := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPools()

	var wg sync.WaitGroup
	var poolsErr error
	wg.Go(func() {
		defer cancel() // without pools there is nothing to serve
		poolsErr = sup.Run(poolsCtx)
	})
	if isTerminal(a.err) {
		wg.Go(func() { announce(ctx, a.err, sup) })
	}
	stop := context.AfterFunc(ctx, func() { cfg.Logger.Info("shutting down", "why", context.Cause(ctx)) })
	defer stop()
	err := gateway.Serve(ctx, ln, sup, cfg)
	cancel()
	stopPools()
	wg.Wait()
	if err = errors.Join(err, poolsErr); err == nil {
		cfg.Logger.Log(context.Background(), slog.LevelInfo, "stopped")
	}
	return err
}

// loadConfig loads the configuration that flag, environment or convention name.
func loadConfig(flag string) (*config.File, error) {
	unusable := func(format string, args ...any) error {
		return &usageError{message: fmt.Sprintf(format, args...), command: "ringmaster serve"}
	}
	path := firstSet(flag, "RINGMASTER_CONFIG", "", "")
	for _, p := range defaultConfigs {
		if _, err := os.Stat(p); path == "" && !errors.Is(err, fs.ErrNotExist) {
			path = p
		}
	}
	if path == "" {
		return nil, unusable("there is no configuration: neither %s exists; write one, or name it with --config", strings.Join(defaultConfigs, " nor "))
	}
	file, err := config.Load(path)
	var mistakes config.Errors
	if err != nil && !errors.As(err, &mistakes) {
		return nil, unusable("%v", err)
	}
	return file, err
}
