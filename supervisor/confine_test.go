package supervisor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/internal/cpulist"
)

// startings are the ways to start a worker: as it is, and by way of the shim.
var startings = map[string]map[string]uint64{"plain": nil, "by the shim": {"nofile": 512}}

// statusLine is a line of /proc/PID/status.
func statusLine(t *testing.T, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	t.Fatalf("no line %s in\n%s", name, b)
	return ""
}

// limit is the soft and the hard limit of a process, as /proc/PID/limits names it.
func limit(t *testing.T, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + name + ` +(\S+) +(\S+)`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("no limit %s in\n%s", name, b)
	}
	return string(m[1]) + " " + string(m[2])
}

// Whatever descriptors the supervisor was left by its parent, or has from a library that is not careful, a worker has six.
func TestWorkerHasSixDescriptors(t *testing.T) {
	null, err := unix.Open("/dev/null", unix.O_RDONLY, 0) // without O_CLOEXEC
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(null)
	const high = 700 // beyond the shim's limit, too
	if err := unix.Dup3(null, high, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(high)
	for name, rlimits := range startings {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "fds")
			cfg := shell(`ls /proc/self/fd >"$FILE"; exec "$WORKER" worker --builtin echo`)
			cfg.Env = map[string]string{"FILE": file, "WORKER": testBinary(t)}
			cfg.Rlimits = rlimits
			run(t, cfg).waitReady()
			fds, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(strings.Fields(string(fds)), " "); got != "0 1 2 3 4 5 6" { // 6 is ls's own
				t.Errorf("descriptors %s", got)
			}
		})
	}
}

// A worker cannot gain privileges, leaves no core file, and dies with its supervisor: its main thread has a PDEATHSIG.
func TestEveryWorkerIsConfined(t *testing.T) {
	before := childsNoNewPrivs(t)
	for name, rlimits := range startings {
		t.Run(name, func(t *testing.T) {
			cfg := builtin(1, 1)
			cfg.Rlimits = rlimits
			h := run(t, cfg).waitReady()
			pid := h.worker("test", 0).PID
			if got := statusLine(t, pid, "NoNewPrivs"); got != "1" {
				t.Errorf("NoNewPrivs %s", got)
			}
			if got := limit(t, pid, "Max core file size"); got != "0 0" {
				t.Errorf("core file size %s", got)
			}
			var self struct {
				PID         int `msgpack:"pid"`
				DeathSignal int `msgpack:"death_signal"`
			}
			h.must("self", nil, &self)
			if self.PID != pid || self.DeathSignal != int(unix.SIGKILL) {
				t.Errorf("the worker says %+v of itself, its pid is %d", self, pid)
			}
		})
	}
	if after := childsNoNewPrivs(t); after != before {
		t.Errorf("NoNewPrivs of what the supervisor's own program starts was %s and is %s", before, after)
	}
}

// childsNoNewPrivs is what a program has that this process starts, but not as a worker.
func childsNoNewPrivs(t *testing.T) string {
	out, err := exec.Command("grep", "NoNewPrivs", "/proc/self/status").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestRlimits(t *testing.T) {
	cfg := builtin(1, 1)
	cfg.Rlimits = map[string]uint64{"nofile": 300, "core": 4096, "as": 1 << 42, "data": 1 << 41, "fsize": 1 << 30, "memlock": 64 << 10, "nproc": 12345, "stack": 4 << 20}
	h := run(t, cfg).waitReady()
	pid := h.worker("test", 0).PID
	for name, want := range map[string]uint64{
		"Max open files": 300, "Max core file size": 4096, "Max address space": 1 << 42, "Max data size": 1 << 41, "Max file size": 1 << 30, "Max locked memory": 64 << 10, "Max processes": 12345, "Max stack size": 4 << 20,
	} {
		if got := limit(t, pid, name); got != fmt.Sprintf("%d %d", want, want) {
			t.Errorf("%s: %s, want %d", name, got, want)
		}
	}
	h.must("echo", nil, nil)
}

// What a worker without the key has is what the supervisor itself was started with.
func TestLimitsAreLeftAlone(t *testing.T) {
	want := limit(t, os.Getppid(), "Max open files") // the Go runtime has raised our own
	for name, rlimits := range map[string]map[string]uint64{"plain": nil, "by the shim": {"memlock": 64 << 10}} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "limits")
			cfg := shell(`{ ulimit -Sn; ulimit -Hn; } >"$FILE"; exec "$WORKER" worker --builtin echo`)
			cfg.Env = map[string]string{"FILE": file, "WORKER": testBinary(t)}
			cfg.Rlimits = rlimits
			run(t, cfg).waitReady()
			b, _ := os.ReadFile(file)
			if got := strings.Join(strings.Fields(string(b)), " "); got != want {
				t.Errorf("open files: %s, want %s", got, want)
			}
		})
	}
}

