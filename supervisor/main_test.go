package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/worker"
)

// The test binary is its own ringmaster binary: the supervisor starts it again as builtin workers and as the guard.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "guard":
			RunGuard(os.Stdin)
			os.Exit(0)
		case "worker":
			actions, _ := worker.Builtin(os.Args[3])
			if err := worker.Serve(context.Background(), actions); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	// The netpoller's own descriptors are there from its first use on.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	os.Exit(m.Run())
}

// harness is a running supervisor.
type harness struct {
	*Supervisor
	t    testing.TB
	stop func()
}

// run starts a supervisor and checks, at the end of the test, that it leaves nothing behind.
func run(t testing.TB, pools ...PoolConfig) *harness {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	fds := countFDs(t)
	cfg := Config{Pools: pools, Executable: testBinary(t), Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil))}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.handshakeTimeout, s.hungGrace = time.Second, 100*time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	h := &harness{Supervisor: s, t: t}
	stopped := false
	h.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(func() {
		h.stop()
		goleak.VerifyNone(t, ignore)
		if n := countFDs(t); n > fds {
			t.Errorf("file descriptors: %d before, %d after", fds, n)
		}
		if left := children(t); len(left) > 0 {
			t.Errorf("processes left: %v", left)
		}
	})
	return h
}

func (h *harness) waitReady() *harness {
	h.t.Helper()
	if err := h.WaitReady(testContext(h.t)); err != nil {
		h.t.Fatal(err)
	}
	return h
}

// await waits until the status is as ok wants it.
func (h *harness) await(pool, what string, ok func(PoolStatus) bool) PoolStatus {
	h.t.Helper()
	p := h.pools[pool]
	err := p.await(testContext(h.t), func() (bool, error) {
		st := PoolStatus{Name: pool, State: p.state(), Queued: p.queue.Len(), InFlight: p.inFlight()}
		for _, s := range p.slots {
			st.Workers = append(st.Workers, s.status())
		}
		return ok(st), nil
	})
	if err != nil {
		h.t.Fatalf("waiting for %s: %v; status %+v", what, err, p.status())
	}
	return p.status()
}

// call makes one call and returns its last reply, or its error.
func (h *harness) call(ctx context.Context, req *ipc.Request) (*ipc.Reply, error) {
	replies, err := h.Call(ctx, req)
	if err != nil {
		return nil, err
	}
	for {
		r, err := replies.Recv(ctx)
		if err != nil || r.End {
			return r, err
		}
	}
}

func request(t testing.TB, pool, action string, body any) *ipc.Request {
	t.Helper()
	b, err := ipc.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return &ipc.Request{Pool: pool, Action: action, Body: b, Credit: 8}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func testBinary(t testing.TB) string {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

func countFDs(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// children lists this process's children, zombies included.
func children(t testing.TB) []string {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, task := range tasks {
		b, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		if len(b) > 0 {
			all = append(all, string(b))
		}
	}
	return all
}

// testWriter sends the log to the test's.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p[:len(p)-1])
	return len(p), nil
}
