package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/supervisor"
)

// A mistake in the file is the user's to correct: its line is printed as `serve` would print it, and nothing has changed.
func TestReloadRefusesBadFile(t *testing.T) {
	s := serve(t, echoPool)
	writeConfig(t, s.dir, "pools:\n  echo: {builtin: echo, workers: 0}\n  more: {builtin: eccho}\n")
	const want = "ringmaster: ringmaster.yaml:2:34: pools.echo.workers: 0: use a whole number, 1 or more\n"
	if r := s.run("reload"); r.code != exitUsage || r.out != "" || r.errOut != want {
		t.Errorf("got %+v, want %s", r, want)
	}
	writeConfig(t, s.dir, "pools:\n  more: {builtin: eccho}\n")
	r := s.run("reload", "--json")
	var got struct {
		Error struct{ Code, Reason, Message string }
	}
	if err := json.Unmarshal([]byte(r.errOut), &got); err != nil || r.code != exitUsage || got.Error.Code != "INVALID_ARGUMENT" || got.Error.Reason != "config" {
		t.Errorf("%+v, %v", r, err)
	}
	contains(t, "the message", got.Error.Message, "ringmaster.yaml:2:19: pools.more.builtin: eccho: there is no such builtin")
	if err := os.Remove(filepath.Join(s.dir, "ringmaster.yaml")); err != nil {
		t.Fatal(err)
	}
	if r := s.run("reload"); r.code != exitUsage {
		t.Errorf("without a file: %+v", r)
	} else {
		contains(t, "stderr", r.errOut, "ringmaster: configuration: open ringmaster.yaml: no such file or directory")
	}
	if r := s.run("call", "echo", "echo", "-d", "1"); r.code != 0 || len(s.status().Pools) != 1 {
		t.Errorf("after three reloads that failed: %+v", r)
	}
}

// What a reload changed, what it could not, and that the log's level counts at once.
func TestReload(t *testing.T) {
	s := serve(t, "pools: {echo: {builtin: echo}, old: {builtin: echo}}\n")
	worker := s.worker().PID
	writeConfig(t, s.dir, "max_message: 1MiB\nlog: {level: debug}\npools: {echo: {builtin: echo}, new: {builtin: echo}}\n")
	r := s.run("reload", "--json")
	var got supervisor.ReloadAnswer
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	for what, lists := range map[string][2][]string{
		"added": {got.Added, {"new"}}, "removed": {got.Removed, {"old"}}, "changed": {got.Changed, {}}, "unchanged": {got.Unchanged, {"echo"}}, "keys": {got.Keys, {"log.level"}}, "needs_restart": {got.NeedsRestart, {"max_message"}},
	} {
		if !slices.Equal(lists[0], lists[1]) || lists[0] == nil {
			t.Errorf("%s: %q, want %q", what, lists[0], lists[1])
		}
	}
	s.settle()
	if s.worker().PID != worker {
		t.Error("a worker of the pool that is unchanged was replaced")
	}
	if r := s.run("call", "new", "echo"); r.code != 0 {
		t.Errorf("the new pool: %+v", r)
	}
	s.logged("msg=reloaded", "keys=[max_message]", "msg=request pool=new")
	if r := s.run("reload"); r.code != 0 || r.out != "changed, but not before the server is started anew: max_message\n" {
		t.Errorf("again: %+v", r)
	}
}

// What only the links of the call chain go by is told as well, and no worker is replaced for it; what is cached stays.
func TestReloadTellsOfTheChain(t *testing.T) {
	const cached = "sessions: {}\npools: {echo: {builtin: echo, actions: {echo: {cache: {ttl: 10m}}}}, other: {builtin: echo}}\n"
	s := serve(t, cached)
	worker := s.worker().PID
	call := func() string { return s.run("call", "echo", "echo", "-d", "1", "--json").out }
	call()
	for _, step := range []struct{ yaml, want string }{
		{cached, "nothing has changed\n"},
		{strings.Replace(cached, "10m", "20m", 1), "changed: echo\n"},
		{strings.Replace(cached, "10m", "20m, stale: 1h", 1), "changed: echo\n"},
		{strings.Replace(cached, "other: {builtin: echo}", "other: {builtin: echo, session: {conversation: true}}", 1), "changed: echo, other\n"},
		{cached + "cache: {max_bytes: 64MiB}\nprefetch: {learn: true}\ntracing: {recent: 10}\nlog: {requests: true, level: debug}\n", "changed: other\nchanged keys: cache, log.level, log.requests, prefetch, tracing\n"},
		{cached, "changed keys: cache, log.level, log.requests, prefetch, tracing\n"},
		{cached + "auth: {owner: true}\n", "changed keys: auth\n"},
	} {
		writeConfig(t, s.dir, step.yaml)
		if r := s.run("reload"); r.code != 0 || r.out != step.want {
			t.Errorf("%s: %+v, want %s", step.yaml, r, step.want)
		}
		if answer := call(); !strings.Contains(step.yaml, "auth") { // by which users are others
			contains(t, "the answer after "+step.yaml, answer, `"cache":"hit"`)
		}
	}
	if s.worker().PID != worker {
		t.Error("the worker was replaced")
	}
	s.logged("these keys have changed, and count from now on", "keys=[auth]")
	writeConfig(t, s.dir, strings.Replace(cached, "{builtin", "{version: two, builtin", 1)+"auth: {owner: true}\n")
	if r := s.run("reload"); r.out != "changed: echo\n" {
		t.Errorf("another version: %+v", r)
	}
	contains(t, "the answer of another version", call(), `"cache":"miss"`)
}

