package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/supervisor"
)

const (
	slowestBeat = 5 * time.Second        // so that STATUS is fresh where the watchdog is slow, or off
	lookEvery   = 200 * time.Millisecond // how often the pools are looked at until all have settled
	// stopSlack is what a stop may take beyond its drains: the last answers are written, and workers that have nothing left to do end.
	stopSlack = 10 * time.Second
)

// heart beats while the server is alive, and only then: before each beat it makes the round trip of a client through our own socket, and asks the supervisor whether its goroutines answer.
// What misses its beats for too long is ended by the service manager.
type heart struct {
	path     string
	answer   func(context.Context) error // the supervisor's
	status   func() supervisor.Status    // likewise
	notify   *notifier
	log      *slog.Logger
	watchdog bool
	every    time.Duration // from one beat to the next; a check may take as long again
	drain    time.Duration

	ill bool // the last check failed
}

func (s *serving) heart() *heart {
	timeout, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("the watchdog's variables make no sense; it is not fed", "error", err)
	}
	return &heart{
		path: s.ln.Path(), answer: s.sup.Alive, status: s.sup.Status, notify: s.notify, log: s.log,
		watchdog: timeout > 0, every: beatEvery(timeout), drain: s.drain,
	}
}

// beatEvery is the time between two beats for a watchdog's timeout, of which 0 is none. A check that takes its time delays a beat by another such time: that makes half of the timeout at most.
func beatEvery(timeout time.Duration) time.Duration {
	if timeout <= 0 {
		return slowestBeat
	}
	return max(min(timeout/4, slowestBeat), time.Millisecond)
}

// stopsWithin is how long a stop may take: drain_timeout for the clients' requests, and, if some had to be cut off, as long again at most until their workers have noticed or are killed.
func stopsWithin(drainTimeout time.Duration) time.Duration { return 2*drainTimeout + stopSlack }

// run tells the service manager about the server's life: its start, its beats until ctx ends, its drain until gone is closed.
func (h *heart) run(ctx context.Context, gone <-chan struct{}) {
	if !h.notify.enabled() {
		return
	}
	beat := time.NewTicker(h.every)
	defer beat.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	had := map[string]bool{}
	h.beat(ctx)
	for ctx.Err() == nil {
		select {
		case <-look.C:
			if st := h.status(); settle(had, st) {
				look.Stop()
				h.notify.ready(st)
			}
		case <-beat.C:
			h.beat(ctx)
		case <-ctx.Done():
		}
	}
	h.notify.stops(stopsWithin(h.drain))
	for {
		select {
		case <-beat.C:
			h.notify.alive(h.status(), false)
		case <-gone:
			return
		}
	}
}

// beat says that the server is alive, if it is.
func (h *heart) beat(ctx context.Context) {
	checked, cancel := context.WithTimeout(ctx, h.every)
	defer cancel()
	st, err := h.check(checked)
	switch {
	case ctx.Err() != nil:
		return
	case err == nil:
		if h.ill {
			h.log.Info("the server answers itself again")
		}
		h.notify.alive(st, h.watchdog)
	case !h.ill:
		h.log.Error("the server does not answer itself; the watchdog is not fed", "error", err)
	}
	h.ill = err != nil
}

// check makes sure that a client would be served and that the supervisor is not stuck. Neither needs a worker.
func (h *heart) check(ctx context.Context) (supervisor.Status, error) {
	if err := h.answer(ctx); err != nil {
		return supervisor.Status{}, err
	}
	st, err := roundTrip(ctx, h.path)
	if full := new(ipc.Error); errors.As(err, &full) && full.Reason == "too_many_connections" {
		return h.status(), nil // a busy server, and an answer
	}
	return st, err
}

// roundTrip does what any client does: connect, hello, a request, its answer. It sends no token: we are ourselves, whoever $RINGMASTER_TOKEN says that somebody else is.
func roundTrip(ctx context.Context, path string) (st supervisor.Status, err error) {
	c, err := client.Dial(ctx, client.WithAddress(path), client.WithToken(""))
	if err != nil {
		return st, fmt.Errorf("connect to ourselves at %s: %w", path, err)
	}
	defer c.Close()
	r, err := c.Call(ctx, supervisor.ControlPool, "status", nil)
	if err != nil {
		return st, fmt.Errorf("ask ourselves at %s: %w", path, err)
	}
	return st, r.Decode(&st)
}
