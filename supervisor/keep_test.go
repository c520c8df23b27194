package supervisor

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"weak"

	"github.com/ringmasterd/ringmaster/ipc"
)

// A worker that does not end a request, though nobody waits for it any more, keeps nothing of it in the supervisor's memory: its client is not charged for it any more.
func TestAbandonedRequestsAreForgotten(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	file := filepath.Join(t.TempDir(), "go on")
	for name, abandon := range map[string]func(ctx context.Context, cancel context.CancelFunc, replies ipc.Replies){
		"cancelled": func(_ context.Context, _ context.CancelFunc, replies ipc.Replies) { replies.Cancel("cancelled") },
		"its context ended": func(ctx context.Context, cancel context.CancelFunc, replies ipc.Replies) {
			cancel()
			if _, err := replies.Recv(ctx); err == nil {
				t.Error("there is an answer")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			asked := func() weak.Pointer[ipc.Request] { // on a stack of its own
				ctx, cancel := context.WithCancel(testContext(t))
				defer cancel()
				req := request(t, "test", "until", map[string]string{"file": file})
				replies, err := h.Call(ctx, req)
				if err != nil {
					t.Fatal(err)
				}
				abandon(ctx, cancel, replies)
				return weak.Make(req)
			}()
			eventually(t, "the request to be forgotten", func() bool {
				runtime.GC()
				return asked.Value() == nil
			})
			h.busy(1, 0)
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			h.busy(0, 0)
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		})
	}
}
