package supervisor

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

func wantError(t testing.TB, err error, code ipc.Code, reason string) *ipc.Error {
	t.Helper()
	var e *ipc.Error
	if !errors.As(err, &e) || e.Code != code || e.Reason != reason {
		t.Fatalf("error %v, want %s/%s", err, code, reason)
	}
	return e
}

func TestCall(t *testing.T) {
	h := run(t, PoolConfig{Name: "echo", Builtin: "echo", Workers: 2}).waitReady()
	r, err := h.call(testContext(t), request(t, "echo", "echo", map[string]any{"hello": "world"}))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := r.Body.Decode(&got); err != nil || got["hello"] != "world" {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestKilledWorkerMidRequest(t *testing.T) {
	h := run(t, PoolConfig{Name: "echo", Builtin: "echo"}).waitReady()
	ctx := testContext(t)
	replies, err := h.Call(ctx, request(t, "echo", "count", map[string]any{"n": 1000000, "delay_ms": 1}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := replies.Recv(ctx); err != nil {
		t.Fatal(err)
	}
	pid := h.Status().Pools[0].Workers[0].PID
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = replies.Recv(ctx)
	}
	wantError(t, err, ipc.Aborted, "worker_lost")
	st := h.await("echo", "a restart", func(p PoolStatus) bool { return p.Workers[0].State == "ready" })
	if w := st.Workers[0]; w.Restarts != 1 || w.PID == pid || w.LastExit == nil || w.LastExit.Cause != "signal" || w.LastExit.Detail != "signal: killed" {
		t.Fatalf("after the restart: %+v, %+v", w, w.LastExit)
	}
	if _, err := h.call(ctx, request(t, "echo", "echo", 1)); err != nil {
		t.Fatal(err)
	}
}
