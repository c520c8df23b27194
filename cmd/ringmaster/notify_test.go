package main

import (
	"log/slog"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/supervisor"
)

// managed starts a server that a service manager watches, whose watchdog bites after timeout; 0: it has none.
func managed(t *testing.T, m *manager, dir, yaml string, timeout time.Duration, args ...string) *server {
	t.Helper()
	s := beginServer(t, dir, yaml, func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Environ(), "NOTIFY_SOCKET="+m.path)
		if timeout > 0 {
			cmd.Env = append(cmd.Env, "WATCHDOG_USEC="+strconv.FormatInt(timeout.Microseconds(), 10))
		}
	}, args...)
	s.dial()
	return s
}

// terminate ends a server and expects it to end well.
func (s *server) terminate() {
	s.t.Helper()
	s.signal(syscall.SIGTERM)
	if code := s.wait(); code != 0 {
		s.t.Errorf("exit status %d:\n%s", code, s.log)
	}
}

// A start's whole story: models load while the first request waits already, READY comes when they have, STATUS tells what goes on, and STOPPING how long the end may take.
func TestServiceManagerHearsOfLife(t *testing.T) {
	m, dir := manage(t), t.TempDir()
	yaml, load := slowPool(t, dir)
	s := managed(t, m, dir, "drain_timeout: 7s\n"+yaml, 2*time.Second)

	first := m.awaitVariable("STATUS", "loading 1 pool, 0/1 workers ready")
	if d := m.usec(first, "EXTEND_TIMEOUT_USEC"); d != time.Minute {
		t.Errorf("the start is extended by %v", d)
	}
	waits := s.begin("call", "slow", "echo")
	eventually(t, "the request to wait", func() bool { return s.status().Pools[0].Queued == 1 })
	m.await("another beat", func(msg message) bool { return msg["EXTEND_TIMEOUT_USEC"] != "" })
	if m.said("READY") {
		t.Errorf("READY while the model loads:\n%s", m)
	}
	load()
	m.awaitVariable("READY", "1")
	if code := exitCode(t, waits.Wait()); code != 0 {
		t.Errorf("the request that waited for the model ended with %d", code)
	}
	m.awaitVariable("STATUS", "serving 1 pool, 1/1 workers ready, 0 in flight")

	s.begin("call", "slow", "sleep", "-d", `{"seconds":3600}`, "--timeout", "1h")
	m.awaitVariable("STATUS", "serving 1 pool, 1/1 workers ready, 1 in flight")
	s.signal(syscall.SIGTERM)
	stopping := m.awaitVariable("STOPPING", "1")
	if d := m.usec(stopping, "EXTEND_TIMEOUT_USEC"); d != stopsWithin(7*time.Second) {
		t.Errorf("a drain of 7s may take %v", d)
	}
	m.awaitVariable("STATUS", "draining, 1 in flight")
	s.signal(syscall.SIGTERM)
	s.wait()
}

// drain_timeout is kept.
func TestDrainTimeout(t *testing.T) {
	s := startServer(t, t.TempDir(), "drain_timeout: 50ms\n"+echoPool)
	s.settle()
	p := s.begin("call", "echo", "sleep", "-d", `{"seconds":3600}`, "--timeout", "1h")
	eventually(t, "the request to begin", func() bool { return s.worker().InFlight == 1 })
	s.terminate()
	if code := exitCode(t, p.Wait()); code != exitUnavailable {
		t.Errorf("the request that was cut off ended with %d", code)
	}
	s.logged("drain_timeout=50ms")
}

// A pool that does not come up is told, and keeps nobody from the others.
func TestReadyWithFailedPool(t *testing.T) {
	m := manage(t)
	s := managed(t, m, t.TempDir(), "pools: {echo: {builtin: echo}, bad: {command: ['false']}}\n", 0)
	if got, want := m.awaitVariable("READY", "1")["STATUS"], "serving 2 pools, 1/2 workers ready, 0 in flight; failed: bad"; got != want {
		t.Errorf("STATUS=%s, want %s", got, want)
	}
	if m.said("WATCHDOG") {
		t.Errorf("there is no watchdog, but it is fed:\n%s", m)
	}
	s.terminate()
}

