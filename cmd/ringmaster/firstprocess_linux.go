package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// passedOn are the signals that a container's first process hands to the server.
var passedOn = []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2}

// underInit makes a command run beneath a process that does what a container's first process has to, if this one is it: the kernel gives it every orphan, and one that nobody waits for is a zombie for as
// long as the container runs. That is no work for the server itself: it waits for the processes that it started, one by one, and would not know whose the others are.
func underInit(run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	if os.Getpid() != 1 {
		return run
	}
	return func(*cobra.Command, []string) error { return beInit() }
}

// beInit starts this program again, hands signals on to it and waits for whoever ends, until it ends itself; its exit status is ours.
func beInit() error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program's own file: %w", err)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, passedOn...)
	attr := &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}}
	if isTerminal(os.Stdin) { // or a Ctrl-C would reach it twice, from the terminal and from us
		attr.Sys = &syscall.SysProcAttr{Setpgid: true, Foreground: true}
	}
	server, err := os.StartProcess(exe, os.Args, attr)
	if err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	ended := make(chan struct{})
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		for {
			select {
			case s := <-signals:
				_ = server.Signal(s)
			case <-ended:
				return
			}
		}
	}()
	status, err := reapUntil(server.Pid)
	close(ended)
	<-passed
	signal.Stop(signals)
	switch {
	case err != nil:
		return err
	case status.Signaled():
		return silently(128 + int(status.Signal()))
	case status.ExitStatus() != 0:
		return silently(status.ExitStatus())
	}
	return nil
}

// reapUntil waits for every child that ends, until the one with this pid does.
func reapUntil(pid int) (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		ended, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for the server: %w", err)
		case ended == pid:
			return status, nil
		}
	}
}
