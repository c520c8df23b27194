package supervisor

import (
	"context"
	"errors"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/internal/version"
	"github.com/ringmasterd/ringmaster/ipc"
)

// control makes a control request and decodes its answer.
func (h *harness) control(action string, body, answer any) error {
	h.t.Helper()
	r, err := h.call(testContext(h.t), request(h.t, ControlPool, action, body))
	if err != nil {
		return err
	}
	if answer != nil {
		if err := r.Body.Decode(answer); err != nil {
			h.t.Fatal(err)
		}
	}
	return nil
}

func TestControlStatus(t *testing.T) {
	h := run(t, builtin(2, 3), other()).waitReady()
	h.allReady("test")
	running := h.hold("test")
	defer running.finish()
	var st Status
	if err := h.control("status", nil, &st); err != nil {
		t.Fatal(err)
	}
	if st.Version != version.Version || st.PID != os.Getpid() || st.UptimeS <= 0 || len(st.Pools) != 2 || st.Pools[0].Name != "other" {
		t.Fatalf("status %+v", st)
	}
	p := st.Pools[1]
	if p.Name != "test" || p.State != "ready" || p.InFlight != 1 || p.Queued != 0 || !slices.Contains(p.Actions, "echo") || !slices.IsSorted(p.Actions) || len(p.Workers) != 2 {
		t.Errorf("pool %+v", p)
	}
	inFlight := 0
	for i, w := range p.Workers {
		inFlight += w.InFlight
		if w.Slot != i || w.State != "ready" || !alive(w.PID) || w.RSSBytes < 1<<20 || w.FDs < 5 || w.UptimeS <= 0 || w.LastExit != nil || !strings.HasPrefix(w.SDK, "ringmaster-go/") {
			t.Errorf("worker %+v", w)
		}
		if (w.InFlight == 1) != (w.PID == running.pid) {
			t.Errorf("worker %d has %d in flight", w.PID, w.InFlight)
		}
	}
	if inFlight != 1 {
		t.Errorf("%d in flight", inFlight)
	}
}

func TestControlVersionAndErrors(t *testing.T) {
	h := run(t, builtin(1, 1))
	var v struct {
		Version string `msgpack:"version"`
	}
	if err := h.control("version", nil, &v); err != nil || v.Version != version.Version {
		t.Errorf("version %q, %v", v.Version, err)
	}
	wantError(t, h.control("fly", nil, nil), ipc.NotFound, "unknown_action")
	wantError(t, h.control("restart", nil, nil), ipc.InvalidArgument, "invalid_argument")
	wantError(t, h.control("restart", map[string]any{"pool": nil}, nil), ipc.InvalidArgument, "invalid_argument")
	for _, action := range []string{"status", "health", "restart", "drain"} {
		wantError(t, h.control(action, map[string]any{"pool": "nobody"}, nil), ipc.NotFound, "unknown_pool")
	}
	wantError(t, h.control("health", "a string", nil), ipc.InvalidArgument, "bad_body")

	replies, err := h.Call(t.Context(), request(t, ControlPool, "version", nil))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := replies.Recv(t.Context()); err != nil || !r.End {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := replies.Recv(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("%v after the end", err)
	}
	replies.Cancel("cancelled")
}

func TestHealth(t *testing.T) {
	h := run(t, builtin(2, 1), other()).waitReady()
	h.allReady("test")
	var got Health
	if err := h.control("health", nil, &got); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"other", "test"} {
		if p := got.Pools[i]; p.Name != name || !p.OK || p.RoundMS <= 0 || p.RoundMS > 10e3 || p.Error != "" {
			t.Errorf("pool %+v", p)
		}
	}
	// Busy is not ill.
	running := []*held{h.hold("test"), h.hold("test")}
	if err := h.control("health", map[string]any{"pool": "test"}, &got); err != nil || len(got.Pools) != 1 || !got.Pools[0].OK {
		t.Errorf("%+v, %v", got, err)
	}
	for _, hd := range running {
		if err := hd.finish(); err != nil {
			t.Error(err)
		}
	}
}

// A process that exists, and answered once, is not health.
func TestHealthOfAStoppedWorker(t *testing.T) {
	h := run(t, builtin(2, 1)).waitReady()
	all := pids(h.allReady("test"))
	ill := func(timeout time.Duration) PoolHealth {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		return health(ctx, []*pool{h.all()[0]}).Pools[0]
	}
	kill(t, all[0], unix.SIGSTOP)
	if p := ill(10 * time.Second); !p.OK {
		t.Errorf("one of two answers: %+v", p)
	}
	kill(t, all[1], unix.SIGSTOP)
	begin := time.Now()
	if p := ill(50 * time.Millisecond); p.OK || p.RoundMS != 0 || p.Error != "no ready worker answered: DEADLINE_EXCEEDED/deadline: the request's deadline has passed" {
		t.Errorf("none answers: %+v", p)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	var got Health // the deadline of a request is that of the check
	req := request(t, ControlPool, "health", nil)
	req.Timeout = 50 * time.Millisecond
	r, err := h.call(testContext(t), req)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Body.Decode(&got); err != nil || got.Pools[0].OK {
		t.Errorf("%+v, %v", got, err)
	}
	kill(t, all[0], unix.SIGCONT)
	kill(t, all[1], unix.SIGCONT)
	if p := ill(10 * time.Second); !p.OK {
		t.Errorf("both go on: %+v", p)
	}
}

func TestHealthWithoutAReadyWorker(t *testing.T) {
	for want, pool := range map[string]PoolConfig{
		"loading": shell(handshake + "sleep 1000"),
		"failed; a worker ended: exited: before the handshake (exit status 1); its last line: no GPU": shell("echo no GPU >&2; exit 1"),
	} {
		t.Run(want[:6], func(t *testing.T) {
			h := run(t, pool)
			h.await("test", want, func(p PoolStatus) bool { return strings.HasPrefix(want, p.State) })
			var got Health
			if err := h.control("health", nil, &got); err != nil {
				t.Fatal(err)
			}
			if p := got.Pools[0]; p.OK || p.Error != "no worker is ready: the pool is "+want {
				t.Errorf("%+v", p)
			}
		})
	}
}

// A reload is its embedder's to carry out: only that knows the file.
func TestControlReload(t *testing.T) {
	t.Run("without a file", func(t *testing.T) {
		wantError(t, run(t, builtin(1, 1)).control("reload", nil, nil), ipc.Unimplemented, "reload")
	})
	want := ReloadAnswer{Reloaded{Added: []string{"a"}, Unchanged: []string{"b", "c"}}, []string{"auth"}, []string{"socket"}}
	var refusal error
	h := runWith(t, func(s *Supervisor) {
		s.cfg.OnReload = func(context.Context) (ReloadAnswer, error) { return want, refusal }
	}, builtin(1, 1))
	var got ReloadAnswer
	if err := h.control("reload", nil, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	refusal = ipc.Errorf(ipc.InvalidArgument, "config", "f:1:1: no")
	wantError(t, h.control("reload", nil, nil), ipc.InvalidArgument, "config")
}
