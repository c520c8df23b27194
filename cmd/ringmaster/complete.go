package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/supervisor"
)

// completeTimeout is how long the shell waits for us.
const completeTimeout = time.Second

// completePool completes one argument, a pool's name.
func (a *app) completePool(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []cobra.Completion
	for _, p := range a.running().Pools {
		names = append(names, cobra.CompletionWithDesc(p.Name, p.State))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completePoolAndAction completes a pool's name and then one of its actions.
func (a *app) completePoolAndAction(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		names, directive := a.completePool(cmd, args, toComplete)
		for _, p := range a.running().Pipelines {
			names = append(names, cobra.CompletionWithDesc(p.Name, "pipeline"))
		}
		return names, directive
	}
	if len(args) == 1 {
		s := a.running()
		for _, p := range s.Pools {
			if p.Name == args[0] {
				return p.Actions, cobra.ShellCompDirectiveNoFileComp
			}
		}
		for _, p := range s.Pipelines {
			if p.Name == args[0] {
				return p.Actions, cobra.ShellCompDirectiveNoFileComp
			}
		}
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// running asks the server, if there is one.
func (a *app) running() supervisor.Status {
	ctx, cancel := context.WithTimeout(context.Background(), completeTimeout)
	defer cancel()
	var s supervisor.Status
	if err := a.control(ctx, "status", nil, completeTimeout, &s); err != nil {
		return supervisor.Status{}
	}
	return s
}
