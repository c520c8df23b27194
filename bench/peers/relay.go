package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
)

// serve is a server process: serve TRANSPORT SOCKET WORKERS, or ringmaster-python SOCKET PYTHON. It ends with its standard input.
func serve(ctx context.Context, args []string) error {
	transport, socket := args[0], args[1]
	if transport == "ringmaster-python" {
		return serveRingmaster(ctx, socket, pythonPool(args[2]))
	}
	workers, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	if strings.HasPrefix(transport, "ringmaster") {
		return serveRingmaster(ctx, socket, goPool(workers))
	}
	w, err := wireOf(transport)
	if err != nil {
		return err
	}
	return relay(ctx, transport, w, socket, workers)
}

// relay is the server in the middle as one writes it: it starts its workers and passes requests on to them in turn.
func relay(ctx context.Context, transport string, w *wire, socket string, workers int) error {
	var callers []caller
	for i := range workers {
		at := fmt.Sprintf("%s.%d", socket, i)
		end, err := startWorker(ctx, transport, at)
		if err != nil {
			return err
		}
		defer end()
		c, err := w.dial(ctx, at)
		if err != nil {
			return err
		}
		defer func() { _ = c.close() }()
		if _, err := c.call(ctx, "echo", []byte("hello")); err != nil {
			return err
		}
		callers = append(callers, c)
	}
	var next atomic.Uint32
	stop, err := w.serve(socket, func(ctx context.Context, action string, payload []byte) ([]byte, error) {
		return callers[int(next.Add(1)-1)%len(callers)].call(ctx, action, payload)
	})
	if err != nil {
		return err
	}
	defer stop()
	return standBy()
}

// startWorker starts a worker process, which ends with its standard input.
func startWorker(ctx context.Context, transport, socket string) (end func(), err error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "worker", transport, socket)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end = func() {
		in.Close()
		_ = cmd.Wait()
	}
	if err := awaitReady(out); err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// serveWorker is a worker process behind a relay.
func serveWorker(transport, socket string) error {
	w, err := wireOf(transport)
	if err != nil {
		return err
	}
	stop, err := w.serve(socket, work)
	if err != nil {
		return err
	}
	defer stop()
	return standBy()
}
