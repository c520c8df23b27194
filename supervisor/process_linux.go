package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/internal/cpulist"
)

// workerIDKey is the variable that gives each worker process, and all that it starts, an id of its own: MARK.NUMBER. A worker has no use for it; we find its descendants by it.
const workerIDKey = "RINGMASTER_WORKER_ID"

// pipeGrace is how long a dead worker's pipes are still read. A grandchild may hold their other ends open for ever.
const pipeGrace = 500 * time.Millisecond

// spawner starts processes from one thread that lives as long as they do: the kernel sends PDEATHSIG when the thread that spawned a child ends, not
// its process (golang.org/issue/27505). What else a child inherits from a thread is set on it as well: no_new_privs for good, the CPUs for one spawn at a time.
type spawner struct {
	executable string   // a ringmaster binary, "" if there is none
	cgroups    *cgroups // nil if there are none to be had
	mark       string   // begins the id of every worker of ours, and of nobody else's
	oom        oomKills // what is known of the kernel's
	next       atomic.Uint64

	requests chan spawnRequest
	done     chan struct{}
}

type spawnRequest struct {
	cmd  *exec.Cmd
	cpus []int // nil: wherever we may run
	err  chan<- error
}

func startSpawner(executable string, cgroups *cgroups, mark string) *spawner {
	s := &spawner{executable: executable, cgroups: cgroups, mark: mark, requests: make(chan spawnRequest), done: make(chan struct{})}
	go s.run()
	return s
}

func (s *spawner) run() {
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	defer close(s.done)
	noNewPrivs := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	for r := range s.requests {
		if noNewPrivs != nil {
			r.err <- fmt.Errorf("set no_new_privs: %w", noNewPrivs)
			continue
		}
		r.err <- startOn(r.cmd, r.cpus)
	}
}

// startOn starts a process with nothing of ours but what it is given, bound to these CPUs. Preconditions: the calling goroutine is locked to its thread.
func startOn(cmd *exec.Cmd, cpus []int) error {
	// Those that we were started with, or that some library opened, may lack the flag.
	if err := closeOnExec(3); err != nil {
		return err
	}
	if len(cpus) == 0 {
		return cmd.Start()
	}
	var usual, wanted unix.CPUSet
	if err := unix.SchedGetaffinity(0, &usual); err != nil {
		return fmt.Errorf("ask for our CPUs: %w", err)
	}
	for _, cpu := range cpus {
		wanted.Set(cpu)
	}
	if err := unix.SchedSetaffinity(0, &wanted); err != nil {
		return fmt.Errorf("bind to cpus %s: %w; this process's cpuset may not have them", cpulist.Format(cpus), err)
	}
	err := cmd.Start()
	if failed := unix.SchedSetaffinity(0, &usual); failed != nil && err == nil {
		return fmt.Errorf("return to our CPUs: %w", failed) // cannot be: we came from there
	}
	return err
}

func (s *spawner) start(cmd *exec.Cmd, cpus []int) error {
	err := make(chan error, 1)
	s.requests <- spawnRequest{cmd, cpus, err}
	return <-err
}

// stop ends the thread. Preconditions: every process it started is dead, and nobody calls start again.
func (s *spawner) stop() {
	close(s.requests)
	<-s.done
}

// process is one worker process and what it leads: a process group, and a cgroup where there are any.
//
// wait alone reaps it, once; until then the pid and the group's id cannot be given to anybody else, so signals reach whom they are meant for.
type process struct {
	cmd            *exec.Cmd
	pid            int
	pidfd          *os.File
	stdout, stderr *os.File // our ends of its pipes
	family         family
	oomKills       *oomKills
	oom            atomic.Pointer[oomWatch]

	exited    chan struct{} // closed when dead and reaped
	status    string        // how it ended, e.g. "signal: killed"; set before exited is closed
	oomKilled bool          // by the kernel, for want of memory; likewise
}

// command says what to start.
type command struct {
	argv, env []string
	dir       string
	files     []*os.File  // fds 3 and up
	confine   *PoolConfig // the pool, which says how its workers are confined
}

