package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ringmaster")
	if err != nil {
		log.Fatal(err)
	}
	binary = filepath.Join(dir, "ringmaster")
	if out, err := exec.Command("go", "build", fmt.Sprintf("-race=%v", raceFlag), "-o", binary, ".").CombinedOutput(); err != nil {
		log.Fatalf("go build: %v\n%s", err, out)
	}
	for _, name := range []string{"RINGMASTER_SOCKET", "RINGMASTER_TOKEN", "RINGMASTER_CONFIG", "RINGMASTER_LOG_LEVEL", "RINGMASTER_LOG_FORMAT", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"} {
		_ = os.Unsetenv(name)
	}
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0") // an exit takes a second otherwise
	code := m.Run()
	if left := processes(); len(left) > 0 && !vanish(processes) {
		fmt.Fprintln(os.Stderr, "processes were left behind:", processes())
		code = max(code, 1)
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// patience is how long a test waits for what must happen before it fails.
const patience = 30 * time.Second

// processes lists the processes that run the binary under test.
func processes() []string {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	var found []string
	for _, link := range links {
		if exe, err := os.Readlink(link); err == nil && strings.TrimSuffix(exe, " (deleted)") == binary {
			cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(link), "cmdline"))
			found = append(found, filepath.Base(filepath.Dir(link))+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return found
}

// vanish waits until a list is empty.
func vanish(list func() []string) bool {
	return poll(func() bool { return len(list()) == 0 })
}

// poll waits until a condition holds that other processes make true.
func poll(ok func() bool) bool {
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			return false
		}
		<-tick.C
	}
	return true
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if !poll(ok) {
		t.Fatalf("waited in vain: %s", what)
	}
}

// result is what a finished command line left.
type result struct {
	code        int
	out, errOut string
}

// ringmaster runs a command line in dir to its end.
func ringmaster(t *testing.T, dir, stdin string, args ...string) result {
	t.Helper()
	p := command(dir, args...)
	p.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	p.Stdout, p.Stderr = &out, &errOut
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(patience, func() { _ = p.Process.Kill() })
	defer kill.Stop()
	return result{exitCode(t, p.Wait()), out.String(), errOut.String()}
}

func command(dir string, args ...string) *exec.Cmd {
	p := exec.Command(binary, args...)
	p.Dir = dir
	return p
}

// exitCode is a process's exit status, or 128 + the signal that ended it, as a shell tells it.
func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &exit):
		t.Fatal(err)
	}
	if w := exit.Sys().(syscall.WaitStatus); w.Signaled() {
		return 128 + int(w.Signal())
	}
	return exit.ExitCode()
}

// server is a running `ringmaster serve`.
type server struct {
	t      *testing.T
	dir    string // where it runs; ringmaster.yaml and rm.sock are there
	socket string
	cmd    *exec.Cmd
	log    *output
	wait   func() int // waits for its end and returns the exit status
	client *client.Client
}

// output gathers what a process writes.
type output struct {
	mu sync.Mutex
	b  []byte
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.b = append(o.b, p...)
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.b)
}

// serve starts a server and waits until all its pools have settled. The test's end stops it and checks that it ended well.
func serve(t *testing.T, yaml string, args ...string) *server {
	t.Helper()
	s := startServer(t, t.TempDir(), yaml, args...)
	s.settle()
	t.Cleanup(func() {
		s.signal(syscall.SIGTERM)
		if code := s.wait(); code != 0 {
			t.Errorf("serve exited with %d:\n%s", code, s.log)
		}
		if _, err := os.Lstat(s.socket); !errors.Is(err, os.ErrNotExist) {
			t.Error("the socket was left behind")
		}
	})
	return s
}

// startServer starts a server in dir and waits until it answers.
func startServer(t *testing.T, dir, yaml string, args ...string) *server {
	t.Helper()
	s := beginServer(t, dir, yaml, func(*exec.Cmd) {}, args...)
	s.dial()
	return s
}

// beginServer starts a server in dir, by a command that change may change.
func beginServer(t *testing.T, dir, yaml string, change func(*exec.Cmd), args ...string) *server {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "ringmaster.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, dir: dir, socket: filepath.Join(dir, "rm.sock"), log: &output{}}
	s.cmd = command(dir, append([]string{"serve", "--socket", s.socket}, args...)...)
	s.cmd.Stderr = s.log
	change(s.cmd)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.wait = sync.OnceValue(func() int {
		kill := time.AfterFunc(patience, func() { _ = s.cmd.Process.Kill() })
		defer kill.Stop()
		return exitCode(t, s.cmd.Wait())
	})
	t.Cleanup(func() { // the last resort, if a test failed half way
		_ = s.cmd.Process.Kill()
		s.wait()
	})
	return s
}

// dial waits until the server answers.
func (s *server) dial() {
	s.t.Helper()
	eventually(s.t, "the server to answer", func() bool {
		c, err := client.Dial(context.Background(), client.WithAddress(s.socket))
		s.client = c
		return err == nil
	})
	s.t.Cleanup(func() { _ = s.client.Close() })
}

// settle waits until every pool is ready or has failed.
func (s *server) settle() {
	s.t.Helper()
	eventually(s.t, "the pools to settle", func() bool {
		for _, p := range s.status().Pools {
			ready := 0
			for _, w := range p.Workers {
				if w.State == "ready" {
					ready++
				}
			}
			if p.State != "failed" && ready < len(p.Workers) {
				return false
			}
		}
		return true
	})
}

func (s *server) status() supervisor.Status {
	s.t.Helper()
	var st supervisor.Status
	r, err := s.client.Call(context.Background(), supervisor.ControlPool, "status", nil)
	if err == nil {
		err = r.Decode(&st)
	}
	if err != nil {
		s.t.Fatalf("status: %v\n%s", err, s.log)
	}
	return st
}

// worker returns the first worker of the first pool.
func (s *server) worker() supervisor.WorkerStatus {
	s.t.Helper()
	return s.status().Pools[0].Workers[0]
}

func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Error(err)
	}
}

// run runs a command line against the server.
func (s *server) run(args ...string) result {
	s.t.Helper()
	return ringmaster(s.t, s.dir, "", append(args, "--socket", s.socket)...)
}

// logged waits until the log has each of wants: what the server writes comes through a pipe, and may come after whatever else shows that it was written.
func (s *server) logged(wants ...string) {
	s.t.Helper()
	poll(func() bool {
		return !slices.ContainsFunc(wants, func(want string) bool { return !strings.Contains(s.log.String(), want) })
	})
	contains(s.t, "the log", s.log.String(), wants...)
}

// begin starts a command line against the server.
func (s *server) begin(args ...string) *exec.Cmd {
	s.t.Helper()
	p := command(s.dir, append(args, "--socket", "unix://"+s.socket)...)
	p.Stdout, p.Stderr = io.Discard, io.Discard
	if err := p.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = p.Process.Kill()
		_ = p.Wait()
	})
	return p
}

// alive reports whether a process exists and is not a zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	_, after, _ := bytes.Cut(stat, []byte(") "))
	return len(after) > 0 && after[0] != 'Z'
}

func contains(t *testing.T, what, s string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(s, want) {
			t.Errorf("%s lacks %q:\n%s", what, want, s)
		}
	}
}
