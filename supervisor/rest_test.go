package supervisor

import "testing"

// A process is hardly looked at while it has nothing to do and no limits; a request, or limits by a reload, end that at once.
func TestIdleProcessRests(t *testing.T) {
	cfg := builtin(1, 2)
	h := run(t, cfg).waitReady()
	resting := func() bool {
		p := h.byName("test")
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.slots[0].resting
	}
	eventually(t, "it to rest", resting)
	busy := h.hold("test")
	if resting() {
		t.Error("it has a request, and rests")
	}
	if err := busy.finish(); err != nil {
		t.Error(err)
	}
	eventually(t, "it to rest again", resting)
	cfg.Limits.Requests = 1000
	h.reload(cfg)
	if resting() {
		t.Error("it has a limit, and rests")
	}
	cfg.Limits.Requests = 0
	h.reload(cfg)
	eventually(t, "it to rest without a limit", resting)
}
