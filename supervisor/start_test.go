package supervisor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

func TestWorkersThatDoNotStart(t *testing.T) {
	for name, c := range map[string]struct {
		script        string // "": a program that does not exist
		cause, detail string // the detail's beginning
		stderr        []string
	}{
		"garbage":            {"echo loading the model…; sleep 1000", "handshake", `its first line on stdout is not the handshake: "loading the model…"; print to stderr instead`, nil},
		"an empty line":      {"echo; " + handshake + "sleep 1000", "handshake", `its first line on stdout is not the handshake: ""`, nil},
		"no end of line":     {"head -c 1048576 /dev/zero | tr '\\0' x; sleep 1000", "handshake", `its first line on stdout is not the handshake: "xxxx`, nil},
		"zeros":              {"head -c 1048576 /dev/zero; sleep 1000", "handshake", `its first line on stdout is not the handshake: "\x00`, nil},
		"silence":            {"sleep 1000", "handshake", "no handshake within 300ms; does the program call ringmaster's serve?", nil},
		"stdout closed":      {"exec >&-; sleep 1000", "handshake", "no handshake within 300ms", nil},
		"other version":      {"echo '1|99|unix|fd:4|netrpc'; sleep 1000", "handshake", "incompatible API version with plugin. Plugin version: 99", nil},
		"other core version": {"echo '2|1|unix|fd:4|netrpc'; sleep 1000", "handshake", "incompatible core API version", nil},
		"other transport":    {"echo '1|1|unix|fd:4|grpc'; sleep 1000", "handshake", `unsupported plugin protocol "grpc"`, nil},
		"exit":               {"echo no model >&2; echo at all >&2; exit 3", "exited", "before the handshake (exit status 3)", []string{"no model", "at all"}},
		"success":            {"exit 0", "exited", "before the handshake (exit status 0)", nil},
		"killed":             {"kill -9 $$", "signal", "before the handshake (signal: killed)", nil},
		"dies while loading": {handshake + "echo out of memory >&2; exit 1", "exited", "before it was ready (exit status 1)", []string{"out of memory"}},
		"never ready":        {handshake + "exec sleep 1000", "load_timeout", "not ready after start_timeout, 600ms (signal: killed)", nil},
		"not there":          {"", "spawn", "start /nonexistent/worker: ", nil},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := shell(c.script)
			if c.script == "" {
				cfg.Command = []string{"/nonexistent/worker"}
			}
			if c.cause == "load_timeout" {
				cfg.StartTimeout = 600 * time.Millisecond
			}
			h := runWith(t, func(s *Supervisor) {
				s.backoffFirst = time.Hour
				if strings.HasPrefix(c.detail, "no handshake") {
					s.handshakeTimeout = 300 * time.Millisecond
				}
			}, cfg)
			exit := h.lastExit()
			if exit.Cause != c.cause || !strings.HasPrefix(exit.Detail, c.detail) || c.stderr != nil && !slices.Equal(exit.Stderr, c.stderr) {
				t.Errorf("last exit %q, %q, %q", exit.Cause, exit.Detail, exit.Stderr)
			}
			if w := h.worker("test", 0); w.State != "backoff" || w.PID != 0 {
				t.Errorf("status %+v", w)
			}
		})
	}
}

// Whoever has to wait for a worker that will not come is told so, with its last words.
func TestFailedPoolRefusesRequests(t *testing.T) {
	// It fails once the test has queued a request.
	file := filepath.Join(t.TempDir(), "go")
	cfg := shell("while ! test -e $GO; do sleep 0.01; done; echo 'no such model: tiny' >&2; exit 3")
	cfg.Env = map[string]string{"GO": file}
	cfg.Workers = 2
	h := run(t, cfg)
	queued := []<-chan outcome{
		h.start(testContext(t), request(t, "test", "echo", nil)),
		h.start(testContext(t), request(t, "test", "sum", nil)),
	}
	h.busy(0, 2)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, q := range queued {
		wantCrashLoop(t, (<-q).err)
	}
	begin := time.Now()
	_, err := h.call(testContext(t), request(t, "test", "echo", nil))
	wantCrashLoop(t, err)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("refused after %v", took)
	}
	wantCrashLoop(t, h.WaitReady(testContext(t)))
	st := h.Status().Pools[0]
	if st.State != "failed" || st.Queued != 0 {
		t.Errorf("status %+v", st)
	}
	for _, w := range st.Workers {
		if w.State != "failed" || w.PID != 0 || w.Restarts != failedAfter-1 || w.LastExit.Cause != "exited" || !slices.Equal(w.LastExit.Stderr, []string{"no such model: tiny"}) {
			t.Errorf("worker %+v, last exit %+v", w, w.LastExit)
		}
	}
}

func wantCrashLoop(t *testing.T, err error) {
	t.Helper()
	e := wantError(t, err, ipc.Unavailable, "crash_loop")
	if e.RetryAfter < backoffMax/2 || e.RetryAfter > backoffMax || e.Details["cause"] != "exited" || e.Details["stderr"] != "no such model: tiny" || !strings.Contains(e.Message, "exit status 3") || !strings.Contains(e.Message, "no such model: tiny") {
		t.Errorf("%v, retry after %v", e, e.RetryAfter)
	}
}