func TestCPUs(t *testing.T) {
	online, err := onlineCPUs()
	if err != nil || len(online) == 0 {
		t.Fatalf("CPUs %v: %v", online, err)
	}
	cpu := online[len(online)-1]
	bound, free := builtin(1, 1), builtin(1, 1)
	bound.Name, bound.CPUs = "bound", []int{cpu}
	h := run(t, bound, free).waitReady()
	if got := statusLine(t, h.worker("bound", 0).PID, "Cpus_allowed_list"); got != strconv.Itoa(cpu) {
		t.Errorf("bound to %s, want %d", got, cpu)
	}
	if got, want := statusLine(t, h.worker("test", 0).PID, "Cpus_allowed_list"), statusLine(t, os.Getpid(), "Cpus_allowed_list"); got != want {
		t.Errorf("the other runs on %s, want %s", got, want)
	}
}

// accessible is a directory that everybody may enter, with the test binary in it.
func accessible(t *testing.T) (dir, binary string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ringmaster")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	binary = filepath.Join(dir, "worker")
	from, err := os.Open(testBinary(t))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(binary, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(to.Close(), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return dir, binary
}

func needRoot(t *testing.T) {
	t.Helper()
	if !maySwitch() {
		t.Skip("only root may run workers as somebody else")
	}
}

func TestUserAndGroup(t *testing.T) {
	needRoot(t)
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	_, binary := accessible(t)
	for _, c := range []struct{ name, user, group, uid, gid, groups, home string }{
		{"a user", "nobody", "", nobody.Uid, nobody.Gid, nobody.Gid, nobody.HomeDir},
		{"a user and a group", "nobody", "4321", nobody.Uid, "4321", nobody.Gid, nobody.HomeDir},
		{"a number", "54321", "", "54321", "54321", "54321", "/"},
		{"a group", "", "4321", "0", "4321", "", os.Getenv("HOME")},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := PoolConfig{Name: "test", Command: []string{binary, "worker", "--builtin", "echo"}, User: c.user, Group: c.group, Dir: "/"}
			h := run(t, cfg).waitReady()
			pid := h.worker("test", 0).PID
			four := func(id string) string { return strings.Join([]string{id, id, id, id}, " ") }
			if got := statusLine(t, pid, "Uid"); got != four(c.uid) {
				t.Errorf("uid %s, want %s", got, c.uid)
			}
			if got := statusLine(t, pid, "Gid"); got != four(c.gid) {
				t.Errorf("gid %s, want %s", got, c.gid)
			}
			if got := statusLine(t, pid, "Groups"); c.user != "" && got != c.groups {
				t.Errorf("groups %s, want %s", got, c.groups)
			}
			if got := statusLine(t, pid, "CapEff"); c.user != "" && strings.Trim(got, "0") != "" {
				t.Errorf("capabilities %s", got)
			}
			var self struct {
				DeathSignal int `msgpack:"death_signal"`
			}
			h.must("self", nil, &self)
			if self.DeathSignal != int(unix.SIGKILL) {
				t.Errorf("PDEATHSIG is %d", self.DeathSignal)
			}
			var got struct {
				Env map[string]string `msgpack:"env"`
			}
			h.must("env", map[string][]string{"names": {"HOME", "USER", "LOGNAME"}}, &got)
			if got.Env["HOME"] != c.home || c.user != "" && got.Env["USER"] != c.user {
				t.Errorf("environment %q, want home %s", got.Env, c.home)
			}
		})
	}
}

