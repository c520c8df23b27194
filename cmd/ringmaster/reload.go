package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/internal/config"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// reloader reads the configuration again, at SIGHUP or because a client asks for it.
type reloader struct {
	read    func() (*settings, error)
	running *settings         // immutable: what the server was started with
	base    supervisor.Config // immutable: what no file says
	sup     *supervisor.Supervisor
	links   *callChain
	level   *slog.LevelVar
	log     *slog.Logger
	notify  *notifier
	busy    chan struct{} // capacity 1: held by whoever reloads
}

// reload makes the server run what its file says now. If that is wrong, or the supervisor refuses it, the old configuration stays; the error is an [*ipc.Error].
func (r *reloader) reload(ctx context.Context) (supervisor.ReloadAnswer, error) {
	select {
	case r.busy <- struct{}{}:
		defer func() { <-r.busy }()
	case <-ctx.Done():
		return supervisor.ReloadAnswer{}, ipc.AsError(context.Cause(ctx))
	}
	r.notify.reloads()
	answer, err := r.apply(ctx)
	r.notify.reloaded(errors.Join(err, keptError(answer.Kept)))
	if err != nil {
		r.log.Error("reload failed; the server goes on with the configuration it had", "file", r.running.file.Path, "error", err)
		return answer, travelling(err)
	}
	if len(answer.NeedsRestart) > 0 {
		r.log.Warn("these keys have changed, and count only when the server is started anew", "keys", answer.NeedsRestart)
	}
	return answer, nil
}

func (r *reloader) apply(ctx context.Context) (answer supervisor.ReloadAnswer, err error) {
	next, err := r.read()
	if err != nil {
		return answer, err
	}
	undo, err := r.links.admit(next.file)
	if err != nil {
		return answer, next.file.Locate(err)
	}
	if answer.Reloaded, err = r.sup.Reload(ctx, r.config(next)); err != nil {
		undo()
		return answer, next.file.Locate(err)
	}
	was := r.links.file
	r.links.reloaded(answer.Reloaded)
	if err := r.links.configure(next.file); err != nil {
		return answer, next.file.Locate(err)
	}
	addLinks(&answer.Reloaded, was, next.file)
	answer.Keys = changedKeys(was, next.file)
	if r.level.Level() != next.level {
		answer.Keys = append(answer.Keys, "log.level")
		slices.Sort(answer.Keys)
	}
	r.level.Set(next.level)
	if len(answer.Keys) > 0 {
		r.log.Info("these keys have changed, and count from now on", "keys", answer.Keys)
	}
	answer.NeedsRestart = needsRestart(r.running, next)
	return answer, nil
}

// keptError says which pools a reload had to leave as they were; nil: none.
func keptError(kept map[string]string) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(kept)) {
		errs = append(errs, fmt.Errorf("pool %s goes on as it was: %s", name, kept[name]))
	}
	return errors.Join(errs...)
}

// config is the supervisor's part of the settings. What a running one cannot change is as it was at the start.
func (r *reloader) config(s *settings) supervisor.Config {
	cfg := r.base
	cfg.Pools = s.file.Supervisor.Pools
	cfg.MaxMessage, cfg.DrainTimeout = r.running.file.Supervisor.MaxMessage, r.running.file.Supervisor.DrainTimeout
	return cfg
}

// badConfig is the reason of the error with which a configuration is refused; its message has a line for each mistake.
const badConfig = "config"

// travelling makes an error one that can be told a client.
func travelling(err error) error {
	var mistakes config.Errors
	var unusable *usageError
	if errors.As(err, &mistakes) || errors.As(err, &unusable) {
		return ipc.Errorf(ipc.InvalidArgument, badConfig, "%v", err)
	}
	return ipc.AsError(err)
}

// configError is how a client tells its user about the mistakes in the server's file: as if it had read it itself.
type configError struct{ failure *ipc.Error }

func (r configError) Error() string { return r.failure.Message }
func (r configError) Unwrap() error { return r.failure }

func isConfigError(err error) bool {
	var refused configError
	return errors.As(err, &refused)
}

func (a *app) reloadCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the server read its configuration again",
		Long: `Have the server read its configuration file again and run what it says now: pools that are
new are started, those that are gone are drained and stopped, those that changed get the
new values, and the others are left alone. No request is lost.

A pool whose new workers do not come up goes on as it was; that is told, and the exit
status is 1. A file with mistakes changes nothing: they are printed with their lines, and the exit
status is 2. Keys that a running server cannot change (socket, socket_group, socket_mode,
listen, listen_origins, max_message, memory, clients, arenas, sessions.store, path and url,
drain_timeout, log.format) are named if they differ; they count from its next start. The
log's level and who may do what (auth) count at once. ${VAR} in the file stands for what it stood
for at the start.

"systemctl reload ringmaster" and SIGHUP do the same, with the outcome in the log.`,
		Example: `  ringmaster reload
  ringmaster reload --json | jq .changed`,
		Args: noArgs,
		RunE: a.command(func(ctx context.Context, _ []string) error {
			var answer supervisor.ReloadAnswer
			err := a.control(ctx, "reload", nil, timeout, &answer)
			var failure *ipc.Error
			switch {
			case errors.As(err, &failure) && failure.Reason == badConfig:
				return configError{failure}
			case err != nil:
				return err
			}
			return a.printReload(answer)
		}),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this long (default: the server's limit)")
	a.jsonFlag(cmd)
	return cmd
}

// printReload prints what a reload has done. It has failed if a pool was left as it was.
func (a *app) printReload(answer supervisor.ReloadAnswer) error {
	if err := a.printReloadAnswer(answer); err != nil {
		return err
	}
	if len(answer.Kept) > 0 {
		return silently(exitFailed)
	}
	return nil
}

func (a *app) printReloadAnswer(answer supervisor.ReloadAnswer) error {
	if a.json {
		for _, list := range []*[]string{&answer.Added, &answer.Removed, &answer.Changed, &answer.Unchanged, &answer.Keys, &answer.NeedsRestart} {
			if *list == nil {
				*list = []string{}
			}
		}
		return json.NewEncoder(a.out).Encode(answer)
	}
	said := false
	for _, part := range []struct {
		what  string
		names []string
	}{
		{"added", answer.Added}, {"removed", answer.Removed}, {"changed", answer.Changed}, {"changed keys", answer.Keys}, {"changed, but not before the server is started anew", answer.NeedsRestart},
	} {
		if len(part.names) > 0 {
			said = true
			fmt.Fprintf(a.out, "%s: %s\n", part.what, strings.Join(part.names, ", "))
		}
	}
	if err := keptError(answer.Kept); err != nil {
		said = true
		fmt.Fprintln(a.out, err)
	}
	if !said {
		fmt.Fprintln(a.out, "nothing has changed")
	}
	return nil
}