// spawn starts a worker, as the leader of a process group that dies with us.
func (s *spawner) spawn(c command) (_ *process, err error) {
	var opened []*os.File
	defer func() {
		if err != nil {
			for _, f := range opened {
				f.Close()
			}
		}
	}()
	pipe := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err == nil {
			opened = append(opened, r, w)
		}
		return r, w, err
	}
	outR, outW, err := pipe()
	if err != nil {
		return nil, err
	}
	errR, errW, err := pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(c.argv[0], c.argv[1:]...)
	id := fmt.Sprintf("%s.%d", s.mark, s.next.Add(1))
	cmd.Env, cmd.Dir = slices.Concat(c.env, []string{workerIDKey + "=" + id}), c.dir
	cmd.Stdout, cmd.Stderr = outW, errW
	cmd.ExtraFiles = c.files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	confinement, err := newConfinement(c.confine)
	if err != nil {
		return nil, err
	}
	var report, reportW *os.File
	if confinement != nil {
		if report, reportW, err = pipe(); err != nil {
			return nil, err
		}
		if err := confinement.wrap(cmd, s.executable); err != nil {
			return nil, err
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, reportW)
	}
	p := &process{cmd: cmd, stdout: outR, stderr: errR, family: family{id: id}, oomKills: &s.oom, exited: make(chan struct{})}
	if err := s.startIn(p, c.confine.CPUs); err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	outW.Close()
	errW.Close()
	fd, err := unix.PidfdOpen(p.pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		p.abandon()
		return nil, fmt.Errorf("pidfd_open: %w", err)
	}
	p.pidfd = os.NewFile(uintptr(fd), "pidfd")
	p.family.begin(p.pid)
	p.watchMemory()
	if confinement == nil {
		p.limitCore(c.confine)
		return p, nil
	}
	reportW.Close()
	if err := awaitShim(report); err != nil {
		p.abandon()
		p.pidfd.Close()
		return nil, err
	}
	report.Close()
	return p, nil
}

// startIn starts the process in a cgroup of its own if there are cgroups to be had, and the kernel lets us.
func (s *spawner) startIn(p *process, cpus []int) error {
	group := s.cgroups.make()
	if group == nil {
		return s.start(p.cmd, cpus)
	}
	p.cmd.SysProcAttr.UseCgroupFD, p.cmd.SysProcAttr.CgroupFD = true, int(group.file.Fd())
	err := s.start(p.cmd, cpus)
	group.file.Close()
	if err == nil {
		p.family.group = group
		return nil
	}
	group.remove()
	if !cgroupRefused(err) {
		return err
	}
	again := exec.Command(p.cmd.Path)
	again.Path, again.Args, again.Env, again.Dir, again.Err = p.cmd.Path, p.cmd.Args, p.cmd.Env, p.cmd.Dir, p.cmd.Err
	again.Stdout, again.Stderr, again.ExtraFiles, again.SysProcAttr = p.cmd.Stdout, p.cmd.Stderr, p.cmd.ExtraFiles, p.cmd.SysProcAttr
	again.SysProcAttr.UseCgroupFD = false
	p.cmd = again
	return s.start(p.cmd, cpus)
}

// limitCore forbids core files, which can be as large as a GPU's memory, unless the pool says otherwise. That it happens a moment after the start hurts nobody, so no shim is needed for it.
func (p *process) limitCore(cfg *PoolConfig) {
	if _, given := cfg.Rlimits["core"]; !given {
		_ = unix.Prlimit(p.pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil) // an error means that it is dead
	}
}

// watchMemory looks where the kernel counts the processes of this one's kind that it kills for want of memory. It is called at the spawn, and again after the handshake: programs such as
// systemd-run move themselves to another cgroup before they become the worker. Preconditions: the process has not been reaped.
func (p *process) watchMemory() { p.oom.Store(p.oomKills.watch(p.pid)) }

// abandon ends a process that did not become a worker.
func (p *process) abandon() {
	_ = unix.Kill(-p.pid, unix.SIGKILL)
	p.family.end()
	_ = p.cmd.Wait()
}

// wait waits for the death of the process, kills what is left of its group and of its other descendants, reaps it and closes exited.
func (p *process) wait() {
	p.awaitDeath()
	_ = unix.Kill(-p.pid, unix.SIGKILL)
	err := p.cmd.Wait()
	p.status = "exit status 0"
	if err != nil {
		p.status = err.Error()
	}
	if killed(p.cmd.ProcessState) && p.oom.Load().rose() {
		p.oomKilled = true
		p.status += "; the kernel was out of memory, or of the cgroup's"
	}
	p.family.end()
	deadline := time.Now().Add(pipeGrace)
	_ = p.stdout.SetReadDeadline(deadline)
	_ = p.stderr.SetReadDeadline(deadline)
	p.pidfd.Close()
	close(p.exited)
}

// awaitDeath parks on the netpoller until the pidfd fires; the process stays a zombie.
func (p *process) awaitDeath() {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return // cmd.Wait then blocks a thread instead
	}
	_ = conn.Read(func(fd uintptr) bool {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PIDFD, int(fd), &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			return false
		}
		return err != nil || info.Signo != 0
	})
}

// signal sends sig to the process through its pidfd; it is not an error if it is dead.
func (p *process) signal(sig unix.Signal) {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { _ = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
}

// killed reports whether SIGKILL ended a process.
func killed(state *os.ProcessState) bool {
	status, ok := state.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// kill ends the process; wait then ends the rest of its group.
func (p *process) kill() { p.signal(unix.SIGKILL) }
