package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/bench/usage"
)

// process is one that says "ready", and ends with its standard input.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start starts a process and waits until it is ready. What it writes to its standard error goes to log, or is ours.
func start(ctx context.Context, log *os.File, env []string, command ...string) (*process, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Cancel = func() error {
		for _, pid := range usage.Tree(cmd.Process.Pid) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		return nil
	}
	cmd.Stderr = os.Stderr
	if log != nil {
		cmd.Stderr = log
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd, in, bufio.NewReader(out)}
	if err := awaitReady(p.out); err != nil {
		return nil, errors.Join(err, p.end())
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// end has the process end, and kills those of its children that have not ended with it.
func (p *process) end() error {
	var family []int // pidfds: a number alone may be somebody else's by then
	for _, pid := range usage.Tree(p.pid())[1:] {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			family = append(family, fd)
		}
	}
	p.in.Close()
	_, _ = io.Copy(io.Discard, p.out)
	err := p.cmd.Wait()
	for _, fd := range family {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000) // until it has ended: it must not write files while they are removed
		unix.Close(fd)
	}
	return err
}

// awaitReady waits for the line with which a process says that it is ready.
func awaitReady(out io.Reader) error {
	line := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, line); err != nil {
		return fmt.Errorf("a process ended before it was ready: %w", err)
	}
	if strings.TrimSpace(string(line)) != "ready" {
		return fmt.Errorf("a process said %q instead of being ready", line)
	}
	return nil
}
