package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// clearCache is the control action that clears the cache.
const clearCache = "cache_clear"

// cleared is its answer.
type cleared struct {
	Entries int `json:"entries" msgpack:"entries"` // that were dropped
}

// clearCache answers it.
func (r *reloader) clearCache(_ context.Context, pool string) (any, error) {
	n := r.links.cache.Clear(pool)
	r.log.Info("the cache was cleared", "pool", pool, "entries", n)
	return cleared{n}, nil
}

func (a *app) cacheCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "cache",
		Short:   "What the server keeps of its answers",
		Long:    "Commands for the cache, which answers requests for the actions that ringmaster.yaml names\nfrom memory.",
		Example: "  ringmaster cache clear embed",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.cacheClearCommand())
	return cmd
}

func (a *app) cacheClearCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "clear [POOL]",
		Short: "Drop a pool's answers from the cache",
		Long: `Drop a pool's answers, or those of all pools, from the cache. Answers to requests that are
under way are not kept, either. It is for when what answers depend on has changed though the
configuration says the same, and the workers are the same: something that they read. (A
"ringmaster restart POOL", with other weights in the same place, clears by itself.)`,
		Example: `  ringmaster cache clear
  ringmaster cache clear embed --json`,
		Args:              optionalPool,
		ValidArgsFunction: a.completePool,
		RunE: a.command(func(ctx context.Context, args []string) error {
			var answer cleared
			if err := a.control(ctx, clearCache, args, timeout, &answer); err != nil {
				return err
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(answer)
			}
			_, err := fmt.Fprintf(a.out, "%d answers dropped\n", answer.Entries)
			return err
		}),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", statusTimeout, "give up after this long")
	a.jsonFlag(cmd)
	return cmd
}
