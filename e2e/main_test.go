package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/client"
)

// What TestMain found or made.
var (
	root   string // the repository
	binary string // bin/ringmaster
	python string // a Python that has the SDK and the model
)

// TestMain makes what the tests need, unless `make` has done so already.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		os.Exit(serveTestWorker())
	}
	var err error
	if root, err = filepath.Abs(".."); err != nil {
		panic(err)
	}
	binary = filepath.Join(root, "bin", "ringmaster")
	if python = os.Getenv("RINGMASTER_TEST_PYTHON"); python == "" {
		python = filepath.Join(root, ".venv", "bin", "python")
		prepare := exec.Command("make", "-C", root, "build", "py")
		prepare.Stdout, prepare.Stderr = os.Stderr, os.Stderr
		if err := prepare.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "make build py:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// server is a running `ringmaster serve`.
type server struct {
	t      testing.TB
	cmd    *exec.Cmd
	socket string
	marker string // in the environment of every process of its tree
	log    *record
	ended  chan error
	gone   bool
}

// serve starts the binary on a configuration, waits until the named pools are healthy, and checks at the end of the test that it leaves nothing behind.
func serve(t testing.TB, config string, pools ...string) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "rm") // not t.TempDir: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := filepath.Join(dir, "ringmaster.yaml")
	if err := os.WriteFile(file, []byte(os.Expand(config, func(name string) string {
		return map[string]string{"PYTHON": python, "ROOT": root, "SELF": os.Args[0]}[name]
	})), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, socket: filepath.Join(dir, "s.sock"), marker: "RINGMASTER_E2E=" + filepath.Base(dir), log: &record{}, ended: make(chan error, 1)}
	s.cmd = exec.Command(binary, "serve", "--config", file, "--socket", s.socket)
	s.cmd.Dir = root
	s.cmd.Env = append(os.Environ(), s.marker, "SMOLLM2_THREADS=1")
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.ended <- s.cmd.Wait() }()
	t.Cleanup(s.stop)
	for _, pool := range pools {
		eventually(t, 3*time.Minute, pool+" to be healthy", func() bool {
			select {
			case err := <-s.ended:
				s.gone = true
				t.Fatalf("the server ended: %v\n%s", err, s.log)
			default:
			}
			return s.command("health", pool).Run() == nil
		})
	}
	return s
}

// record is what a process prints, to be looked at while it does.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func (s *server) stop() {
	if !s.gone {
		s.gone = true
		_ = s.cmd.Process.Signal(unix.SIGTERM)
		if err := <-s.ended; err != nil {
			s.t.Errorf("the server ended with %v", err)
		}
	}
	if left := s.tree(); len(left) > 0 {
		s.t.Errorf("processes left: %v", left)
	}
	if s.t.Failed() {
		s.t.Logf("the server's log:\n%s", s.log)
	}
}

// command is one of the binary's, towards this server.
func (s *server) command(args ...string) *exec.Cmd {
	c := exec.Command(binary, args...)
	c.Env = append(os.Environ(), "RINGMASTER_SOCKET="+s.socket)
	return c
}

// output runs a command and returns what it printed and its exit code.
func (s *server) output(args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	var out, errs bytes.Buffer
	c := s.command(args...)
	c.Stdout, c.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := c.Run(); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}

// status is the part of `status --json` that the tests look at.
type status struct {
	Pools []struct {
		Name    string
		State   string
		Workers []worker
	}
}

type worker struct {
	PID      int
	State    string
	InFlight int `json:"in_flight"`
	Restarts int
	LastExit *struct {
		Cause, Detail string
		Stderr        []string
	} `json:"last_exit"`
}

func (s *server) workers(pool string) []worker {
	s.t.Helper()
	out, errs, code := s.output("status", "--json")
	var st status
	if err := json.Unmarshal([]byte(out), &st); err != nil || code != 0 {
		s.t.Fatalf("status --json: exit %d, %v\n%s%s", code, err, out, errs)
	}
	for _, p := range st.Pools {
		if p.Name == pool {
			return p.Workers
		}
	}
	s.t.Fatalf("no pool %s in %s", pool, out)
	return nil
}

func (s *server) dial() *client.Client {
	s.t.Helper()
	c, err := client.Dial(testContext(s.t), client.WithAddress(s.socket))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// tree lists the live processes that carry the server's marker.
func (s *server) tree() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		s.t.Fatal(err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ")) // a zombie's is empty
		for kv := range bytes.SplitSeq(env, []byte{0}) {
			if string(kv) == s.marker {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// children lists the server's own children.
func (s *server) children() []int {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	var pids []int
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		for field := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// alive reports whether a process exists and is no zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(b, []byte(") "))
	return len(rest) > 0 && rest[0] != 'Z' && rest[0] != 'X'
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// eventually looks every few milliseconds until ok.
func eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited %v for %s", limit, what)
		}
	}
}

func question(text string) string {
	b, err := json.Marshal(map[string]any{"messages": []map[string]string{{"role": "user", "content": text}}})
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(b))
}