// What runs after a reload is the new command, not the old one once more.
func TestReloadChangesCommand(t *testing.T) {
	yaml := func(flavour string) string {
		return "pools: {echo: {command: [sh, -c, 'FLAVOUR=" + flavour + " exec " + binary + " worker --builtin echo']}}\n"
	}
	s := serve(t, yaml("old"))
	writeConfig(t, s.dir, yaml("new"))
	if r := s.run("reload"); r.code != 0 || r.out != "changed: echo\n" {
		t.Fatalf("%+v", r)
	}
	contains(t, "the worker's environment", environ(t, s.worker().PID), "FLAVOUR=new\x00")
}

// A pool whose new workers do not come up goes on as it was, and the command says so.
func TestReloadKeepsPool(t *testing.T) {
	m := manage(t)
	s := serve(t, echoPool)
	worker := s.worker().PID
	writeConfig(t, s.dir, "pools: {echo: {command: ['false']}}\n")
	r := s.run("reload")
	if r.code != exitFailed || !strings.HasPrefix(r.out, "pool echo goes on as it was: ") {
		t.Errorf("%+v", r)
	}
	if s.worker().PID != worker {
		t.Error("the worker was replaced")
	}
	m.await("the news", func(msg message) bool {
		return strings.Contains(msg["STATUS"], "the last reload failed: pool echo goes on as it was: ")
	})
}

func TestNeedsRestart(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	read := func(yaml string) *settings {
		t.Helper()
		writeConfig(t, dir, yaml+"\npools: {a: {builtin: echo}}\n")
		s, err := (&app{}).settings(serveFlags{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	running := read("socket: a.sock\nlog: {level: info}")
	for yaml, want := range map[string][]string{
		"socket: a.sock\nlog: {level: debug, format: text}\ndrain_timeout: 30s":                                                                                         {},
		"socket: b.sock\nsocket_group: models\nmax_message: 1MiB\nlog: {format: json}\ndrain_timeout: 1m\nmemory: 1GiB\nclients: {connections: 3}\narenas: {client: 0}": {"arenas", "clients", "drain_timeout", "log.format", "max_message", "memory", "socket", "socket_group"},
		"socket: unix:///a.sock": {"socket"},
		"socket: a.sock\nsessions: {store: bbolt, path: s.db, ttl: 1h}": {"sessions.path", "sessions.store"},
	} {
		if got := needsRestart(running, read(yaml)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", yaml, got, want)
		}
	}
}

// The SIGHUP of a terminal that is closed ends the server in order; it is no request for a reload.
func TestHangup(t *testing.T) {
	dir := t.TempDir()
	ptmx, tty := terminal(t)
	s := beginServer(t, dir, echoPool, func(cmd *exec.Cmd) {
		cmd.Stdin, cmd.Stderr = tty, tty
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	})
	s.dial()
	s.settle()
	worker := s.worker().PID
	tty.Close()
	ptmx.Close()
	if code := s.wait(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if alive(worker) {
		t.Error("the worker is still there")
	}
}

// terminal makes a pseudo-terminal.
func terminal(t *testing.T) (ptmx, tty *os.File) {
	t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { ptmx.Close() })
	raw, err := ptmx.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := raw.Control(func(fd uintptr) {
		if n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN); err == nil {
			err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0)
		}
	}); err != nil || n < 0 {
		t.Fatal(err)
	}
	tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { tty.Close() })
	return ptmx, tty
}
