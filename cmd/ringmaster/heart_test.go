package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/gateway"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// wedgeable is a supervisor that runs no pools and can get stuck.
type wedgeable struct {
	*supervisor.Supervisor
	wedged atomic.Bool
	tokens atomic.Int32 // requests that came with one
}

func (w *wedgeable) Call(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
	if req.Headers["authorization"] != "" {
		w.tokens.Add(1)
	}
	if w.wedged.Load() {
		<-ctx.Done()
		return nil, ipc.AsError(context.Cause(ctx))
	}
	return w.Supervisor.Call(ctx, req)
}

// beating is a heart before a real gateway, of which a test makes each beat.
func beating(t *testing.T, cfg gateway.Config) (*heart, *wedgeable, *output) {
	t.Helper()
	sup, err := supervisor.New(supervisor.Config{Pools: []supervisor.PoolConfig{{Name: "a", Command: []string{"true"}}}})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := gateway.Listen(filepath.Join(t.TempDir(), "rm.sock"), "")
	if err != nil {
		t.Fatal(err)
	}
	log := &output{}
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	backend := &wedgeable{Supervisor: sup}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- gateway.Serve(ctx, ln, backend, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	h := &heart{path: ln.Path(), answer: sup.Alive, status: sup.Status, notify: &notifier{log: cfg.Logger}, log: cfg.Logger, watchdog: true, every: patience}
	return h, backend, log
}

// Whatever is stuck between a client and the supervisor, the watchdog goes hungry, and is fed again once it is loose.
func TestWedgedServerMissesWatchdog(t *testing.T) {
	m := manage(t)
	h, backend, log := beating(t, gateway.Config{})
	fed := func() bool {
		t.Helper()
		before := m.count("WATCHDOG")
		h.beat(t.Context())
		m.flush()
		return m.count("WATCHDOG") > before
	}
	if !fed() {
		t.Fatalf("the server is well, and the watchdog hungry:\n%s\n%s", m, log)
	}
	for name, wedge := range map[string]func() (loosen func()){
		"the backend": func() func() {
			backend.wedged.Store(true)
			return func() { backend.wedged.Store(false) }
		},
		"the supervisor": func() func() {
			answer := h.answer
			h.answer = func(context.Context) error { return errors.New("stuck") }
			return func() { h.answer = answer }
		},
		"the socket's file": func() func() {
			path := h.path
			h.path += ".gone"
			return func() { h.path = path }
		},
	} {
		loosen := wedge()
		h.every = 50 * time.Millisecond
		if fed() {
			t.Errorf("%s is stuck, and the watchdog fed", name)
		}
		loosen()
		h.every = patience
		if !fed() {
			t.Errorf("%s is loose again, and the watchdog hungry:\n%s", name, log)
		}
	}
	if n := strings.Count(log.String(), "the server does not answer itself; the watchdog is not fed"); n != 3 {
		t.Errorf("%d errors in the log, want 3:\n%s", n, log)
	}
}

// A server with as many clients as it takes is busy, not dead.
func TestFullServerFeedsWatchdog(t *testing.T) {
	manage(t)
	h, _, _ := beating(t, gateway.Config{MaxConnections: 1})
	c, err := client.Dial(t.Context(), client.WithAddress(h.path))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	st, err := h.check(t.Context())
	if err != nil || len(st.Pools) != 1 {
		t.Errorf("%+v, %v", st, err)
	}
}

// The server asks itself as itself, whoever a token in its environment is.
func TestHeartSendsNoToken(t *testing.T) {
	manage(t)
	t.Setenv("RINGMASTER_TOKEN", "rm_somebody")
	h, backend, _ := beating(t, gateway.Config{})
	if _, err := h.check(t.Context()); err != nil {
		t.Error(err)
	}
	if n := backend.tokens.Load(); n != 0 {
		t.Errorf("%d requests had a token", n)
	}
}
