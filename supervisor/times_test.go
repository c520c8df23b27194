package supervisor

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/internal/traceparent"
	"github.com/ringmasterd/ringmaster/ipc"
)

// Both tries of a request whose first worker died are noted, with the process that had it and how it ended; each has a span of its own.
func TestTriesAreNoted(t *testing.T) {
	h := run(t, builtin(2, 1)).waitReady()
	req := frailRequest(t, "frail", filepath.Join(t.TempDir(), "record"), "a", 1, 0)
	req.Times = &ipc.Times{Parent: &traceparent.Parent{Trace: traceparent.NewTrace(), Span: traceparent.NewSpan()}}
	if _, err := h.call(testContext(t), req); err != nil {
		t.Fatal(err)
	}
	tries := triesOf(req.Times)
	if len(tries) != 2 {
		t.Fatalf("%+v", tries)
	}
	first, second := tries[0], tries[1]
	if first.Err == nil || first.Err.Reason != "worker_lost" || second.Err != nil || first.Pool != "test" || first.PID == 0 || first.PID == second.PID || first.Span == second.Span {
		t.Errorf("%+v", tries)
	}
	for i, try := range tries {
		if try.Begin == 0 || try.Sent < try.Begin || try.End < try.Sent || i == 1 && (try.First < try.Sent || try.End < try.First) {
			t.Errorf("try %d: %+v", i, try)
		}
	}
	if second.Begin < first.End {
		t.Error("the second began before the first had ended")
	}
}

// A try that never had a worker says why; one that is cancelled has ended.
func TestTriesWithoutAnEndAreNoted(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	refused := request(t, "test", "nonsense", nil)
	refused.Times = &ipc.Times{}
	if _, err := h.Call(testContext(t), refused); err == nil {
		t.Fatal("nonsense was answered")
	}
	if tries := triesOf(refused.Times); len(tries) != 1 || tries[0].Sent != 0 || tries[0].Err.Reason != "unknown_action" || tries[0].Span != [8]byte{} {
		t.Errorf("%+v", tries)
	}
	sleeping := request(t, "test", "sleep", map[string]any{"seconds": 60})
	sleeping.Times = &ipc.Times{}
	ctx, cancel := context.WithCancel(testContext(t))
	replies, err := h.Call(ctx, sleeping)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := replies.Recv(ctx); err == nil {
		t.Fatal("it was answered")
	}
	if tries := triesOf(sleeping.Times); len(tries) != 1 || tries[0].PID == 0 || tries[0].End == 0 || tries[0].Err.Code != ipc.Cancelled {
		t.Errorf("%+v", tries)
	}
}

func triesOf(t *ipc.Times) []ipc.Try {
	last, earlier, ok := t.Last()
	if !ok {
		return nil
	}
	return append(slices.Clone(earlier), last)
}

func TestNobodyNotes(t *testing.T) {
	var none *ipc.Times
	if none.Wait(time.Now()) != "" {
		t.Error("somebody does")
	}
	none.Send(time.Now(), "p", 1, 2, 3)
	none.Reply(true)
	none.Done(nil)
}
