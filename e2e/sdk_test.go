package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const sdk = `
pools:
  py: {command: ["${PYTHON}", "${ROOT}/e2e/testdata/worker.py"], workers: 2}
  echo: {builtin: echo, concurrency: 16}
`

func TestPythonApp(t *testing.T) {
	s := serve(t, sdk, "py", "echo")
	app := exec.Command(python, filepath.Join(root, "e2e", "testdata", "app.py"))
	app.Env = s.command().Env
	out, err := app.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "all good") {
		t.Errorf("%v\n%s", err, out)
	}
}

// The server is killed: a client that waits for an answer over rings is told at once.
func TestKilledServerEndsItsClientsCalls(t *testing.T) {
	for _, kind := range []string{"orphan", "orphan-aio"} {
		t.Run(kind, func(t *testing.T) {
			s := serve(t, sdk, "echo")
			app := exec.Command(python, filepath.Join(root, "e2e", "testdata", "app.py"), kind)
			app.Env = s.command().Env
			app.Stderr = os.Stderr
			out, err := app.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := app.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			lines.Scan()
			eventually(t, time.Minute, "the request to run", func() bool { return s.workers("echo")[0].InFlight == 1 })
			s.gone = true
			killed := time.Now()
			if err := unix.Kill(s.cmd.Process.Pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			<-s.ended
			var reason string
			var at float64
			lines.Scan()
			_, _ = fmt.Sscan(lines.Text(), &reason, &at)
			if after := time.Duration((at - float64(killed.UnixNano())/1e9) * 1e9); reason != "connection_lost" || after > time.Second {
				t.Errorf("%q after %v", lines.Text(), after)
			}
			if err := app.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// The supervisor is killed: no process of its tree is left after a second, be it a worker, a worker's child, a stopped worker, or the guard itself.
func TestKilledSupervisorLeavesNothing(t *testing.T) {
	s := serve(t, sdk, "py", "echo")
	for range 2 {
		if out, errs, code := s.output("call", "py", "child"); code != 0 {
			t.Fatal(out, errs)
		}
	}
	if err := unix.Kill(s.workers("py")[0].PID, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	tree := append(s.tree(), s.children()...) // the guard has an environment of its own
	if len(tree) < 7 {
		t.Fatalf("only %d processes in the tree", len(tree))
	}
	s.gone = true
	if err := unix.Kill(s.cmd.Process.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.ended
	eventually(t, time.Second, "its tree to end", func() bool { return !slices.ContainsFunc(tree, alive) })
}
