package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/gateway"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/supervisor"
	"github.com/ringmasterd/ringmaster/worker"
)

// The payload is a tensor of bytes, as an app sends a frame of video.

// serveRingmaster is what `ringmaster serve` does.
func serveRingmaster(ctx context.Context, socket string, pool supervisor.PoolConfig) error {
	ctx, stop := context.WithCancel(ctx)
	sup, ended, err := startSupervisor(ctx, pool)
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
	go func() {
		closed <- gateway.Serve(ctx, ln, sup, gateway.Config{Logger: logger(), Clients: gateway.Limits{Connections: maxConnections}})
	}()
	err = standBy()
	stop()
	return errors.Join(err, <-closed, <-ended)
}

// startSupervisor starts a supervisor with its workers and waits until all of them are ready. It runs until ctx ends; ended then tells how.
func startSupervisor(ctx context.Context, pool supervisor.PoolConfig) (sup *supervisor.Supervisor, ended <-chan error, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	sup, err = supervisor.New(supervisor.Config{
		Pools:      []supervisor.PoolConfig{pool},
		Logger:     logger(),
		Executable: exe,
	})
	if err != nil {
		return nil, nil, err
	}
	end := make(chan error, 1)
	go func() { end <- sup.Run(ctx) }()
	if err := awaitWorkers(ctx, sup); err != nil {
		return nil, nil, err
	}
	return sup, end, nil
}

// awaitWorkers waits until every worker is ready. WaitReady is content with one, and a measurement of four then counted the processes of three when the machine was busy.
func awaitWorkers(ctx context.Context, sup *supervisor.Supervisor) error {
	if err := sup.WaitReady(ctx); err != nil {
		return err
	}
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		ready := true
		for _, w := range sup.Status().Pools[0].Workers {
			ready = ready && w.State == "ready"
		}
		if ready {
			tick.Stop()
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// goPool has workers that are this program.
func goPool(workers int) supervisor.PoolConfig {
	return supervisor.PoolConfig{
		Name: poolName, Command: []string{"/proc/self/exe", "rm-worker"}, Workers: workers, Concurrency: concurrency,
		Devices: supervisor.Devices{None: true}, EnvPass: []string{profileVariable},
	}
}

// pythonPool has one worker in Python.
func pythonPool(python string) supervisor.PoolConfig {
	return supervisor.PoolConfig{
		Name: poolName, Command: []string{python, filepath.Join(pythonDir, "worker.py")}, Workers: 1, Concurrency: 1,
		Devices: supervisor.Devices{None: true}, Env: map[string]string{"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
	}
}

// poolName is what the workers do.
const poolName = "work"

// serveRingmasterWorker is a worker process.
func serveRingmasterWorker(ctx context.Context) error {
	actions := worker.Actions{}
	for _, action := range []string{"echo", "frame", "spin"} {
		actions[action] = worker.Action{Unary: func(ctx context.Context, req *worker.Request) (*worker.Reply, error) {
			payload, err := data(req.Tensors)
			if err == nil {
				payload, err = work(ctx, req.Action, payload)
			}
			if err != nil {
				return nil, err
			}
			answer := tensor(payload)
			if len(req.Outputs) > 0 {
				if answer, err = req.Output(answer.Name, answer.DType, answer.Shape...); err != nil {
					return nil, err
				}
				copy(answer.Data, payload)
			}
			return &worker.Reply{Tensors: []ipc.Tensor{answer}}, nil
		}}
	}
	return worker.Serve(ctx, actions)
}

// viaSocket calls through `ringmaster serve`, over rings or over the socket.
type viaSocket struct{ c *client.Client }

func dialRingmaster(ctx context.Context, socket string, opts ...client.DialOption) (caller, error) {
	c, err := client.Dial(ctx, append(opts, client.WithAddress("unix://"+socket))...)
	if err != nil {
		return nil, err
	}
	return viaSocket{c}, nil
}

func (v viaSocket) call(ctx context.Context, action string, payload []byte) ([]byte, error) {
	r, err := v.c.Call(ctx, poolName, action, nil, client.WithTensors(tensor(payload)))
	if err != nil {
		return nil, err
	}
	return data(r.Tensors)
}

func (v viaSocket) close() error { return v.c.Close() }

// viaArena is an app that writes its tensors into an arena, and has large answers written there.
type viaArena struct {
	viaSocket
	arena *client.Arena
	slots sync.Map // of *byte, where a payload begins → client.Tensor, for its answers
}

// arenaBytes is room for eight frames and their answers.
const arenaBytes = 2 * 8 * frameSize

func dialArena(ctx context.Context, socket string) (caller, error) {
	c, err := dialRingmaster(ctx, socket)
	if err != nil {
		return nil, err
	}
	via := &viaArena{viaSocket: c.(viaSocket)}
	if via.arena, err = via.c.Arena(ctx, arenaBytes); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return via, nil
}

// memory makes a payload's, and room for its answer.
func (v *viaArena) memory(size int) []byte {
	in, err := v.arena.Tensor("x", "uint8", uint64(size))
	if err == nil {
		var out client.Tensor
		if out, err = v.arena.Tensor("x", "uint8", uint64(size)); err == nil {
			v.slots.Store(&in.Data[0], out)
		}
	}
	if err != nil {
		panic(err) // arenaBytes is for the plan's largest load
	}
	return in.Data
}

func (v *viaArena) call(ctx context.Context, action string, payload []byte) ([]byte, error) {
	opts := []client.CallOption{client.WithTensors(tensor(payload))}
	if slot, ok := v.slots.Load(&payload[0]); ok && action != "frame" { // whose answer is small
		opts = append(opts, client.WithOutputs(slot.(client.Tensor)))
	}
	r, err := v.c.Call(ctx, poolName, action, nil, opts...)
	if err != nil {
		return nil, err
	}
	return data(r.Tensors)
}

// embedded calls the supervisor in its own process.
type embedded struct {
	sup   *supervisor.Supervisor
	stop  context.CancelFunc
	ended <-chan error
}

func startEmbedded(ctx context.Context) (caller, error) {
	ctx, stop := context.WithCancel(ctx)
	sup, ended, err := startSupervisor(ctx, goPool(1))
	if err != nil {
		stop()
		return nil, err
	}
	return embedded{sup, stop, ended}, nil
}

func (e embedded) call(ctx context.Context, action string, payload []byte) ([]byte, error) {
	r, err := e.sup.Do(ctx, &ipc.Request{Pool: poolName, Action: action, Tensors: []ipc.Tensor{tensor(payload)}})
	if err != nil {
		return nil, err
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
