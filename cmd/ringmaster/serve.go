package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/gateway"
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
workers are stopped. A second signal ends it at once; the workers go with it. SIGHUP
reads the configuration again, as "ringmaster reload" does.

Under systemd it takes over the socket of ringmaster.socket, says when it is ready, feeds
the watchdog, and tells what it does in "systemctl status".

--check validates the configuration, prints what would run, and exits.`,
		Example: `  ringmaster serve
  ringmaster serve --config /etc/ringmaster/ringmaster.yaml --log-format json
  ringmaster serve --check`,
		Args: noArgs,
	}
	cmd.RunE = underInit(a.command(func(ctx context.Context, _ []string) error { return a.serve(ctx, f) }))
	cmd.Flags().StringVarP(&f.config, "config", "c", "", "the configuration file")
	cmd.Flags().BoolVar(&f.check, "check", false, "validate the configuration, print what would run, and exit")
	cmd.Flags().StringVar(&f.logLevel, "log-level", "", "debug, info, warn or error (default info)")
	cmd.Flags().StringVar(&f.logFormat, "log-format", "", "text or json (default text)")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	return cmd
}

// serve runs the server until ctx ends.
func (a *app) serve(ctx context.Context, f serveFlags) error {
	hangups := make(chan os.Signal, 1) // from the beginning: the usual effect of SIGHUP is the end
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)

	running, err := a.settings(f)
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	level.Set(running.level)
	logger, err := newLogger(a.err, level, running.logFormat)
	if err != nil {
		return &usageError{message: err.Error(), command: "ringmaster serve"}
	}
	f.config = running.file.Path // a reload reads this very file
	notify := &notifier{log: logger}
	reloads := &reloader{read: func() (*settings, error) { return a.settings(f) }, running: running, level: level, log: logger, notify: notify, busy: make(chan struct{}, 1)}
	if reloads.base.Executable, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program's own file: %w", err)
	}
	reloads.base.Logger, reloads.base.OnReload = logger, reloads.reload
	memory := &gateway.MemoryGauge{}
	reloads.base.Memory = memory.Read
	reloads.base.OnStatus = func(s *supervisor.Status) { reloads.links.status(s) } // nobody asks before there are links
	reloads.base.Control = map[string]func(context.Context, string) (any, error){clearCache: reloads.clearCache}
	reloads.base.Arenas = running.file.Gateway.NewArenas()
	sup, err := supervisor.New(reloads.config(running))
	if err != nil {
		return running.file.Locate(err)
	}
	if f.check {
		return a.check(running.file, running.socket)
	}
	reloads.sup = sup
	links, err := newCallChain(sup, running.file, logger)
	if err != nil {
		return running.file.Locate(err)
	}
	reloads.links = links
	ln, err := listen(running, logger)
	if err != nil {
		return errors.Join(err, links.close())
	}
	port, err := listenTCP(running)
	if err != nil {
		return errors.Join(err, ln.Close(), links.close())
	}
	s := &serving{app: a, sup: sup, links: links, ln: ln, port: port, log: logger, notify: notify, reloads: reloads, hangups: hangups, drain: running.drainTimeout()}
	front := running.file.Gateway.WithMemory()
	front.DrainTimeout, front.Logger, front.Lent = s.drain, logger, reloads.base.Arenas
	front.Gate, front.Gauge, front.Collectors = links.auth, memory, links.collectors()
	limitHeap(front, running.file.Cache.Bound())
	return s.run(ctx, front)
}

// serving is a server at work.
type serving struct {
	app     *app
	sup     *supervisor.Supervisor
	links   *callChain
	ln      *gateway.Listener
	port    []*gateway.Listener // for TCP; none: there is none
	log     *slog.Logger
	notify  *notifier
	reloads *reloader
	hangups <-chan os.Signal
	drain   time.Duration
}

// run runs the pools and the gateway in front of them. When ctx ends the gateway drains first: what it lets finish needs the pools. The service manager hears of it all, until the last process is gone.
func (s *serving) run(ctx context.Context, cfg gateway.Config) error {
	s.log.Info("serving", "socket", s.ln.Path(), "version", version.Version, "pid", os.Getpid(), "memory_mib", cfg.Memory>>20)
	for _, port := range s.port {
		s.log.Info("serving those with a token", "listen", port.Path())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	poolsCtx, stopPools := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPools()

	var wg sync.WaitGroup
	var poolsErr error
	wg.Go(func() {
		defer cancel(nil) // without pools there is nothing to serve
		poolsErr = s.sup.Run(poolsCtx)
	})
	if isTerminal(s.app.err) {
		wg.Go(func() { announce(ctx, s.app.err, s.sup) })
	}
	wg.Go(func() { s.heed(ctx, cancel) })
	stop := context.AfterFunc(ctx, func() { s.log.Info("shutting down", "why", context.Cause(ctx)) })
	defer stop()
	gone := make(chan struct{})
	var beats sync.WaitGroup
	beats.Go(func() { s.heart().run(ctx, gone) })

	err := gateway.Serve(ctx, s.ln, s.links, cfg, s.port...)
	cancel(nil)
	err = errors.Join(err, s.links.close())
	stopPools()
	wg.Wait()
	close(gone)
	beats.Wait()
	if err = errors.Join(err, poolsErr); err == nil {
		s.log.Info("stopped")
	}
	return err
}

// heed reloads the configuration at each SIGHUP until ctx ends. One that comes because our terminal has gone has its old meaning: the end, but an orderly one.
func (s *serving) heed(ctx context.Context, end context.CancelCauseFunc) {
	terminal := isTerminal(s.app.err)
	for {
		select {
		case <-s.hangups:
			if terminal && !isTerminal(s.app.err) {
				end(&interruption{signal: syscall.SIGHUP})
				return
			}
			_, _ = s.reloads.reload(ctx) // it has been logged
		case <-ctx.Done():
			return
		}
	}
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
