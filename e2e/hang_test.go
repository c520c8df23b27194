package e2e

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/client"
)

// A pool of two workers for each kind of runtime. That they have limits as short as these makes the tests short: on SIGTERM a worker still has two seconds.
const hangs = `
pools:
  inline:   {command: ["${PYTHON}", "${ROOT}/e2e/testdata/hangs.py"], workers: 2, hang_timeout: 600ms, grace: 200ms, env: {HANGS: "${HANGS}"}}
  threaded: {command: ["${PYTHON}", "${ROOT}/e2e/testdata/hangs.py"], workers: 2, concurrency: 2, hang_timeout: 600ms, grace: 200ms, env: {HANGS: "${HANGS}"}}
  go:       {command: ["${SELF}", worker], workers: 2, concurrency: 2, hang_timeout: 600ms, grace: 200ms}
  calm:     {command: ["${PYTHON}", "${ROOT}/e2e/testdata/hangs.py"], grace: 200ms}
  brief:    {builtin: echo, timeout: 400ms, grace: 200ms}
`

// hang is one way to hang.
type hang struct {
	how   string   // what the action is told
	where string   // in the stacks that the worker writes; "": it can write none
	in    []string // pools
	ends  []string // pools whose workers end on SIGTERM: the others need SIGKILL
}

var (
	pythons = []string{"inline", "threaded"}
	ways    = []hang{
		{how: "stop", in: append(pythons, "go")},
		{how: "sleep", where: " in sleep", in: pythons},
		{how: "spin", where: " in spin", in: pythons},
		{how: "lock", where: " in lock", in: pythons},
		{how: "gil_lock", where: " in gil_lock", in: pythons},
		{how: "gil_call", where: " in gil_call", in: pythons, ends: pythons}, // in the main thread, which gets the signal: also that of "threaded", which nothing is known of these actions to
		{how: "c_loop", where: " in c_loop", in: pythons},
		{how: "gil_loop", where: " in gil_loop", in: pythons},
		{how: "deaf", in: pythons},
		{how: "parent", where: " in parent", in: []string{"inline"}},
		{how: "block", where: "worker.hang(", in: []string{"go"}},
		{how: "spin", where: "worker.hang(", in: []string{"go"}},
	}
)

// Hung is not busy: whatever holds a worker up, its callers are told in time, it is ended, and its pool serves on.
func TestHangs(t *testing.T) {
	t.Setenv("HANGS", sharedObject(t, "hangs.c"))
	s := serve(t, strings.ReplaceAll(hangs, "${HANGS}", os.Getenv("HANGS")), "inline", "threaded", "go", "calm", "brief")
	t.Run("matrix", func(t *testing.T) {
		for _, pool := range []string{"inline", "threaded", "go"} {
			t.Run(pool, func(t *testing.T) {
				t.Parallel()
				t.Run("stopped while idle", func(t *testing.T) { s.stoppedWhileIdle(t, pool) })
				for _, way := range ways {
					if slices.Contains(way.in, pool) {
						t.Run(way.how, func(t *testing.T) { s.hangs(t, pool, way) })
					}
				}
			})
		}
	})
	t.Run("not tried again", s.notTriedAgain)
	t.Run("no room for the request", s.noRoom)
	t.Run("busy", s.busy)
}

// sharedObject compiles a file of testdata.
func sharedObject(t *testing.T, source string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), strings.TrimSuffix(source, ".c")+".so")
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-o", to, filepath.Join("testdata", source)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return to
}

// outcome is how a call ended.
type outcome struct {
	answer string
	err    error
	took   time.Duration
}

// call starts a call whose answer is a string.
func call(ctx context.Context, c *client.Client, pool, action string, body any, opts ...client.CallOption) <-chan outcome {
	ended := make(chan outcome, 1)
	begin := time.Now()
	go func() {
		var o outcome
		r, err := c.Call(ctx, pool, action, body, opts...)
		if o.err, o.took = err, time.Since(begin); err == nil {
			o.err = r.Decode(&o.answer)
		}
		ended <- o
	}()
	return ended
}

