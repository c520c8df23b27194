package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/ringmasterd/ringmaster/ipc"
)

// interruptible runs f with a context that the first SIGINT or SIGTERM ends. A second one has its usual effect: the process ends at once.
func interruptible(f func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(&interruption{signal: s.(syscall.Signal)})
		case <-ctx.Done():
			signal.Stop(signals)
		}
	}()
	err := f(ctx)
	cancel(nil)
	<-watched
	var cause *interruption
	if err != nil && errors.As(context.Cause(ctx), &cause) {
		return cause
	}
	return err
}

// interruption is the error of a command that a signal ended.
type interruption struct {
	signal syscall.Signal
}

func (i *interruption) Error() string { return "interrupted by a signal: " + i.signal.String() }

// As makes an interruption a CANCELLED [*ipc.Error] for whoever asks for one.
func (i *interruption) As(target any) bool {
	e, ok := target.(**ipc.Error)
	if ok {
		*e = ipc.Errorf(ipc.Cancelled, "cancelled", "%v", i)
	}
	return ok
}
