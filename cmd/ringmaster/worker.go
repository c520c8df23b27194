package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/supervisor"
	"github.com/ringmasterd/ringmaster/worker"
)

// workerCommand is what the server runs for `builtin: NAME`.
func (a *app) workerCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:    "worker --builtin NAME",
		Short:  "Serve a builtin set of actions; started by the server",
		Long:   "Serve a builtin set of actions. The server starts this command for a pool with `builtin: NAME`; it is of no use by hand.\n\nBuiltins: " + strings.Join(worker.BuiltinNames(), ", "),
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.ran = true
			actions, ok := worker.Builtin(name)
			if !ok {
				return fmt.Errorf("there is no builtin %q; there are %s", name, strings.Join(worker.BuiltinNames(), ", "))
			}
			return worker.Serve(cmd.Context(), actions)
		},
	}
	cmd.Flags().StringVar(&name, "builtin", "", "the builtin's name")
	_ = cmd.MarkFlagRequired("builtin")
	return cmd
}

// guardCommand is what the server runs to clean up should it be killed; see [supervisor.RunGuard].
func (a *app) guardCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "guard",
		Short:  "Clean up after a server that was killed; started by the server",
		Long:   "Clean up after a server that was killed. The server starts this command; it is of no use by hand.",
		Hidden: true,
		Args:   noArgs,
		Run: func(*cobra.Command, []string) {
			a.ran = true
			supervisor.RunGuard(a.in)
		},
	}
}

// confineCommand is what the server runs in place of a worker that it is to confine first; see [supervisor.RunConfined].
func (a *app) confineCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "confine SPEC PROGRAM ARGV...",
		Short:              "Confine a worker and become it; started by the server",
		Long:               "Set a worker's limits and user, and become its program. The server starts this command; it is of no use by hand.",
		Hidden:             true,
		DisableFlagParsing: true,
		Args:               cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			a.ran = true
			return supervisor.RunConfined(args)
		},
	}
}
