package supervisor

import (
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
