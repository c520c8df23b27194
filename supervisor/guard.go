package supervisor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The guard is a small process that outlives a supervisor which was killed, by the few milliseconds it takes to kill what that one left behind: a worker dies with its supervisor by PDEATHSIG, but
// its own children (a data loader, a compiler) do not inherit that. The supervisor tells the guard through a pipe whom to look for; end of file on the pipe means
// that the supervisor is gone, however it went.
//
//	supervisor ──"+pgid" "-pgid" "mark …" "cgroup …"──▶ guard        end of file: SIGKILL to every group that is left, to the cgroup,
//	                                                                 and to everybody who carries the mark; then the cgroup is removed
//
// A guard that was killed is noticed, and another one takes its place.

// RunGuard is the guard's main, run as `EXECUTABLE guard` by the supervisor with the pipe as standard input.
func RunGuard(in io.Reader) {
	// It is not the terminal's or anybody's but the pipe's business when the guard ends.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	var left leftovers
	for lines := bufio.NewScanner(in); lines.Scan(); {
		left.heed(lines.Text())
	}
	left.remove()
}

// leftovers is what a supervisor would leave behind if it died now.
type leftovers struct {
	groups map[int]bool
	mark   string // of the workers' environments; "" if not known
	cgroup string // directory, "" if there is none
}

// heed takes one line of what the supervisor says. Nonsense is ignored.
func (l *leftovers) heed(line string) {
	if mark, ok := strings.CutPrefix(line, "mark "); ok {
		l.mark = mark
		return
	}
	if dir, ok := strings.CutPrefix(line, "cgroup "); ok {
		l.cgroup = dir
		return
	}
	if line == "" {
		return
	}
	pgid, err := strconv.Atoi(line[1:])
	if err != nil || pgid <= 1 {
		return
	}
	switch line[0] {
	case '+':
		if l.groups == nil {
			l.groups = map[int]bool{}
		}
		l.groups[pgid] = true
	case '-':
		delete(l.groups, pgid)
	}
}

// say is the lines that another leftovers would have to heed to know the same.
func (l *leftovers) say() []string {
	lines := []string{"mark " + l.mark}
	if l.cgroup != "" {
		lines = append(lines, "cgroup "+l.cgroup)
	}
	for pgid := range l.groups {
		lines = append(lines, fmt.Sprintf("+%d", pgid))
	}
	return lines
}

// remove kills them all.
func (l *leftovers) remove() {
	for pgid := range l.groups {
		_ = unix.Kill(-pgid, unix.SIGKILL)
	}
	if l.cgroup != "" {
		removeCgroups(l.cgroup)
	}
	if l.mark != "" { // last: it takes the longest
		killMarked(l.mark+".", 0)
	}
}

const (
	guardPatience = time.Second // for a guard to read what it is told; one that does not is replaced
	guardRetry    = time.Second // between the starts of guards that do not live long
)

// guard is the supervisor's side. One without an executable guards nothing.
type guard struct {
	executable string
	log        *slog.Logger

	mu      sync.Mutex
	left    leftovers // guarded by mu
	cmd     *exec.Cmd // guarded by mu
	pipe    *os.File  // guarded by mu; nil while there is no guard
	stopped bool      // guarded by mu

	end     chan struct{} // closed by stop
	watcher sync.WaitGroup
}

// startGuard starts a guard over what carries the mark, and over a cgroup unless that is "".
func startGuard(executable, mark, cgroup string, log *slog.Logger) (*guard, error) {
	g := &guard{executable: executable, log: log, left: leftovers{mark: mark, cgroup: cgroup}, end: make(chan struct{})}
	if executable == "" {
		return g, nil
	}
	if err := g.start(); err != nil {
		return nil, err
	}
	g.watcher.Go(g.watch)
	return g, nil
}

// start starts a guard process and tells it all there is to know.
func (g *guard) start() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := closeOnExec(3); err != nil {
		w.Close()
		return err
	}
	cmd := exec.Command(g.executable, "guard")
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		w.Close()
		return fmt.Errorf("start the guard: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cmd, g.pipe = cmd, w
	for _, line := range g.left.say() {
		g.write(line)
	}
	return nil
}

// watch replaces a guard that ends before it is told to.
func (g *guard) watch() {
	for {
		g.mu.Lock()
		cmd := g.cmd
		g.mu.Unlock()
		began := time.Now()
		_ = cmd.Wait()
		g.mu.Lock()
		stopped := g.stopped
		g.dropPipe()
		g.mu.Unlock()
		if stopped {
			return
		}
		g.log.Warn("the guard ended; another one takes its place", "how", cmd.ProcessState.String())
		for wait := time.Until(began.Add(guardRetry)); ; wait = guardRetry {
			select {
			case <-time.After(wait):
			case <-g.end:
				return
			}
			err := g.start()
			if err == nil {
				break
			}
			g.log.Error("there is no guard: a worker's children would outlive a supervisor that is killed", "error", err, "retry_in", guardRetry)
		}
	}
}

func (g *guard) add(pgid int)    { g.tell(fmt.Sprintf("+%d", pgid)) }
func (g *guard) remove(pgid int) { g.tell(fmt.Sprintf("-%d", pgid)) }

func (g *guard) tell(line string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left.heed(line)
	g.write(line)
}

// write says a line to the guard, if there is one. One that has stopped reading is killed, and so replaced. Preconditions: mu is held.
func (g *guard) write(line string) {
	if g.pipe == nil {
		return
	}
	_ = g.pipe.SetWriteDeadline(time.Now().Add(guardPatience))
	if _, err := g.pipe.WriteString(line + "\n"); errors.Is(err, os.ErrDeadlineExceeded) {
		_ = g.cmd.Process.Kill()
		g.dropPipe()
	}
}

// dropPipe closes the pipe. Preconditions: mu is held.
func (g *guard) dropPipe() {
	if g.pipe != nil {
		g.pipe.Close()
		g.pipe = nil
	}
}

// pid is the guard process's, 0 if there is none.
func (g *guard) pid() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pipe == nil {
		return 0
	}
	return g.cmd.Process.Pid
}

// stop ends the guard and reaps it. Preconditions: every worker is dead, with all that it started.
func (g *guard) stop() {
	close(g.end)
	g.mu.Lock()
	g.stopped = true
	g.left = leftovers{}
	g.write("mark ") // there is nothing to look for
	g.write("cgroup ")
	if g.pipe != nil { // a guard that is stopped (SIGSTOP) would not see the end of file
		_ = g.cmd.Process.Signal(syscall.SIGCONT)
	}
	g.dropPipe()
	g.mu.Unlock()
	g.watcher.Wait()
}