// The watchdog is fed while the server works, and not while it does not: because it runs no more, or because nobody gets in any more.
func TestWatchdogOfStuckServer(t *testing.T) {
	const timeout = time.Second
	m := manage(t)
	s := managed(t, m, t.TempDir(), echoPool, timeout)
	m.awaitVariable("READY", "1")
	for range 3 {
		m.awaitVariable("WATCHDOG", "1")
	}
	hungry := func(why string) {
		t.Helper()
		m.flush()
		before := m.count("WATCHDOG")
		<-time.After(timeout)
		m.flush()
		if n := m.count("WATCHDOG"); n != before {
			t.Errorf("%s, and the watchdog is fed %d times:\n%s", why, n-before, s.log)
		}
	}
	s.signal(syscall.SIGSTOP)
	eventually(t, "the server to stop", func() bool { return processState(t, s.cmd.Process.Pid) == 'T' })
	hungry("the server is stopped")
	s.signal(syscall.SIGCONT)
	m.awaitVariable("WATCHDOG", "1")

	files := limitFiles(t, s.cmd.Process.Pid, 3) // it can accept nobody
	eventually(t, "a complaint", func() bool {
		return strings.Contains(s.log.String(), "the server does not answer itself; the watchdog is not fed")
	})
	hungry("the server lets nobody in")
	limitFiles(t, s.cmd.Process.Pid, files)
	m.awaitVariable("WATCHDOG", "1")
	s.logged("the server answers itself again")
	s.terminate()
}

// limitFiles sets how many files a process may open from now on, and returns how many that were.
func limitFiles(t *testing.T, pid int, n uint64) (before uint64) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: old.Max}, nil); err != nil {
		t.Fatal(err)
	}
	return old.Cur
}

// A reload: announced with the time on the monotonic clock, ended by READY whatever came of it; a mistake is told, and the server goes on as it was.
func TestReloadBySignal(t *testing.T) {
	m, dir := manage(t), t.TempDir()
	s := managed(t, m, dir, echoPool, time.Second)
	m.awaitVariable("READY", "1")
	writeConfig(t, dir, "pools:\n  echo: {builtin: echo, wokrers: 2}\n")
	begin := monotonic(t)
	s.signal(syscall.SIGHUP)
	msg := m.awaitVariable("RELOADING", "1")
	if at := m.usec(msg, "MONOTONIC_USEC"); at < begin.Truncate(time.Microsecond) || at > monotonic(t) {
		t.Errorf("RELOADING at %v; the signal was sent at %v", at, begin)
	}
	ready := m.awaitVariable("READY", "1")
	contains(t, "STATUS", ready["STATUS"], "serving 1 pool, 1/1 workers ready, 0 in flight; the last reload failed: ringmaster.yaml:2:25: pools.echo.wokrers: unknown key: did you mean workers?")
	s.logged("reload failed; the server goes on with the configuration it had")
	if r := s.run("call", "echo", "echo", "-d", "1"); r.code != 0 {
		t.Errorf("after a failed reload: %+v", r)
	}
	s.terminate()
}

// A reload before the server is ready must not end its start.
func TestReloadWhileLoading(t *testing.T) {
	m, dir := manage(t), t.TempDir()
	yaml, load := slowPool(t, dir)
	s := managed(t, m, dir, yaml, time.Second)
	writeConfig(t, dir, "pools: {}\n")
	s.signal(syscall.SIGHUP)
	m.await("a failed reload", func(msg message) bool {
		return strings.Contains(msg["STATUS"], "loading 1 pool, 0/1 workers ready; the last reload failed: ")
	})
	if m.said("READY") || m.said("RELOADING") {
		t.Errorf("a reload ended the start:\n%s", m)
	}
	load()
	m.awaitVariable("READY", "1")
	s.terminate()
}

