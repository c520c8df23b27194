package supervisor

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// The guard is a small process that outlives a supervisor which was killed, by the few milliseconds it takes to kill what that one left behind: a worker dies with its supervisor by PDEATHSIG, but
// its own children (a data loader, a compiler) do not inherit that. The supervisor tells the guard each process group's id through a pipe; end of file on the pipe means
// that the supervisor is gone.
//
//	supervisor ──"+pgid\n" "-pgid\n"──▶ guard        end of file: SIGKILL to every group that is left

// RunGuard is the guard's main, run as `EXECUTABLE guard` by the supervisor with the pipe as standard input.
func RunGuard(in io.Reader) {
	// It is not the terminal's or anybody's but the pipe's business when the guard ends.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	groups := map[int]bool{}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var op byte
		var pgid int
		if _, err := fmt.Sscanf(lines.Text(), "%c%d", &op, &pgid); err != nil || pgid <= 1 {
			continue
		}
		if op == '+' {
			groups[pgid] = true
		} else {
			delete(groups, pgid)
		}
	}
	for pgid := range groups {
		_ = unix.Kill(-pgid, unix.SIGKILL)
	}
}

// guard is the supervisor's side. The zero value guards nothing.
type guard struct {
	cmd *exec.Cmd

	mu   sync.Mutex
	pipe *os.File // guarded by mu
}

func startGuard(executable string) (*guard, error) {
	if executable == "" {
		return &guard{}, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command(executable, "guard")
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	return &guard{cmd: cmd, pipe: w}, nil
}

func (g *guard) add(pgid int)    { g.say('+', pgid) }
func (g *guard) remove(pgid int) { g.say('-', pgid) }

func (g *guard) say(op byte, pgid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pipe != nil {
		_, _ = fmt.Fprintf(g.pipe, "%c%d\n", op, pgid) // one write below PIPE_BUF: atomic. A guard that was killed guards no more, that is all
	}
}

// stop ends the guard and reaps it.
func (g *guard) stop() {
	g.mu.Lock()
	pipe := g.pipe
	g.pipe = nil
	g.mu.Unlock()
	if pipe != nil {
		pipe.Close()
		_ = g.cmd.Wait()
	}
}