// What goes wrong in the shim is told as what goes wrong without it.
func TestConfinedWorkersThatDoNotStart(t *testing.T) {
	dir, _ := accessible(t)
	private := filepath.Join(dir, "private")
	if err := os.WriteFile(private, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		program, user string
		rlimits       map[string]uint64
		detail        string
	}{
		"not there":         {"/nonexistent/worker", "", map[string]uint64{"nofile": 512}, "start /nonexistent/worker: exec /nonexistent/worker: no such file or directory"},
		"not in PATH":       {"no-such-worker", "", map[string]uint64{"nofile": 512}, `start no-such-worker: exec: "no-such-worker": executable file not found in $PATH`},
		"not a program":     {"/etc/passwd", "", map[string]uint64{"nofile": 512}, "start /etc/passwd: exec /etc/passwd: permission denied"},
		"not for this user": {private, "nobody", nil, "start " + private + ": exec " + private + ": permission denied"},
		"beyond the limit":  {"/bin/true", "", map[string]uint64{"nofile": 1 << 40}, "start /bin/true: set rlimits.nofile to 1099511627776: operation not permitted; the supervisor's own limit is"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.user != "" {
				needRoot(t)
			}
			cfg := PoolConfig{Name: "test", Command: []string{c.program}, User: c.user, Rlimits: c.rlimits, Dir: "/"}
			h := run(t, cfg)
			h.await("test", "it to fail", func(p PoolStatus) bool { return p.Workers[0].LastExit != nil })
			if exit := h.lastExit(); exit.Cause != "spawn" || !strings.HasPrefix(exit.Detail, c.detail) {
				t.Errorf("last exit %+v, want %s", exit, c.detail)
			}
		})
	}
}

func TestConfinementThatCannotBe(t *testing.T) {
	online, err := onlineCPUs()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*PoolConfig)
		want   string
	}{
		{func(p *PoolConfig) { p.User = "no-such-user" }, "pools.test.user: no-such-user: there is no such user on this machine; create it, or give another's name or number"},
		{func(p *PoolConfig) { p.Group = "no-such-group" }, "pools.test.group: no-such-group: there is no such group on this machine; create it, or give another's name or number"},
		{func(p *PoolConfig) { p.CPUs = []int{0, 1023} }, "pools.test.cpus: 1023: this machine's CPUs are " + cpulist.Format(online)},
		{func(p *PoolConfig) { p.CPUs = []int{-1} }, "pools.test.cpus: -1: CPUs have numbers from 0 to 1023"},
		{func(p *PoolConfig) { p.Rlimits = map[string]uint64{"files": 1} }, "pools.test.rlimits: files: there is no such limit; use as, core, data, fsize, memlock, nofile, nproc, stack"},
		{func(p *PoolConfig) { p.Rlimits = map[string]uint64{"nofile": 3} }, "pools.test.rlimits.nofile: 3: use 16 or more; the worker's pipes and memory take six"},
		{func(p *PoolConfig) { p.EnvPass = []string{"A=B"} }, `pools.test.env_pass: "A=B": use a variable's name, the beginning of names as in MODEL_*, or * for all`},
	} {
		p := builtin(1, 1)
		c.change(&p)
		_, err := New(Config{Pools: []PoolConfig{p}, Executable: testBinary(t)})
		var field *FieldError
		if !errors.As(err, &field) || err.Error() != c.want {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
	if !maySwitch() {
		p := builtin(1, 1)
		p.User = "root"
		const want = "pools.test.user: root: only root may run workers as somebody else; run `ringmaster serve` as root, or remove the key"
		if _, err := New(Config{Pools: []PoolConfig{p}, Executable: testBinary(t)}); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	for name, change := range map[string]func(*PoolConfig){
		"rlimits": func(p *PoolConfig) { p.Rlimits = map[string]uint64{"nofile": 512} },
		"user":    func(p *PoolConfig) { p.User = "root" },
		"group":   func(p *PoolConfig) { p.Group = "0" },
	} {
		p := PoolConfig{Name: "test", Command: []string{"worker"}}
		change(&p)
		_, err := New(Config{Pools: []PoolConfig{p}})
		var field *FieldError
		if !errors.As(err, &field) || field.Field != name || field.Want != "it needs Config.Executable, a ringmaster binary" {
			t.Errorf("%s without an executable: %v", name, err)
		}
	}
}

// As whom we run already, anybody may run a worker.
func TestOwnAccount(t *testing.T) {
	for _, c := range []struct{ user, group string }{{"", ""}, {"", strconv.Itoa(os.Getegid())}} {
		if a, err := lookupAccount(c.user, c.group); a != nil || err != nil {
			t.Errorf("%q: %+v, %v", c, a, err)
		}
	}
	if _, err := lookupAccount("no-such-user", ""); err == nil {
		t.Error("there is such a user")
	}
}
