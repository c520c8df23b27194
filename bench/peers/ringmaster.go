package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/gateway"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// The payload is a tensor of bytes, as an app sends a frame of video.

// serve is a server process: serve TRANSPORT SOCKET WORKERS. It ends with its standard input.
func serve(ctx context.Context, args []string) error {
	transport, socket := args[0], args[1]
	workers, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	if transport == "grpc-uds" {
		return serveGRPC(ctx, socket, workers)
	}
	return serveRingmaster(ctx, socket, workers)
}

// serveRingmaster is what `ringmaster serve` does.
func serveRingmaster(ctx context.Context, socket string, workers int) error {
	ctx, stop := context.WithCancel(ctx)
	sup, ended, err := startSupervisor(ctx, workers)
	if err != nil {
		stop()
		return err
	}
	ln, err := gateway.Listen(socket, "")
	if err != nil {
		stop()
		return errors.Join(err, <-ended)
	}
	closed := make(chan error, 1)
	go func() { closed <- gateway.Serve(ctx, ln, sup, gateway.Config{Logger: logger()}) }()
	err = standBy()
	stop()
	return errors.Join(err, <-closed, <-ended)
}

// startSupervisor starts a supervisor with the builtin echo workers and waits until all of them are ready. It runs until ctx ends; ended then tells how.
func startSupervisor(ctx context.Context, workers int) (sup *supervisor.Supervisor, ended <-chan error, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	sup, err = supervisor.New(supervisor.Config{
		Pools:      []supervisor.PoolConfig{{Name: "echo", Builtin: "echo", Workers: workers, Concurrency: concurrency, Devices: supervisor.Devices{None: true}, EnvPass: []string{profileVariable}}},
		Logger:     logger(),
		Executable: exe,
	})
	if err != nil {
		return nil, nil, err
	}
	end := make(chan error, 1)
	go func() { end <- sup.Run(ctx) }()
	if err := sup.WaitReady(ctx); err != nil {
		return nil, nil, err
	}
	return sup, end, nil
}

func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// viaServer calls through `ringmaster serve`, over rings or over the socket.
type viaServer struct{ c *client.Client }

func dialRingmaster(ctx context.Context, socket string, opts ...client.DialOption) (caller, error) {
	c, err := client.Dial(ctx, append(opts, client.WithAddress("unix://"+socket))...)
	if err != nil {
		return nil, err
	}
	return viaServer{c}, nil
}

func (v viaServer) call(ctx context.Context, payload []byte) ([]byte, error) {
	r, err := v.c.Call(ctx, "echo", "echo", nil, client.WithTensors(tensor(payload)))
	if err != nil {
		return nil, err
	}
	return data(r.Tensors)
}

func (v viaServer) close() error { return v.c.Close() }

// embedded calls the supervisor in its own process.
type embedded struct {
	sup   *supervisor.Supervisor
	stop  context.CancelFunc
	ended <-chan error
}

func startEmbedded(ctx context.Context) (caller, error) {
	ctx, stop := context.WithCancel(ctx)
	sup, ended, err := startSupervisor(ctx, 1)
	if err != nil {
		stop()
		return nil, err
	}
	return embedded{sup, stop, ended}, nil
}

func (e embedded) call(ctx context.Context, payload []byte) ([]byte, error) {
	replies, err := e.sup.Call(ctx, &ipc.Request{Pool: "echo", Action: "echo", Credit: 1, Tensors: []ipc.Tensor{tensor(payload)}})
	if err != nil {
		return nil, err
	}
	r, err := replies.Recv(ctx)
	switch {
	case err != nil:
		return nil, err
	case !r.End:
		replies.Cancel("cancelled")
		return nil, errors.New("echo answers in chunks")
	}
	return data(r.Tensors)
}

func (e embedded) close() error {
	e.stop()
	return <-e.ended
}

func tensor(payload []byte) ipc.Tensor {
	return ipc.Tensor{Name: "x", DType: "uint8", Shape: []uint64{uint64(len(payload))}, Data: payload}
}

func data(ts []ipc.Tensor) ([]byte, error) {
	if len(ts) != 1 {
		return nil, fmt.Errorf("the reply has %d tensors", len(ts))
	}
	return ts[0].Data, nil
}
