package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/bench/drive"
)

// loadFlags are what a measurement is made of.
type loadFlags struct {
	call        callFlags // what is sent
	sizes       []string
	outstanding []int
	rate        float64
	connections int
	warmup      time.Duration
	duration    time.Duration
	plot        string
	arena       bool
	ring        string
}

func (f *loadFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.sizes, "size", []string{"64B", "64KiB", "1MiB"}, "bytes of a request, one or more")
	flags.IntSliceVar(&f.outstanding, "outstanding", []int{1, 8, 64}, "requests under way at a time, one or more; with --rate 1024, a bound")
	flags.Float64Var(&f.rate, "rate", 0, "requests a second, whatever became of the last one (default: a closed loop)")
	flags.DurationVar(&f.duration, "duration", time.Second, "how long each combination is measured")
	flags.DurationVar(&f.warmup, "warmup", 100*time.Millisecond, "how long each is loaded before that")
	flags.IntVar(&f.connections, "connections", 1, "connections to the server, shared evenly")
	flags.StringVarP(&f.call.data, "data", "d", "", "the body of every request: JSON, @file, or - for stdin")
	flags.StringArrayVarP(&f.call.tensors, "tensor", "t", nil, "a tensor of every request: name=@image.png or name=@array.npy (repeatable)")
	flags.DurationVar(&f.call.timeout, "timeout", 30*time.Second, "give a request up after this long")
	flags.StringVar(&f.plot, "plot", "", "draw latency percentiles and throughput into this SVG file")
	flags.BoolVar(&f.arena, "arena", false, "lay the bytes of --size and the room for echo's answer into shared memory, as programs do that make their tensors there")
	flags.StringVar(&f.ring, "ring", "", "bytes of each of a connection's rings; 0: everything goes through the socket (default: the client's)")
	_ = cmd.MarkFlagFilename("plot", "svg")
	for _, name := range []string{"size", "outstanding", "rate", "duration", "warmup", "connections", "data", "tensor", "timeout", "plot", "arena", "ring"} {
		_ = flags.SetAnnotation(name, halfOf, []string{"load"})
	}
}

// defaultBound is --outstanding of an open loop.
const defaultBound = 1024

// config makes what package drive is told, or says which flag is wrong.
func (f *loadFlags) config(cmd *cobra.Command, stdin io.Reader) (drive.Config, error) {
	cfg := drive.Config{Outstanding: f.outstanding, Rate: f.rate, Connections: f.connections, Warmup: f.warmup, Duration: f.duration, Timeout: f.call.timeout, Arena: f.arena, Ring: -1}
	given := cmd.Flags().Changed
	if f.rate > 0 && !given("outstanding") {
		cfg.Outstanding = []int{defaultBound}
	}
	if len(f.sizes) == 0 || len(f.outstanding) == 0 {
		return cfg, fmt.Errorf("--size and --outstanding need at least one value")
	}
	for _, s := range f.sizes {
		n, err := drive.ParseSize(s)
		if err != nil {
			return cfg, fmt.Errorf("--size: %w", err)
		}
		if n < 16 || n > 1<<30 {
			return cfg, fmt.Errorf("--size is %s; use 16B to 1GiB", drive.Size(n))
		}
		cfg.Sizes = append(cfg.Sizes, n)
	}
	if f.ring != "" {
		n, err := drive.ParseSize(f.ring)
		if err != nil {
			return cfg, fmt.Errorf("--ring: %w", err)
		}
		cfg.Ring = n
	}
	for _, n := range f.outstanding {
		if n < 1 || n > 100_000 {
			return cfg, fmt.Errorf("--outstanding has %d; use 1 to 100000", n)
		}
	}
	own := given("data") || given("tensor")
	switch {
	case !(f.rate >= 0 && f.rate <= 1e6):
		return cfg, fmt.Errorf("--rate is %v; use 0 (a closed loop) to 1000000", f.rate)
	case f.connections < 1 || f.connections > 1000:
		return cfg, fmt.Errorf("--connections is %d; use 1 to 1000", f.connections)
	case f.duration <= 0:
		return cfg, fmt.Errorf("--duration is %v; use a positive one, such as 1s", f.duration)
	case f.warmup < 0:
		return cfg, fmt.Errorf("--warmup is %v; use 0s or more", f.warmup)
	case f.arena && cfg.Ring == 0:
		return cfg, fmt.Errorf("--arena needs rings, by which arenas come; leave out --ring 0")
	case f.arena && own:
		return cfg, fmt.Errorf("--arena is for requests of bytes; large ones of --tensor are copied into shared memory by the client itself")
	case own && given("size"):
		return cfg, fmt.Errorf("--size is for requests of bytes; --data and --tensor say themselves what is sent")
	case !own:
		return cfg, nil
	}
	body, opts, _, err := f.call.request(stdin)
	if err != nil {
		return cfg, err
	}
	if body == nil {
		body = []byte{0xc0} // MessagePack's nil
	}
	cfg.Body, cfg.Options = body, opts
	return cfg, nil
}

func (a *app) benchLoad(cmd *cobra.Command, f loadFlags, args []string) error {
	if name := foreignFlag(cmd, "load"); name != "" {
		return usagef(cmd, "--%s is for --chaos", name)
	}
	cfg, err := f.config(cmd, a.in)
	if err != nil {
		return usagef(cmd, "%v", err)
	}
	cfg.Address = a.socket
	if len(args) > 0 {
		cfg.Pool = args[0]
	}
	if len(args) > 1 {
		cfg.Action = args[1]
	}
	if isTerminal(a.err) {
		cfg.Progress = a.err
	}
	a.ran = true
	return interruptible(func(ctx context.Context) error {
		r, err := drive.Run(ctx, cfg)
		if err != nil {
			return err
		}
		if f.plot != "" {
			if err := os.WriteFile(f.plot, r.SVG(), 0o644); err != nil {
				return fmt.Errorf("--plot: %w", err)
			}
		}
		if a.json {
			out := json.NewEncoder(a.out)
			out.SetIndent("", "  ")
			err = out.Encode(r)
		} else {
			err = r.Print(a.out)
		}
		if err == nil && r.Failed() {
			return silently(exitFailed)
		}
		return err
	})
}
