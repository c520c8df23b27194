package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/ringmasterd/ringmaster/internal/ballast"
	"github.com/ringmasterd/ringmaster/internal/version"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
)

// Option changes how [Serve] serves.
type Option func(*options)

type options struct {
	load func(context.Context) error
}

// WithLoad sets a function that is called once, after the handshake and before the first request: the place to load a model. Its error ends Serve.
func WithLoad(load func(ctx context.Context) error) Option {
	return func(o *options) { o.load = load }
}

// Serve is a worker's life. It takes over what the supervisor handed to this process, loads, says hello and answers requests.
//
//	BOOT ──handshake──▶ LOADING ──hello──▶ READY ⇄ BUSY ──drain, SIGTERM──▶ DRAIN ──last END──▶ return nil
//	                       └──────────────────┴──────┴──── stop ──────────────┴──────────────▶ return nil at once
//
// It returns an error if the process was not started by a supervisor, no protocol version is common, or loading fails; the program is then to exit with a status other
// than 0. When ctx ends, what runs is cancelled and Serve returns ctx's cause. After a stop or the end of ctx, actions may still be running.
//
// Serve ends the process itself when the supervisor is gone (status 1) or breaks the protocol (status 70): there is nobody left to serve.
//
// On SIGTERM a worker that has requests first writes the stacks of all goroutines to stderr: the supervisor sends it to those that do not end what they should.
//
// Preconditions: it is called once in a process, and nothing was written to stdout.
func Serve(ctx context.Context, a Actions, opts ...Option) error {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	s, err := readSpawn(os.Getenv)
	if err != nil {
		return err
	}
	if err := a.validate(); err != nil {
		return err
	}
	seg, err := attach()
	var broken *shm.ProtocolError
	switch {
	case errors.As(err, &broken):
		exitProtocol(err)
	case err != nil:
		return err
	}
	chosen, err := s.version()
	if err != nil {
		return err
	}
	line, err := openLifeline()
	if err != nil {
		return err
	}
	if err := handshake(chosen); err != nil {
		return err
	}
	mapped := &arenas{regions: map[uint64]*region{}}
	mapped.more = func() { line.take(mapped) } // the end of file is watch's business
	go line.watch(mapped)

	defer ballast.Hold()()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	status := newStatus(seg)
	w := &worker{
		load:    o.load,
		ring:    ipc.WorkerRing(seg, s.maxMessage),
		status:  status,
		handler: newHandler(a, status, mapped),
		drain:   make(chan struct{}),
		stop:    make(chan struct{}),
		loaded:  make(chan error, 1),
		served:  make(chan error, 1),
	}
	return w.run(ctx, s.concurrency)
}

// exitProtocol ends the process because the supervisor broke the protocol.
func exitProtocol(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(ipc.ExitProtocol)
}

// worker is one Serve after the handshake.
type worker struct {
	load    func(context.Context) error
	ring    *ipc.Ring
	status  *status
	handler *handler

	drainOnce, stopOnce sync.Once
	drain, stop         chan struct{} // closed when the supervisor says so
	loaded, served      chan error    // capacity 1: why loading and serving ended
}

// run returns when the worker's life is over. What it starts has then ended, or ends with the process: an action may not listen.
func (w *worker) run(ctx context.Context, concurrency int) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	defer signal.Stop(signals)

	w.status.set(shm.WorkerLoading)
	go w.runServe(ctx, concurrency) // already now: pings, drain and stop are answered while the model loads
	go w.runLoad(ctx)
	loaded := w.loaded
	for {
		select {
		case err := <-loaded:
			loaded = nil
			if err != nil {
				return fmt.Errorf("worker: load: %w", err)
			}
			w.status.set(shm.WorkerReady)
			if err := ipc.SendHello(w.ring, w.hello()); err != nil && !errors.Is(err, io.ErrClosedPipe) { // then served says why
				return fmt.Errorf("worker: hello: %w", err)
			}
		case <-signals:
			if w.handler.running.Load() > 0 { // it hangs, or is late
				_, _ = os.Stderr.Write(stacks())
			}
			w.startDrain()
		case <-w.stop:
			return nil
		case err := <-w.served:
			return w.ended(err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (w *worker) runLoad(ctx context.Context) {
	if w.load == nil {
		w.loaded <- nil
		return
	}
	w.loaded <- w.load(ctx)
}

func (w *worker) runServe(ctx context.Context, concurrency int) {
	_ = ipc.Serve(ctx, w.ring, w.handler, ipc.ServeConfig{
		Lead:        w.handler.quick,
		MaxInFlight: concurrency,
		Strict:      true,
		Drain:       w.startDrain,
		Stop:        func() { w.stopOnce.Do(func() { close(w.stop) }) },
		Draining:    w.drain,
		Ending:      func(err error) { w.served <- err }, // not when Serve returns: an action may hang
	})
}

func (w *worker) startDrain() {
	w.drainOnce.Do(func() {
		w.status.set(shm.WorkerDrain)
		close(w.drain)
	})
}

// ended says what the end of ipc.Serve means: it was drained, or the supervisor broke the protocol.
func (w *worker) ended(err error) error {
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return nil
	case ipc.AsError(err).Code == ipc.DataLoss, ipc.AsError(err).Code == ipc.InvalidArgument:
		exitProtocol(fmt.Errorf("worker: %w", err))
	}
	return fmt.Errorf("worker: %w", err)
}

func (w *worker) hello() ipc.Hello {
	return ipc.Hello{MinVersion: ipc.MinVersion, MaxVersion: ipc.MaxVersion, SDK: version.SDK(), Actions: w.handler.actions.describe(), Arena: 1}
}
