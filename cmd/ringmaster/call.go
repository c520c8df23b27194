package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/client"
)

// callFlags are what one call is made of.
type callFlags struct {
	data    string
	tensors []string
	headers []string
	stream  bool
	timeout time.Duration
}

func (a *app) callCommand() *cobra.Command {
	var f callFlags
	cmd := &cobra.Command{
		Use:   "call POOL ACTION",
		Short: "Run an action of a pool and print its answer",
		Long: `Run an action of a pool and print its answer.

The answer's body is printed as JSON, a streamed answer as a JSON array of its chunks.
With --stream each chunk is printed as it comes: its "text" as it is if it has one, the
chunk as one line of JSON if not. With --json every reply is one line of JSON with
"body", "headers" and "tensors" (the data in base64), streamed or not.

Bytes in a body are printed as base64. Tensors come from PNG and JPEG images (uint8, of
shape [height, width, channels]) and from NumPy's .npy files. Large ones go to the
worker through shared memory, where server and worker can do that.`,
		Example: `  ringmaster call echo echo --data '{"hello": "world"}'
  ringmaster call smollm2 chat --stream --data '{"messages": [{"role": "user", "content": "Hi"}]}'
  ringmaster call ocr read --tensor image=@page.png --json
  jq -n '{n: 3}' | ringmaster call echo count --data -`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef(cmd, "call needs a pool and an action, as in `ringmaster call echo echo`; got %d arguments", len(args))
			}
			return nil
		},
		ValidArgsFunction: a.completePoolAndAction,
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		body, opts, arena, err := f.request(a.in)
		if err != nil {
			return usagef(cmd, "%v", err)
		}
		a.ran = true
		return interruptible(func(ctx context.Context) error {
			return a.withClient(ctx, func(c *client.Client) error {
				return a.print(c.Stream(ctx, args[0], args[1], body, opts...), f.stream)
			}, client.WithArena(arena))
		})
	}
	cmd.Flags().StringVarP(&f.data, "data", "d", "", "the body: JSON, @file, or - for stdin")
	cmd.Flags().StringArrayVarP(&f.tensors, "tensor", "t", nil, "a tensor: name=@image.png or name=@array.npy (repeatable)")
	cmd.Flags().StringArrayVarP(&f.headers, "header", "H", nil, "a header: key=value (repeatable)")
	cmd.Flags().BoolVarP(&f.stream, "stream", "s", false, "print chunks as they come")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "give up after this long (default: the pool's timeout)")
	a.jsonFlag(cmd)
	return cmd
}

// pair splits key=value.
func pair(s string) (key, value string, ok bool) {
	key, value, ok = strings.Cut(s, "=")
	return key, value, ok && key != ""
}
