package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

// The test binary is its own ringmaster binary: the supervisor starts it again as its workers and as the guard, and tests start it as a supervisor to be killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "guard":
			RunGuard(os.Stdin)
			unix.Exit(0) // not os.Exit: the race detector's would take a second
		case "confine":
			exit(RunConfined(os.Args[2:]))
		case "sweep":
			if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				exit(err)
			}
			if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil { // that of its own processes
				exit(err)
			}
			removeStale(os.Args[2])
			exit(nil)
		case "worker":
			exit(serveTestWorker())
		case "hostile":
			exit(hostile(os.Args[2]))
		case "inline":
			exit(serveInline(os.Args[2]))
		case "supervise":
			exit(supervise(os.Args[2]))
		}
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // or each worker would take a second to exit under the race detector
	// The netpoller's own descriptors are there from its first use on.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	os.Exit(m.Run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// builtin is a pool of test workers.
func builtin(workers, concurrency int) PoolConfig {
	return PoolConfig{Name: "test", Builtin: "echo", Workers: workers, Concurrency: concurrency}
}

// shell is a pool with one worker, which a shell script is to be.
func shell(script string) PoolConfig {
	return PoolConfig{Name: "test", Command: []string{"sh", "-c", script}}
}

// handshake is the shell command for a worker's first line.
const handshake = "echo '1|1|unix|fd:4|netrpc'; "

// harness is a running supervisor.
type harness struct {
	*Supervisor
	t    testing.TB
	end  func() // tells Run to end
	stop func() // and waits until it has
}

// run starts a supervisor and checks, at the end of the test, that it leaves nothing behind.
func run(t testing.TB, pools ...PoolConfig) *harness {
	t.Helper()
	return runWith(t, func(*Supervisor) {}, pools...)
}

// runWith is run with other waits than the usual ones.
func runWith(t testing.TB, change func(*Supervisor), pools ...PoolConfig) *harness {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	fds := countFDs(t)
	cfg := Config{Pools: pools, Executable: testBinary(t), Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil))}
	if _, ok := t.(*testing.B); ok {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.drainTimeout, s.hungGrace, s.tickEvery, s.backoffFirst = 10*time.Second, time.Minute, 20*time.Millisecond, time.Millisecond
	change(s)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	h := &harness{Supervisor: s, t: t, end: cancel}
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() {
		h.stop()
		goleak.VerifyNone(t, ignore)
		if n := countFDs(t); n > fds {
			dumpFDs(t)
			t.Errorf("file descriptors: %d before, %d after", fds, n)
		}
		if left := children(t); len(left) > 0 {
			t.Errorf("processes left: %v", left)
		}
	})
	return h
}

func (h *harness) byName(pool string) *pool {
	h.t.Helper()
	p, err := h.pool(pool)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

func (h *harness) waitReady() *harness {
	h.t.Helper()
	if err := h.WaitReady(testContext(h.t)); err != nil {
		h.t.Fatal(err)
	}
	return h
}

// allReady waits until every worker of the pool is ready.
func (h *harness) allReady(pool string) PoolStatus {
	h.t.Helper()
	return h.await(pool, "every worker to be ready", func(p PoolStatus) bool {
		for _, w := range p.Workers {
			if w.State != "ready" {
				return false
			}
		}
		return true
	})
}

// await waits until the status is as ok wants it.
func (h *harness) await(pool, what string, ok func(PoolStatus) bool) PoolStatus {
	h.t.Helper()
	p := h.byName(pool)
	var st PoolStatus
	eventually(h.t, what, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		st = PoolStatus{Name: pool, State: p.state(), Queued: p.waiting(), InFlight: p.inFlight()}
		for _, s := range slices.Concat(p.slots, p.extra) {
			st.Workers = append(st.Workers, s.status())
		}
		return ok(st)
	})
	return st
}

// busy waits until so many requests are with workers and in the queue.
func (h *harness) busy(inFlight, queued int) PoolStatus {
	h.t.Helper()
	return h.await("test", fmt.Sprintf("%d in flight and %d queued", inFlight, queued), func(p PoolStatus) bool {
		return p.InFlight == inFlight && p.Queued == queued
	})
}

// worker returns the status of one worker.
func (h *harness) worker(pool string, slot int) WorkerStatus {
	h.t.Helper()
	p := h.byName(pool)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.slots[slot].status()
}

// lastExit waits for the end of a process in the only slot of pool test and says how it ended.
func (h *harness) lastExit() *Exit {
	h.t.Helper()
	st := h.await("test", "a worker's end", func(p PoolStatus) bool { return p.Workers[0].LastExit != nil })
	return st.Workers[0].LastExit
}

