package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// oomLimit is how many bytes a memory cgroup has in tests.
const oomLimit = 256 << 20

// memCgroup is a memory cgroup of a test's own.
type memCgroup struct {
	t   *testing.T
	dir string
}

// memoryCgroup makes a memory cgroup, of version 1 or 2, or skips the test.
func memoryCgroup(t *testing.T, limit int) memCgroup {
	t.Helper()
	limits := []string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"}
	parent, err := cgroupOf(os.Getpid(), "memory")
	if err != nil {
		limits = []string{"memory.max", "memory.swap.max"}
		if parent, err = cgroupOf(os.Getpid(), ""); err != nil {
			t.Skipf("no cgroups: %v", err)
		}
		// A cgroup that has processes passes no controllers on; the one above it may.
		parent = filepath.Dir(parent)
	}
	c := memCgroup{t, filepath.Join(parent, fmt.Sprintf("ringmaster-test-%d", os.Getpid()))}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		t.Skipf("this test needs a memory cgroup, which only root may make on most machines: %v", err)
	}
	t.Cleanup(func() {
		eventually(t, "the cgroup to be empty", func() bool { return os.Remove(c.dir) == nil })
	})
	if err := os.WriteFile(filepath.Join(c.dir, limits[0]), []byte(strconv.Itoa(limit)), 0); err != nil {
		t.Skipf("this test needs a memory cgroup with a limit: %v", err)
	}
	swap := strconv.Itoa(limit)
	if limits[0] == "memory.max" {
		swap = "0"
	}
	_ = os.WriteFile(filepath.Join(c.dir, limits[1]), []byte(swap), 0) // not there where swap is not accounted for
	return c
}

// enter moves a process into the cgroup.
func (c memCgroup) enter(pid int) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		c.t.Skipf("the cgroup takes no process: %v", err)
	}
}

// A worker that the kernel killed for want of memory is told from one that somebody killed.
func TestOutOfMemory(t *testing.T) {
	limited := memoryCgroup(t, oomLimit)
	// It goes into the cgroup before it becomes a worker; the supervisor looks which cgroup a process is in when it begins and again after the handshake.
	cfg := shell(`echo $$ >"$PROCS" && exec "$WORKER" worker --builtin echo`)
	cfg.Env = map[string]string{"PROCS": filepath.Join(limited.dir, "cgroup.procs"), "WORKER": testBinary(t)}
	h := run(t, cfg).waitReady()
	pid := h.worker("test", 0).PID
	_, err := h.call(testContext(t), request(t, "test", "swell", 4*oomLimit))
	if err == nil || !strings.Contains(err.Error(), "oom_killed") {
		t.Errorf("%v does not say why the worker died", err)
	}
	exit := h.lastExit()
	if exit.Cause != "oom_killed" || !strings.HasPrefix(exit.Detail, "signal: killed") {
		t.Errorf("last exit %+v", exit)
	}
	h.await("test", "a restart", func(p PoolStatus) bool { return p.Workers[0].PID != pid && p.Workers[0].State == "ready" })
	pid = h.worker("test", 0).PID
	kill(t, pid, 9)
	st := h.await("test", "another", func(p PoolStatus) bool { return p.Workers[0].PID != pid && p.Workers[0].State == "ready" })
	if exit := st.Workers[0].LastExit; exit.Cause != "signal" || exit.Detail != "signal: killed" {
		t.Errorf("killed by the test: %+v", exit)
	}
}

func TestOOMLine(t *testing.T) {
	for text, want := range map[string]uint64{
		"oom_kill_disable 0\nunder_oom 0\noom_kill 7\n":                        7,
		"low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n":         2,
		"nr_free_pages 1\noom_kill 18446744073709551615\nnuma_pte_updates 0\n": 1<<64 - 1,
		"low 0\nhigh 0\nmax 12\noom 3\n":                                       0,
		"oom_kill x\n":                                                         0,
		"":                                                                     0,
	} {
		if got, ok := oomLine(text); got != want || ok != (want > 0) {
			t.Errorf("%q: %d, %v", text, got, ok)
		}
	}
}

// One count stands for one death, and what was before a process was started for none.
func TestOOMCounts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "memory.events")
	count := func(n int) {
		if err := os.WriteFile(file, fmt.Appendf(nil, "oom 9\noom_kill %d\n", n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	count(5)
	kills := oomKills{}
	kills.note(file)
	a, b := &oomWatch{&kills, file}, &oomWatch{&kills, file}
	if a.rose() {
		t.Error("nobody was killed")
	}
	count(6)
	if !b.rose() || a.rose() {
		t.Error("one was killed")
	}
	count(8)
	if !b.rose() || !a.rose() || a.rose() {
		t.Error("two were killed")
	}
	count(9)
	kills.note(file)
	if a.rose() {
		t.Error("that one had nothing to do with a process that was started later")
	}
	if (&oomWatch{}).rose() {
		t.Error("nobody counts")
	}
}

func TestCgroupPaths(t *testing.T) {
	const lines = "9:name=systemd:/\n5:cpu,cpuacct:/b\n4:memory:/docker/abc\n0::/user.slice/a:b\n"
	for controller, want := range map[string]string{"memory": "/docker/abc", "cpuacct": "/b", "": "/user.slice/a:b"} {
		if got, err := cgroupPath(lines, controller); got != want || err != nil {
			t.Errorf("%q: %q, %v", controller, got, err)
		}
	}
	for _, controller := range []string{"pids", "mem"} {
		if got, err := cgroupPath(lines, controller); err == nil {
			t.Errorf("%q: %q", controller, got)
		}
	}
	const mounts = `24 30 0:22 / /proc rw - proc proc rw
30 23 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
36 30 0:33 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
`
	for _, c := range []struct{ controller, path, want string }{
		{"", "/", "/sys/fs/cgroup"},
		{"", "/a/b", "/sys/fs/cgroup/a/b"},
		{"memory", "/docker/abc", "/sys/fs/cgroup/memory"},
		{"memory", "/docker/abc/d", "/sys/fs/cgroup/memory/d"},
		{"memory", "/docker/abcd", "/sys/fs/cgroup/memory"},
	} {
		if got, err := cgroupMounted(mounts, c.controller, c.path); got != c.want || err != nil {
			t.Errorf("%q %s: %q, %v; want %s", c.controller, c.path, got, err, c.want)
		}
	}
	if got, err := cgroupMounted(mounts, "cpu", "/"); err == nil {
		t.Errorf("cpu: %q", got)
	}
}
