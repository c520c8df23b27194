package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pipeGrace is how long a dead worker's pipes are still read. A grandchild may hold their other ends open for ever.
const pipeGrace = 500 * time.Millisecond

// spawner starts processes from one thread that lives as long as they do: the kernel sends PDEATHSIG when the thread that spawned a child ends, not
// its process (golang.org/issue/27505).
type spawner struct {
	requests chan spawnRequest
	done     chan struct{}
}

type spawnRequest struct {
	cmd *exec.Cmd
	err chan<- error
}

func startSpawner() *spawner {
	s := &spawner{requests: make(chan spawnRequest), done: make(chan struct{})}
	go s.run()
	return s
}

func (s *spawner) run() {
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	defer close(s.done)
	for r := range s.requests {
		r.err <- r.cmd.Start()
	}
}

func (s *spawner) start(cmd *exec.Cmd) error {
	err := make(chan error, 1)
	s.requests <- spawnRequest{cmd, err}
	return <-err
}

// stop ends the thread. Preconditions: every process it started is dead, and nobody calls start again.
func (s *spawner) stop() {
	close(s.requests)
	<-s.done
}

// process is one worker process and the process group it leads.
//
// wait alone reaps it, once; until then the pid and the group's id cannot be given to anybody else, so signals reach whom they are meant for.
type process struct {
	cmd            *exec.Cmd
	pid            int
	pidfd          *os.File
	stdout, stderr *os.File // our ends of its pipes

	exited chan struct{} // closed when dead and reaped
	status string        // how it ended, e.g. "signal: killed"; set before exited is closed
}

// spawn starts argv with the given files as fds 3 and up, as the leader of a process group that dies with us.
func spawn(s *spawner, argv, env []string, dir string, files []*os.File) (_ *process, err error) {
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
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = env, dir
	cmd.Stdout, cmd.Stderr = outW, errW
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := s.start(cmd); err != nil {
		return nil, err
	}
	outW.Close()
	errW.Close()
	p := &process{cmd: cmd, pid: cmd.Process.Pid, stdout: outR, stderr: errR, exited: make(chan struct{})}
	fd, err := unix.PidfdOpen(p.pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		_ = unix.Kill(-p.pid, unix.SIGKILL)
		_ = cmd.Wait()
		return nil, fmt.Errorf("pidfd_open: %w", err)
	}
	p.pidfd = os.NewFile(uintptr(fd), "pidfd")
	return p, nil
}

// wait waits for the death of the process, kills what is left of its group, reaps it and closes exited.
func (p *process) wait() {
	p.awaitDeath()
	_ = unix.Kill(-p.pid, unix.SIGKILL)
	err := p.cmd.Wait()
	p.status = "exit status 0"
	if err != nil {
		p.status = err.Error()
	}
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

// kill ends the process; wait then ends the rest of its group.
func (p *process) kill() { p.signal(unix.SIGKILL) }