// A failed slot is tried again after the longest backoff, and is well again once a process becomes ready.
func TestFailedPoolIsTriedAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "model")
	cfg := needsFile(t, file)
	h := runWith(t, func(s *Supervisor) { s.backoffMax = 20 * time.Millisecond }, cfg)
	h.await("test", "it to fail", func(p PoolStatus) bool { return p.State == "failed" })
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.allReady("test")
	h.must("echo", nil, nil)
}

// needsFile is a pool whose worker starts only if the file is there.
func needsFile(t *testing.T, file string) PoolConfig {
	cfg := shell(`test -e "$FILE" || { echo "$FILE is missing" >&2; exit 1; }; exec "$WORKER" worker --builtin echo`)
	cfg.Env = map[string]string{"FILE": file, "WORKER": testBinary(t)}
	return cfg
}

// Output of any length, on both pipes, goes to the log and holds nothing up; the last lines are kept.
func TestTalkativeWorker(t *testing.T) {
	cfg := shell(`for i in 1 2 3; do echo "warming up $i" >&2; done; head -c 300000 /dev/zero | tr '\0' y >&2; exec "$WORKER" worker --builtin echo`)
	cfg.Env = map[string]string{"WORKER": testBinary(t)}
	h := run(t, cfg).waitReady()
	h.must("print", 3<<20, nil)
	h.must("print", 100, nil)
	_, err := h.call(testContext(t), request(t, "test", "crash", nil))
	wantError(t, err, ipc.Aborted, "worker_lost")
	want := []string{
		"warming up 1", "warming up 2", "warming up 3",
		strings.Repeat("y", maxTailLine) + "…", // and all that follows in that line
		"the last line", strings.Repeat("x", 100), "the last line",
	}
	got := h.lastExit().Stderr
	if len(got) == len(want) && strings.HasPrefix(got[3], want[3][:maxTailLine]) {
		got[3] = want[3]
	}
	if !slices.Equal(got, want) {
		t.Errorf("the last lines are %.600q", got)
	}
}

func TestOnlyTheLastLinesAreKept(t *testing.T) {
	h := runWith(t, func(s *Supervisor) { s.backoffFirst = time.Hour }, shell("i=0; while test $i -lt 100; do echo line $i >&2; i=$((i+1)); done; printf '\\377half' >&2; exit 1"))
	got := h.lastExit().Stderr
	if len(got) != tailLines || got[0] != "line 61" || got[tailLines-1] != "\uFFFDhalf" {
		t.Errorf("kept %q", got)
	}
}

func TestWorkersEnvironment(t *testing.T) {
	notForWorkers := []string{"NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC"}
	for _, name := range notForWorkers {
		t.Setenv(name, "systemd's")
	}
	t.Setenv("PLUGIN_MIN_PORT", "1")
	t.Setenv("SOME_VARIABLE", "of the supervisor")
	t.Setenv("SECRET_VARIABLE", "of the supervisor")
	t.Setenv("OTHER_VARIABLE", "of the supervisor")
	cfg := builtin(1, 3)
	cfg.Env, cfg.EnvPass = map[string]string{"OTHER_VARIABLE": "of the pool"}, []string{"SOME_*"}
	h := run(t, cfg).waitReady()
	var got struct {
		PID int               `msgpack:"pid"`
		Env map[string]string `msgpack:"env"`
		FDs map[string]string `msgpack:"fds"`
	}
	names := append([]string{"SOME_VARIABLE", "SECRET_VARIABLE", "OTHER_VARIABLE", ipc.PoolVariable, ipc.SlotVariable, ipc.ConcurrencyVariable, ipc.MaxMessageVariable, ipc.VersionsVariable}, notForWorkers...)
	h.must("env", map[string][]string{"names": names}, &got)
	want := map[string]string{
		"SOME_VARIABLE": "of the supervisor", "OTHER_VARIABLE": "of the pool",
		ipc.PoolVariable: "test", ipc.SlotVariable: "0", ipc.ConcurrencyVariable: "3", ipc.MaxMessageVariable: "67108864", ipc.VersionsVariable: "1",
	}
	if len(got.Env) != len(want) {
		t.Errorf("environment %v", got.Env)
	}
	for name, v := range want {
		if got.Env[name] != v {
			t.Errorf("%s is %q, want %q", name, got.Env[name], v)
		}
	}
	if got.PID != h.worker("test", 0).PID {
		t.Errorf("pid %d, status says %d", got.PID, h.worker("test", 0).PID)
	}
	if got.FDs["0"] != "/dev/null" || !strings.HasPrefix(got.FDs["3"], "/memfd:ringmaster") || !strings.HasPrefix(got.FDs["4"], "socket:") {
		t.Errorf("files %v", got.FDs)
	}
	for fd, target := range got.FDs { // nothing of the supervisor's but what is meant for it
		ours, _ := os.Readlink("/proc/self/fd/" + fd) // what our own parent left open stays open
		if n := mustInt(fd); n > 4 && target != ours && !strings.HasPrefix(target, "anon_inode:") && !strings.HasPrefix(target, "/proc/") && !strings.HasPrefix(target, "/sys/fs/cgroup/") {
			t.Errorf("fd %s is %s", fd, target)
		}
	}
}
