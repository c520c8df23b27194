package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// handOver has a command find descriptors as systemd hands them over: from 3 on, with the process's own id in LISTEN_PID.
func handOver(files ...*os.File) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		script := fmt.Sprintf(`LISTEN_PID=$$ LISTEN_FDS=%d LISTEN_FDNAMES=ringmaster.socket exec "$0" "$@"`, len(files))
		cmd.Args = append([]string{"sh", "-c", script}, cmd.Args...)
		cmd.Path = "/bin/sh"
		cmd.ExtraFiles = files
	}
}

// socketUnit makes a socket as ringmaster.socket does.
func socketUnit(t *testing.T, dir string) *os.File {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "rm.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ln.SetUnlinkOnClose(false)
	f, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// The socket is there before the server: who connects waits, for the server and for its model. It outlives the server, and the next one serves it again.
func TestSocketActivation(t *testing.T) {
	m, dir := manage(t), t.TempDir()
	socket := socketUnit(t, dir)
	yaml, load := slowPool(t, dir)

	early := &server{t: t, dir: dir, socket: filepath.Join(dir, "rm.sock")}
	call := early.begin("call", "slow", "echo", "--timeout", "1m")
	eventually(t, "the early client to connect", func() bool { return waiting(t, socket) })

	s := beginServer(t, dir, "socket_group: nobody\n"+yaml, handOver(socket))
	s.dial()
	eventually(t, "the early request to wait for the model", func() bool { return s.status().Pools[0].Queued == 1 })
	load()
	m.awaitVariable("READY", "1")
	if code := exitCode(t, call.Wait()); code != 0 {
		t.Errorf("the early request ended with %d", code)
	}
	worker := s.worker().PID
	for _, name := range []string{"LISTEN_PID=", "LISTEN_FDS=", "LISTEN_FDNAMES="} {
		if strings.Contains(environ(t, worker), name) {
			t.Errorf("the worker's environment has %s", name)
		}
	}
	if inode := inodeOf(t, "/proc/self/fd/"+fmt.Sprint(fdOf(t, socket))); strings.Contains(strings.Join(openFiles(t, worker), " "), inode) {
		t.Error("the worker has the server's socket")
	}
	s.terminate()
	s.logged("took over the socket that systemd made", "socket_group has no effect on a socket that systemd made")

	call = early.begin("call", "slow", "echo", "--timeout", "1m") // the file is still there, and so is the queue before it
	eventually(t, "the client in between to connect", func() bool { return waiting(t, socket) })
	s = beginServer(t, dir, yaml, handOver(socket))
	s.dial()
	if code := exitCode(t, call.Wait()); code != 0 {
		t.Errorf("the request between two servers ended with %d", code)
	}
	s.terminate()
}

func TestSocketActivationRefuses(t *testing.T) {
	dir := t.TempDir()
	first := socketUnit(t, dir)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	for _, tt := range []struct {
		files []*os.File
		want  string
	}{
		{[]*os.File{first, first}, "ringmaster: systemd handed over 2 sockets (ringmaster.socket, LISTEN_FD_4), and a server has one; leave one ListenStream= in ringmaster.socket\n"},
		{[]*os.File{theirs}, "ringmaster: inherited socket ringmaster.socket: it does not listen: it may be a connection; use Accept=no\n"},
	} {
		s := beginServer(t, dir, echoPool, handOver(tt.files...))
		if code := s.wait(); code != exitFailed || s.log.String() != tt.want {
			t.Errorf("exit status %d, %q; want %q", code, s.log, tt.want)
		}
	}
}

// waiting reports whether a client waits to be accepted.
func waiting(t *testing.T, socket *os.File) bool {
	t.Helper()
	raw, err := socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := raw.Control(func(fd uintptr) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	}); err != nil {
		t.Fatal(err)
	}
	return n == 1
}

func fdOf(t *testing.T, f *os.File) (n uintptr) {
	t.Helper()
	raw, err := f.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { n = fd })
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// inodeOf is what an open file's link in /proc says, such as socket:[123].
func inodeOf(t *testing.T, link string) string {
	t.Helper()
	target, err := os.Readlink(link)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// openFiles lists what a process has open.
func openFiles(t *testing.T, pid int) (list []string) {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(links) == 0 {
		t.Fatalf("the files of %d: %v, %v", pid, links, err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil {
			list = append(list, target)
		}
	}
	return list
}

// environ is a process's environment.
func environ(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil || len(b) == 0 {
		t.Fatalf("the environment of %d: %q, %v", pid, b, err)
	}
	return string(b)
}

// processState is a process's state as ps shows it.
func processState(t *testing.T, pid int) byte {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return after[0]
}

// writeConfig puts a configuration where servers in dir look for it.
func writeConfig(t *testing.T, dir, yaml string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "ringmaster.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
}