// refused fails the test unless err is the error with the code and the reason.
func refused(t *testing.T, err error, code, reason string) *client.Error {
	t.Helper()
	var e *client.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v, want %s/%s", err, code, reason)
	}
	if string(e.Code) != code || e.Reason != reason {
		t.Errorf("%v, want %s/%s", err, code, reason)
	}
	return e
}

// bothReady waits until both workers of the pool are ready, and are not those of before, and returns them.
func (s *server) bothReady(t *testing.T, pool string, before ...worker) []worker {
	t.Helper()
	var now []worker
	eventually(t, time.Minute, "both workers of "+pool, func() bool {
		now = s.workers(pool)
		return !slices.ContainsFunc(now, func(w worker) bool {
			return w.State != "ready" || slices.ContainsFunc(before, func(old worker) bool { return old.PID == w.PID })
		})
	})
	return now
}

// steps returns what the log says about a process, the last lines of its own aside.
func (s *server) steps(pid int) (steps []string) {
	for line := range strings.Lines(s.log.String()) {
		if !slices.Contains(strings.Fields(line), fmt.Sprintf("pid=%d", pid)) {
			continue
		}
		for _, step := range []string{toldToCancel, recalled, sigterm, sigkill} {
			if strings.Contains(line, "msg=\""+step) {
				steps = append(steps, step)
			}
		}
	}
	return steps
}

const (
	toldToCancel = "a request was cancelled, and the worker told so"
	recalled     = "a request makes no progress: the worker is told to cancel it"
	sigterm      = "worker hangs: SIGTERM"
	sigkill      = "worker hangs and has not ended on SIGTERM: SIGKILL to its process group"
)

// hangs has one worker hang until its request's deadline, and the other until hang_timeout, in a request that may be tried again.
func (s *server) hangs(t *testing.T, pool string, way hang) {
	before := s.bothReady(t, pool)
	c, ctx, dir := s.dial(), testContext(t), t.TempDir()
	body := func(name string) map[string]string {
		return map[string]string{"how": way.how, "once": filepath.Join(dir, name), "child": filepath.Join(dir, name+".child")}
	}
	const deadline = 300 * time.Millisecond
	stuck := call(ctx, c, pool, "stuck", body("stuck"), client.WithTimeout(deadline))
	again := call(ctx, c, pool, "hang", body("again"))

	o := <-stuck
	refused(t, o.err, "DEADLINE_EXCEEDED", "deadline")
	if o.took < deadline || o.took > deadline+5*time.Second {
		t.Errorf("its caller was told after %v", o.took)
	}
	ends := slices.Contains(way.ends, pool)
	if o = <-again; o.err != nil || o.answer != "second" && !(ends && o.answer == "late") {
		t.Errorf("the one that may be tried again: %q, %v, after %v", o.answer, o.err, o.took)
	}

	after := s.bothReady(t, pool, before...)
	var firsts []string
	for i, w := range after {
		old := before[i]
		if w.Restarts != old.Restarts+1 || w.LastExit == nil || w.LastExit.Cause != "hung" {
			t.Errorf("worker %d: %+v, last exit %+v", i, w, w.LastExit)
			continue
		}
		if lines := strings.Join(w.LastExit.Stderr, "\n"); !strings.Contains(lines, way.where) {
			t.Errorf("worker %d does not say where it was:\n%s", i, lines)
		}
		steps := s.steps(old.PID)
		want := []string{sigterm, sigkill}
		if ends {
			want = want[:1]
		}
		if len(steps) == 0 || !slices.Equal(steps[1:], want) {
			t.Errorf("worker %d: steps %q", i, steps)
			continue
		}
		firsts = append(firsts, steps[0])
		if alive(old.PID) {
			t.Errorf("worker %d: process %d is left", i, old.PID)
		}
	}
	if slices.Sort(firsts); !slices.Equal(firsts, []string{recalled, toldToCancel}) {
		t.Errorf("the first steps were %q", firsts)
	}
	if way.how == "parent" {
		for _, name := range []string{"stuck.child", "again.child"} {
			if pid := readPID(t, filepath.Join(dir, name)); alive(pid) {
				t.Errorf("its child %d is left", pid)
			}
		}
	}
	s.serves(t, c, pool)
}

