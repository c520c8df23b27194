package supervisor

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/ringmasterd/ringmaster/ipc"
)

func TestCall(t *testing.T) {
	h := run(t, builtin(2, 1)).waitReady()
	var got map[string]string
	h.must("echo", map[string]any{"hello": "world"}, &got)
	if got["hello"] != "world" {
		t.Fatalf("got %v", got)
	}
}

func TestCallOfWhatIsNotThere(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	_, err := h.call(testContext(t), request(t, "nobody", "echo", nil))
	wantError(t, err, ipc.NotFound, "unknown_pool")
	_, err = h.call(testContext(t), request(t, "test", "nothing", nil))
	wantError(t, err, ipc.NotFound, "unknown_action")
}

func TestRunOnlyOnce(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	if err := h.Run(t.Context()); err == nil || err.Error() != "supervisor: Run was called before" {
		t.Errorf("error %v", err)
	}
	h.must("echo", nil, nil)
}

func TestRunWithoutItsExecutable(t *testing.T) {
	s, err := New(Config{Pools: []PoolConfig{builtin(1, 1)}, Executable: "/nonexistent/ringmaster", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "start the guard: ") {
		t.Errorf("error %v", err)
	}
}

// What comes before there is a worker waits for one.
func TestCallBeforeRun(t *testing.T) {
	s, err := New(Config{Pools: []PoolConfig{builtin(1, 1)}, Executable: testBinary(t), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{Supervisor: s, t: t}
	early := h.start(testContext(t), request(t, "test", "echo", nil))
	h.busy(0, 1)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if o := <-early; o.err != nil {
		t.Error(o.err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
