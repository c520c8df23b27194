package supervisor

import (
	"context"
	"testing"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Background work runs where a worker is idle and nobody waits; else it is refused at once, and nobody is behind it.
func TestBackgroundWork(t *testing.T) {
	cfg := builtin(2, 2)
	h := run(t, cfg).waitReady()
	h.allReady("test")
	ctx := testContext(t)
	background := func() (ipc.Replies, error) {
		req := request(t, "test", "hold", nil)
		req.Background, req.Credit, req.Yield = true, 1, func() bool { return false }
		return h.Call(ctx, req)
	}
	first, err := background()
	if err != nil {
		t.Fatal(err)
	}
	second := h.hold("test") // the other worker
	if _, err := background(); err == nil {
		t.Error("it shares a worker that has something to do")
	} else {
		wantError(t, err, ipc.ResourceExhausted, "busy")
	}
	h.busy(2, 0)
	third, fourth := h.hold("test"), h.hold("test") // beside it: it holds nobody up that finds another place
	waitCtx, cancel := context.WithCancel(ctx)
	req := request(t, "test", "hold", nil)
	waits := h.start(waitCtx, req)
	h.busy(4, 1)
	_, err = background()
	wantError(t, err, ipc.ResourceExhausted, "busy")
	cancel()
	<-waits
	for _, r := range []ipc.Replies{first, second, third, fourth} {
		r.Cancel("cancelled")
	}
	h.busy(0, 0)
	if r, err := background(); err != nil {
		t.Error(err)
	} else {
		r.Cancel("cancelled")
	}
	h.busy(0, 0)
	req = request(t, "test", "no-such-action", nil)
	req.Background = true
	_, err = h.Call(ctx, req)
	wantError(t, err, ipc.NotFound, "unknown_action")
}

// What is asked of the control pool beyond the supervisor's own affairs is answered by whose affair it is.
func TestControlOfOthers(t *testing.T) {
	asked := "nothing"
	h := runWith(t, func(s *Supervisor) {
		s.cfg.Control = map[string]func(context.Context, string) (any, error){"count": func(_ context.Context, pool string) (any, error) {
			asked = pool
			return map[string]int{"n": 7}, nil
		}}
	}, builtin(1, 1)).waitReady()
	for _, pool := range []string{"", "test"} {
		var answer map[string]int
		body := map[string]any{"pool": pool}
		if pool == "" {
			body["pool"] = nil
		}
		r, err := h.call(testContext(t), request(t, ControlPool, "count", body))
		if err != nil || r.Body.Decode(&answer) != nil || answer["n"] != 7 || asked != pool {
			t.Errorf("%v, %v, for %q", answer, err, asked)
		}
	}
	_, err := h.call(testContext(t), request(t, ControlPool, "count", map[string]any{"pool": "other"}))
	wantError(t, err, ipc.NotFound, "unknown_pool")
	_, err = h.call(testContext(t), request(t, ControlPool, "counts", nil))
	if e := wantError(t, err, ipc.NotFound, "unknown_action"); e != nil && e.Message != `pool ringmaster has no action "counts"; it has count, drain, health, pools, reload, restart, status, version` {
		t.Error(e.Message)
	}
}

// A fingerprint is another where workers may be other processes, and only there.
func TestFingerprint(t *testing.T) {
	base := PoolConfig{Name: "a", Command: []string{"x", "y"}, Env: map[string]string{"A": "1", "B": "2"}}
	for what, tt := range map[string]struct {
		change func(*PoolConfig)
		same   bool
	}{
		"nothing":            {func(*PoolConfig) {}, true},
		"workers":            {func(p *PoolConfig) { p.Workers, p.Queue, p.Balance = 3, 7, RoundRobin }, true},
		"actions":            {func(p *PoolConfig) { p.Actions = map[string]ActionConfig{"x": {Batch{Max: 2}}} }, true},
		"command":            {func(p *PoolConfig) { p.Command = []string{"xy"} }, false},
		"arguments' borders": {func(p *PoolConfig) { p.Command = []string{"x", "y", ""} }, false},
		"environment":        {func(p *PoolConfig) { p.Env = map[string]string{"A": "1", "B": "3"} }, false},
		"devices":            {func(p *PoolConfig) { p.Devices.List = []int{1} }, false},
		"user":               {func(p *PoolConfig) { p.User = "nobody" }, false},
	} {
		p := base
		tt.change(&p)
		if same := p.Fingerprint() == base.Fingerprint(); same != tt.same {
			t.Errorf("%s: the same: %v", what, same)
		}
	}
}