func readPID(t *testing.T, file string) int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// serves checks that a pool does, and returns the pids of those that answered two calls at a time.
func (s *server) serves(t *testing.T, c *client.Client, pool string) (pids []int) {
	t.Helper()
	type answer struct {
		pid int
		err error
	}
	answers := make(chan answer, 2)
	for range 2 {
		go func() {
			var a answer
			r, err := c.Call(testContext(t), pool, "pid", nil)
			if a.err = err; err == nil {
				a.err = r.Decode(&a.pid)
			}
			answers <- a
		}()
	}
	for range 2 {
		a := <-answers
		if a.err != nil {
			t.Error(a.err)
		}
		pids = append(pids, a.pid)
	}
	return pids
}

// hasStopped reports whether every thread of a process has stopped: the signal reaches one after the other.
func hasStopped(pid int) bool {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	return err == nil && len(tasks) > 0 && !slices.ContainsFunc(tasks, func(task string) bool {
		b, err := os.ReadFile(task)
		i := strings.LastIndex(string(b), ") ")
		return err == nil && i >= 0 && b[i+2] != 'T'
	})
}

// stoppedWhileIdle stops a worker that has nothing to do. What it is sent then it does not read: another one answers.
func (s *server) stoppedWhileIdle(t *testing.T, pool string) {
	before := s.bothReady(t, pool)
	stopped := before[0].PID
	if err := unix.Kill(stopped, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the worker to stop", func() bool { return hasStopped(stopped) })
	c := s.dial()
	for len(s.steps(stopped)) == 0 { // until it was sent one
		if pids := s.serves(t, c, pool); slices.Contains(pids, stopped) {
			t.Fatalf("answered by %v, of whom %d was stopped", pids, stopped)
		}
	}
	now := s.bothReady(t, pool, before[0])
	if w := now[0]; w.Restarts != before[0].Restarts+1 || w.LastExit.Cause != "hung" || !strings.Contains(w.LastExit.Detail, "has not read a request") {
		t.Errorf("the stopped worker: %+v, last exit %+v", w, w.LastExit)
	}
	if w := now[1]; w.PID != before[1].PID {
		t.Errorf("the other worker: %+v, last exit %+v", w, w.LastExit)
	}
	if steps := s.steps(stopped); !slices.Equal(steps, []string{sigterm, sigkill}) {
		t.Errorf("steps %q", steps)
	}
}

// A request that may not run twice is lost with the worker that made no progress.
func (s *server) notTriedAgain(t *testing.T) {
	before := s.bothReady(t, "inline")
	o := <-call(testContext(t), s.dial(), "inline", "stuck", map[string]string{"how": "sleep", "once": t.Name()})
	if e := refused(t, o.err, "ABORTED", "worker_lost"); !strings.Contains(e.Message, "hung") || strings.Contains(e.Message, "its last line") {
		t.Errorf("message %q", e.Message)
	}
	eventually(t, time.Minute, "the restart", func() bool {
		now := s.workers("inline")
		return now[0].Restarts+now[1].Restarts == before[0].Restarts+before[1].Restarts+1
	})
}

// A request larger than the ring waits for its worker to read; its caller is told at the deadline all the same.
func (s *server) noRoom(t *testing.T) {
	old := s.workers("brief")[0].PID
	if err := unix.Kill(old, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	o := <-call(t.Context(), s.dial(), "brief", "echo", nil, client.WithTensors(client.Tensor{Name: "x", DType: "uint8", Shape: []uint64{16 << 20}, Data: make([]byte, 16<<20)}))
	t.Logf("told after %v, with a timeout of 400ms", o.took)
	refused(t, o.err, "DEADLINE_EXCEEDED", "deadline")
	eventually(t, time.Minute, "the restart", func() bool { w := s.workers("brief")[0]; return w.State == "ready" && w.PID != old })
}

// busy checks that one who only works, or waits for its caller, is left alone.
func (s *server) busy(t *testing.T) {
	type states = map[string][]worker
	before := states{}
	for _, pool := range []string{"inline", "threaded", "go"} {
		before[pool] = s.bothReady(t, pool)
	}
	before["calm"] = s.workers("calm")
	c, ctx := s.dial(), testContext(t)
	t.Run("with chunks", func(t *testing.T) {
		for _, pool := range pythons {
			n := 0
			for r, err := range c.Stream(ctx, pool, "stream", map[string]any{"n": 20, "seconds": 0.1}) { // three times as long as hang_timeout
				if err != nil {
					t.Fatal(err)
				}
				if !r.Last {
					n++
				}
			}
			if n != 20 {
				t.Errorf("%d chunks", n)
			}
		}
	})
	t.Run("with one answer", func(t *testing.T) {
		o := <-call(ctx, c, "calm", "compute", map[string]float64{"seconds": 1.5})
		if o.err != nil || o.answer != "computed" {
			t.Errorf("%q, %v", o.answer, o.err)
		}
	})
	t.Run("waiting for its caller", func(t *testing.T) {
		const n = 300 // more than all windows together
		for pool, action := range map[string]string{"inline": "stream", "threaded": "stream", "go": "count"} {
			next, stop := iter.Pull2(c.Stream(ctx, pool, action, map[string]any{"n": n, "seconds": 0.0}))
			if _, err, ok := next(); err != nil || !ok {
				t.Fatal(err)
			}
			if o := <-call(ctx, c, "calm", "compute", map[string]float64{"seconds": 1.5}); o.err != nil { // meanwhile
				t.Error(o.err)
			}
			got := 1
			for {
				r, err, ok := next()
				if !ok {
					break
				}
				if err != nil {
					t.Fatalf("%s: %v after %d chunks", pool, err, got)
				}
				if !r.Last {
					got++
				}
			}
			stop()
			if got != n {
				t.Errorf("%s: %d chunks", pool, got)
			}
		}
	})
	for pool, was := range before {
		for i, w := range s.workers(pool) {
			if w.PID != was[i].PID {
				t.Errorf("%s/%d was replaced: %+v", pool, i, w.LastExit)
			}
		}
	}
}

// Loading has a deadline of its own, start_timeout, and is shown as such. The next process loads for longer than grace and hang_timeout, which are not its concern.
func TestHangsWhileLoading(t *testing.T) {
	ways := []string{"sleep", "gil_lock", "stop"}
	var config strings.Builder
	config.WriteString("pools:\n")
	dir := t.TempDir()
	for _, how := range ways {
		fmt.Fprintf(&config, "  %s: {command: [\"${PYTHON}\", \"${ROOT}/e2e/testdata/hangs.py\"], start_timeout: 4s, hang_timeout: 300ms, grace: 200ms, env: {LOAD: %s, LOAD_ONCE: %s}}\n", how, how, filepath.Join(dir, how))
	}
	s := serve(t, config.String())
	eventually(t, time.Minute, "the socket", func() bool { return s.command("status").Run() == nil })
	pids := map[string]int{}
	for _, how := range ways {
		eventually(t, time.Minute, how+" to be shown as loading", func() bool {
			w := s.workers(how)[0]
			pids[how] = w.PID
			return w.State == "loading"
		})
	}
	for _, how := range ways {
		eventually(t, time.Minute, how+" to be ready", func() bool { return s.workers(how)[0].State == "ready" })
		w := s.workers(how)[0]
		if w.Restarts != 1 || w.LastExit == nil || w.LastExit.Cause != "load_timeout" || !strings.Contains(w.LastExit.Detail, "start_timeout") {
			t.Errorf("%s: %+v, last exit %+v", how, w, w.LastExit)
		}
		if alive(pids[how]) && pids[how] != w.PID {
			t.Errorf("%s: process %d is left", how, pids[how])
		}
		if out, errs, code := s.output("call", how, "pid"); code != 0 || out != fmt.Sprintln(w.PID) {
			t.Errorf("%s: exit %d, %s%s", how, code, out, errs)
		}
	}
}
