package worker

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringmasterd/ringmaster/internal/proof"
	"github.com/ringmasterd/ringmaster/ipc"
)

func TestChaosAnswersProveThemselves(t *testing.T) {
	checkLeaks(t)
	ledger := filepath.Join(t.TempDir(), "ledger")
	t.Setenv(LedgerVariable, ledger)
	t.Setenv(ipc.SlotVariable, "3")
	c := serveHere(t, chaosActions())
	r, err := callHere(t, c, "once", map[string]any{"nonce": "0000000000000001", "data": []byte("abc")})
	if err != nil {
		t.Fatal(err)
	}
	var got chaosAnswer
	if err := r.Body.Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := chaosAnswer{Nonce: "0000000000000001", Sum: proof.Sum("0000000000000001", []byte("abc"), nil), Data: []byte("cba"), Slot: "3", PID: os.Getpid()}
	if got.Nonce != want.Nonce || got.Sum != want.Sum || !bytes.Equal(got.Data, want.Data) || got.Slot != want.Slot || got.PID != want.PID {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, err := callHere(t, c, "transform", map[string]any{"nonce": "0000000000000002"}); err != nil {
		t.Error(err)
	}
	lines, err := os.ReadFile(ledger)
	if err != nil || strings.Count(string(lines), "\n") != 2 || !strings.HasPrefix(string(lines), "0000000000000001 3 ") {
		t.Errorf("the ledger says %q, %v", lines, err)
	}
}

func TestChaosActionsRefuse(t *testing.T) {
	checkLeaks(t)
	t.Setenv(LedgerVariable, "")
	t.Setenv(ipc.ConcurrencyVariable, "4")
	c := serveHere(t, chaosActions())
	for _, w := range []struct {
		action string
		body   any
		says   string
	}{
		{"transform", nil, "has no " + LedgerVariable},
		{"once", map[string]any{"ms": -1}, "body.ms is -1"},
		{"stream", map[string]any{"n": 2, "size": "x"}, "body.size"},
		{"lie", map[string]any{"how": "white"}, `body.how is "white"`},
		{"lie", map[string]any{"how": "payload"}, "use it in a pool with concurrency: 1"},
	} {
		_, err := callHere(t, c, w.action, w.body)
		if e := wantError(t, err, ipc.InvalidArgument, "invalid_argument"); !strings.Contains(e.Message, w.says) {
			t.Errorf("%s(%v) says %q, want %q in it", w.action, w.body, e.Message, w.says)
		}
	}
	_, err := callHere(t, c, "raise", nil)
	wantError(t, err, ipc.Internal, "handler")
}
