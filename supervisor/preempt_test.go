package supervisor

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// inBackground starts background work, and returns its replies.
func (h *harness) inBackground(action string, body any, yield func() bool) ipc.Replies {
	h.t.Helper()
	req := request(h.t, "test", action, body)
	req.Background, req.Yield, req.Credit, req.Timeout = true, yield, 1, time.Minute
	replies, err := h.Call(testContext(h.t), req)
	if err != nil {
		h.t.Fatal(err)
	}
	return replies
}

// Who finds no place but that of background work gets it: the worker is told to cancel that.
func TestBackgroundWorkGivesWay(t *testing.T) {
	h := run(t, builtin(2, 1)).waitReady()
	h.allReady("test")
	held := h.hold("test")
	for range 3 {
		work := h.inBackground("hold", nil, nil)
		h.must("echo", nil, nil)
		_, err := last(testContext(t), work)
		if e := ipc.AsError(err); e == nil || e.Code != ipc.Cancelled {
			t.Errorf("it ended with %v", err)
		}
	}
	if err := held.finish(); err != nil {
		t.Errorf("what was not in the background: %v", err)
	}
	work := h.inBackground("hold", nil, nil)
	h.must("echo", nil, nil) // there is another worker
	if _, err := work.Recv(testContext(t)); err != nil {
		t.Errorf("it was given up for nobody: %v", err)
	}
	work.Cancel("cancelled")
	h.busy(0, 0)
	if p := h.byName("test"); len(p.errands) != 0 {
		t.Errorf("%d are remembered", len(p.errands))
	}
}

// Work that somebody waits for meanwhile is left alone, and so is a worker that does not listen: its answer counts.
func TestBackgroundWorkThatGoesOn(t *testing.T) {
	for name, yields := range map[string]bool{"is waited for": false, "does not listen": true} {
		t.Run(name, func(t *testing.T) {
			h := runWith(t, hungSoon, builtin(1, 1)).waitReady()
			pid := h.worker("test", 0).PID
			var asked atomic.Int32
			file := filepath.Join(t.TempDir(), "file")
			work := h.inBackground("until", map[string]string{"file": file}, func() bool { asked.Add(1); return yields })
			ctx := testContext(t)
			first, second := h.start(ctx, request(t, "test", "echo", nil)), h.start(ctx, request(t, "test", "echo", nil))
			h.busy(1, 2)
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if r, err := last(ctx, work); err != nil || !r.End {
				t.Errorf("%+v, %v", r, err)
			}
			for _, waits := range []<-chan outcome{first, second} {
				if o := <-waits; o.err != nil {
					t.Error(o.err)
				}
			}
			if w := h.worker("test", 0); w.PID != pid || asked.Load() != 1 {
				t.Errorf("pid %d, then %d; asked %d times", pid, w.PID, asked.Load())
			}
		})
	}
}

// A worker does not hang because it finishes background work that it was told to cancel, but it does if it makes no progress with it, as with any other.
func TestBackgroundWorkIsNotOverdue(t *testing.T) {
	now := time.Now()
	lim := hangLimits{grace: time.Second, timeout: 10 * time.Second}
	var h hangWatch
	call := ipc.OpenCall{ID: 1, Sent: true, End: 5, Reason: preempted}
	for range 20 {
		call.Replies++
		if found := h.look(now, lim, []ipc.OpenCall{call}, 5); found != nil {
			t.Fatalf("it makes progress: %+v", found)
		}
		now = now.Add(5 * time.Second)
	}
	found := h.look(now.Add(20*time.Second), lim, []ipc.OpenCall{call}, 5)
	if len(found) != 1 || !found[0].recall {
		t.Errorf("it makes none: %+v", found)
	}
}
