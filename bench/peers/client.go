package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/ringmasterd/ringmaster/bench/load"
	"github.com/ringmasterd/ringmaster/bench/plot"
)

// A client process is told what to do on its command line. It connects, warms up, says "ready" and waits for a line; it measures, prints one line of JSON, and ends with its standard input.
// Python's clients do the same.

// clientSpec is that argument, as JSON.
type clientSpec struct {
	Transport string  `json:"transport"`
	Socket    string  `json:"socket"` // a path, or the port of a server that has no Unix socket
	Action    string  `json:"action"`
	Cell      cell    `json:"cell"`
	WarmUp    float64 `json:"warm_up"` // seconds
	Measure   float64 `json:"measure"` // seconds
}

// outcome is that line of JSON.
type outcome struct {
	Requests int         `json:"requests"`
	Compared int         `json:"compared"` // answers of the warm-up that were compared byte by byte
	Seconds  float64     `json:"seconds"`
	P50      float64     `json:"p50_us"`
	P99      float64     `json:"p99_us"`
	P999     float64     `json:"p999_us"`
	Curve    [][]float64 `json:"curve"` // percentile, µs
}

func runClient(ctx context.Context, arg string) (err error) {
	var spec clientSpec
	if err := json.Unmarshal([]byte(arg), &spec); err != nil {
		return err
	}
	var calls []load.Call
	var memory func(int) []byte
	for range max(1, spec.Cell.Connections) {
		c, err := dial(ctx, spec.Transport, spec.Socket)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.close()) }()
		if a, ok := c.(*viaArena); ok {
			memory = a.memory
		}
		calls = append(calls, func(ctx context.Context, payload []byte) ([]byte, error) { return c.call(ctx, spec.Action, payload) })
	}
	check := checkOf(spec.Action)
	if spec.Cell.Clients > 0 {
		p := load.NewPayload(spec.Cell.Size, 0)
		for _, call := range calls {
			answer, err := call(ctx, p.Bytes)
			if err != nil {
				return err
			}
			if err := check(p, answer, true); err != nil {
				return err
			}
		}
		return standBy()
	}
	in := bufio.NewReader(os.Stdin)
	r, err := load.Run(ctx, load.Config{
		Calls: calls, Memory: memory, Size: spec.Cell.Size, Outstanding: spec.Cell.Outstanding, Rate: spec.Cell.Rate, Check: check,
		Warmup: seconds(spec.WarmUp), Duration: seconds(spec.Measure),
		Begin: func() error {
			fmt.Println("ready")
			_, err := in.ReadString('\n')
			return err
		},
	})
	if err != nil {
		return err
	}
	if r.First != nil {
		return fmt.Errorf("%d failed, %d wrong; the first: %w", r.Failed(), r.Wrong, r.First)
	}
	o := outcome{Requests: r.Requests, Compared: r.Compared, Seconds: r.Elapsed.Seconds(), P50: r.Quantile(50), P99: r.Quantile(99), P999: r.Quantile(99.9)}
	for _, q := range plot.Percentiles {
		o.Curve = append(o.Curve, []float64{q, r.Quantile(q)})
	}
	if err := json.NewEncoder(os.Stdout).Encode(o); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// standBy says that the process is ready and waits for the end of its standard input.
func standBy() error {
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