// What is said in which phase: more time is asked for while a reload may take it, and a server that stops neither becomes ready again nor feeds the watchdog.
func TestNotifierPhases(t *testing.T) {
	m := manage(t)
	n := &notifier{log: slog.New(slog.DiscardHandler)}
	var st supervisor.Status
	for _, tt := range []struct {
		name string
		do   func()
		want []string // variables of the one message; none: no message
	}{
		{"a beat while loading", func() { n.alive(st, true) }, []string{"EXTEND_TIMEOUT_USEC", "STATUS", "WATCHDOG"}},
		{"a reload while loading", n.reloads, nil},
		{"ready", func() { n.ready(st) }, []string{"READY", "STATUS"}},
		{"ready again", func() { n.ready(st) }, nil},
		{"a beat", func() { n.alive(st, true) }, []string{"STATUS", "WATCHDOG"}},
		{"a beat without a watchdog", func() { n.alive(st, false) }, []string{"STATUS"}},
		{"a reload", n.reloads, []string{"MONOTONIC_USEC", "RELOADING", "STATUS"}},
		{"a beat while reloading", func() { n.alive(st, true) }, []string{"EXTEND_TIMEOUT_USEC", "STATUS", "WATCHDOG"}},
		{"reloaded", func() { n.reloaded(nil) }, []string{"READY", "STATUS"}},
		{"another reload", n.reloads, []string{"MONOTONIC_USEC", "RELOADING", "STATUS"}},
		{"stopping", func() { n.stops(time.Second) }, []string{"EXTEND_TIMEOUT_USEC", "STATUS", "STOPPING"}},
		{"reloaded meanwhile", func() { n.reloaded(nil) }, nil},
		{"a beat while stopping", func() { n.alive(st, true) }, []string{"STATUS"}},
	} {
		m.flush()
		tt.do()
		m.flush()
		got := m.beforeLast()
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// The manager's variables and sockets are the server's alone.
func TestManagerIsNotForWorkers(t *testing.T) {
	m := manage(t)
	s := managed(t, m, t.TempDir(), echoPool, time.Minute)
	s.settle()
	env := environ(t, s.worker().PID)
	for _, name := range []string{"NOTIFY_SOCKET=", "WATCHDOG_USEC="} {
		if strings.Contains(env, name) {
			t.Errorf("the worker's environment has %s", name)
		}
	}
	s.terminate()
}

func TestStatusLine(t *testing.T) {
	workers := func(states ...string) (w []supervisor.WorkerStatus) {
		for _, s := range states {
			w = append(w, supervisor.WorkerStatus{State: s})
		}
		return w
	}
	st := supervisor.Status{Pools: []supervisor.PoolStatus{
		{Name: "a", State: "ready", InFlight: 3, Workers: workers("ready", "loading")},
		{Name: "b", State: "ready", InFlight: 2, Workers: workers("ready", "ready")},
	}}
	failed := supervisor.Status{Pools: []supervisor.PoolStatus{{Name: "a", State: "failed", Workers: workers("failed")}}}
	for _, tt := range []struct {
		phase   phase
		st      supervisor.Status
		trouble string
		want    string
	}{
		{atWork, st, "", "serving 2 pools, 3/4 workers ready, 5 in flight"},
		{reloading, st, "", "reloading, serving 2 pools, 3/4 workers ready, 5 in flight"},
		{loading, failed, "", "loading 1 pool, 0/1 workers ready; failed: a"},
		{atWork, failed, "no", "serving 1 pool, 0/1 workers ready, 0 in flight; failed: a; the last reload failed: no"},
		{stopping, st, "no", "draining, 5 in flight"},
	} {
		if got := statusLine(tt.phase, tt.st, tt.trouble); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

// A pool has had its chance once it was ready for a moment, or has given up.
func TestSettle(t *testing.T) {
	had := map[string]bool{}
	at := func(states ...string) supervisor.Status {
		var st supervisor.Status
		for i, s := range states {
			st.Pools = append(st.Pools, supervisor.PoolStatus{Name: string(rune('a' + i)), State: s})
		}
		return st
	}
	for _, tt := range []struct {
		st   supervisor.Status
		want bool
	}{{at("loading", "loading"), false}, {at("ready", "backoff"), false}, {at("ready", "draining"), false}, {at("backoff", "failed"), true}, {at("loading", "loading", "loading"), false}, {at("ready", "ready", "drained"), true}} {
		if got := settle(had, tt.st); got != tt.want {
			t.Errorf("settle(%+v) = %v", tt.st, got)
		}
	}
}

func TestBeatEvery(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{0: slowestBeat, time.Second: 250 * time.Millisecond, time.Hour: slowestBeat, time.Nanosecond: time.Millisecond} {
		if got := beatEvery(timeout); got != want {
			t.Errorf("a watchdog of %v: every %v, want %v", timeout, got, want)
		}
	}
}

// monotonic reads CLOCK_MONOTONIC.
func monotonic(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}