// call makes one call and returns its last reply, or its error.
func (h *harness) call(ctx context.Context, req *ipc.Request) (*ipc.Reply, error) {
	replies, err := h.Call(ctx, req)
	if err != nil {
		return nil, err
	}
	return last(ctx, replies)
}

// last takes the replies to their end.
func last(ctx context.Context, replies ipc.Replies) (*ipc.Reply, error) {
	for {
		r, err := replies.Recv(ctx)
		if err != nil || r.End {
			return r, err
		}
	}
}

// must makes a call that has to succeed, and decodes the answer's body into answer, unless that is nil.
func (h *harness) must(action string, body, answer any) {
	h.t.Helper()
	r, err := h.call(testContext(h.t), request(h.t, "test", action, body))
	if err != nil {
		h.t.Fatalf("%s: %v", action, err)
	}
	if answer != nil {
		if err := r.Body.Decode(answer); err != nil {
			h.t.Fatalf("%s: %v", action, err)
		}
	}
}

// outcome is how a call ended.
type outcome struct {
	reply *ipc.Reply
	err   error
}

// start makes a call on a goroutine of its own.
func (h *harness) start(ctx context.Context, req *ipc.Request) <-chan outcome {
	ended := make(chan outcome, 1)
	go func() {
		r, err := h.call(ctx, req)
		ended <- outcome{r, err}
	}()
	return ended
}

// held is a request that its worker works on until finish is called.
type held struct {
	ipc.Replies
	t   testing.TB
	pid int // of the worker
}

// hold has a worker begin a request.
func (h *harness) hold(pool string) *held { return h.holdAs(pool, nil) }

// holdAs is hold with a body, by which one such request can be told from another.
func (h *harness) holdAs(pool string, body any) *held {
	h.t.Helper()
	ctx := testContext(h.t)
	req := request(h.t, pool, "hold", body)
	req.Credit, req.Timeout = 1, time.Minute
	replies, err := h.Call(ctx, req)
	if err != nil {
		h.t.Fatal(err)
	}
	r, err := replies.Recv(ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	hd := &held{Replies: replies, t: h.t}
	if err := r.Body.Decode(&hd.pid); err != nil {
		h.t.Fatal(err)
	}
	return hd
}

// finish lets the worker go on, and returns the request's outcome.
func (hd *held) finish() error {
	_, err := last(testContext(hd.t), hd)
	return err
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

// eventually waits for what no event announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	patience := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-poll.C:
		case <-patience:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// kill sends a signal and, for SIGSTOP, waits until every thread has stopped.
func kill(t testing.TB, pid int, sig unix.Signal) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("signal to pid %d", pid)
	}
	if err := unix.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
	if sig == unix.SIGSTOP {
		eventually(t, "the process to stop", func() bool {
			for _, task := range glob(t, fmt.Sprintf("/proc/%d/task/*/stat", pid)) {
				if state := statState(task); state != 0 && state != 'T' {
					return false
				}
			}
			return true
		})
	}
}

// alive reports whether a process exists and is no zombie.
func alive(pid int) bool {
	state := statState(fmt.Sprintf("/proc/%d/stat", pid))
	return state != 0 && state != 'Z' && state != 'X'
}

// statState is the state letter in a stat file of /proc, 0 if there is no such file. The field before it may hold anything between parentheses.
func statState(path string) byte {
	stat, _ := os.ReadFile(path)
	i := strings.LastIndexByte(string(stat), ')')
	if i < 0 || i+2 >= len(stat) {
		return 0
	}
	return stat[i+2]
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func wantError(t testing.TB, err error, code ipc.Code, reason string) *ipc.Error {
	t.Helper()
	e := ipc.AsError(err)
	if e == nil || e.Code != code || e.Reason != reason {
		t.Fatalf("error %v, want %s/%s", err, code, reason)
	}
	return e
}

func testBinary(t testing.TB) string {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

func countFDs(t testing.TB) int { return len(glob(t, "/proc/self/fd/*")) }

func dumpFDs(t testing.TB) {
	for _, fd := range glob(t, "/proc/self/fd/*") {
		target, _ := os.Readlink(fd)
		t.Logf("%s: %s", fd, target)
	}
}

// children lists this process's children, zombies included.
func children(t testing.TB) []string {
	var all []string
	for _, path := range glob(t, "/proc/self/task/*/children") {
		b, _ := os.ReadFile(path) // a thread that has ended has none
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
