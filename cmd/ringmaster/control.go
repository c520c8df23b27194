package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// poolArg is the body of control requests; nil stands for every pool.
type poolArg struct {
	Pool *string `msgpack:"pool"`
}

// control asks the server itself, and decodes its answer into result unless that is nil.
func (a *app) control(ctx context.Context, action string, args []string, timeout time.Duration, result any) error {
	var body poolArg
	if len(args) > 0 {
		body.Pool = &args[0]
	}
	return a.withClient(ctx, func(c *client.Client) error {
		return controlWith(ctx, c, action, body, timeout, result)
	})
}

// controlWith does so on a connection that is there, with any body.
func controlWith(ctx context.Context, c *client.Client, action string, body any, timeout time.Duration, result any) error {
	reply, err := c.Call(ctx, supervisor.ControlPool, action, body, client.WithTimeout(timeout))
	if err != nil || result == nil {
		return err
	}
	return reply.Decode(result)
}

func (a *app) restartCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "restart POOL",
		Short: "Replace a pool's workers, one after the other",
		Long: `Replace a pool's workers, one after the other; no request is lost. Workers without a GPU
are replaced by ones that are ready already, others finish what they have before the next
one starts ("replace" in ringmaster.yaml changes that). The command returns when all new
workers are ready; if one does not come up, it fails, and the old workers go on.`,
		Example:           "  ringmaster restart smollm2",
		Args:              onePool,
		ValidArgsFunction: a.completePool,
		RunE: a.command(func(ctx context.Context, args []string) error {
			if err := a.control(ctx, "restart", args, timeout, nil); err != nil {
				return err
			}
			return a.done("restart", args)
		}),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this long (default: the server's limit)")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) drainCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "drain [POOL]",
		Short: "Finish what a pool has and take no more requests",
		Long: `Let a pool, or all pools, finish the requests they have and take no more; new requests
fail with UNAVAILABLE/draining. The command returns when the last request has ended.
"ringmaster restart POOL" brings a drained pool back.`,
		Example: `  ringmaster drain smollm2
  ringmaster drain --timeout 1m`,
		Args:              optionalPool,
		ValidArgsFunction: a.completePool,
		RunE: a.command(func(ctx context.Context, args []string) error {
			if err := a.control(ctx, "drain", args, timeout, nil); err != nil {
				return err
			}
			return a.done("drain", args)
		}),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this long (default: the server's limit)")
	a.jsonFlag(cmd)
	return cmd
}

// done says that a control request has succeeded.
func (a *app) done(action string, args []string) error {
	if a.json {
		answer := struct {
			Action string  `json:"action"`
			Pool   *string `json:"pool"` // null: all
		}{Action: action}
		if len(args) > 0 {
			answer.Pool = &args[0]
		}
		return json.NewEncoder(a.out).Encode(answer)
	}
	pool := "all pools"
	if len(args) > 0 {
		pool = args[0]
	}
	past := map[string]string{"restart": "restarted", "drain": "drained"}[action]
	_, err := fmt.Fprintf(a.out, "%s: %s\n", pool, past)
	return err
}

func onePool(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef(cmd, "%s needs the name of one pool; got %d arguments", cmd.Name(), len(args))
	}
	return nil
}

func optionalPool(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef(cmd, "%s takes the name of one pool, or none for all; got %d arguments", cmd.Name(), len(args))
	}
	return nil
}
