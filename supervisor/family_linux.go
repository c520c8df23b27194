package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// family is a worker process with all that it started, wherever those went: a child that called setsid is in no process group of ours any more. Where the worker has a cgroup, that is its family; where not,
// it is everybody who inherited the worker's id in its environment. The process group is killed besides, by process.wait.
type family struct {
	id    string
	group *cgroup // nil if there are no cgroups
	since uint64  // when the worker was started, in the kernel's ticks
}

// begin notes when the worker was started. Preconditions: pid is the worker's and not reaped.
func (f *family) begin(pid int) {
	if f.group == nil {
		f.since = startedAt(pid)
	}
}

// end kills whoever is left.
func (f *family) end() {
	if f.group != nil {
		f.group.remove()
		return
	}
	killMarked(f.id+"\x00", f.since)
}

// killMarked kills every process that has an environment in which workerIDKey's value begins with mark, and that was started at since or later. It looks again until it finds none, as they may go on forking, but
// not for ever: one that the kernel cannot end stays.
func killMarked(mark string, since uint64) {
	deadline := time.Now().Add(time.Second)
	for {
		found := marked(mark, since)
		if len(found) == 0 {
			return
		}
		for _, p := range found {
			_ = unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0)
		}
		for _, p := range found {
			fds := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
			_, _ = unix.Poll(fds, max(0, int(time.Until(deadline).Milliseconds())))
			unix.Close(p.pidfd)
		}
		if time.Now().After(deadline) {
			return
		}
	}
}

// stray is a process found by its environment.
type stray struct{ pid, pidfd int }

// marked finds the processes that carry a mark. Their environments are read after their pidfds were opened, so that nobody else can have taken the pid in between. Old processes are left alone, not only to be quick: the kernel may
// make us wait for the environment of one that hangs in a driver.
func marked(mark string, since uint64) []stray {
	want := []byte(workerIDKey + "=" + mark)
	var found []stray
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well-formed
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() || startedAt(pid) < since {
			continue
		}
		if !carries(dir, want) {
			continue
		}
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if !carries(dir, want) {
			unix.Close(pidfd)
			continue
		}
		found = append(found, stray{pid, pidfd})
	}
	return found
}

// carries reports whether a process's environment has a variable that begins so. A zombie has no environment.
func carries(dir string, want []byte) bool {
	env, err := os.ReadFile(filepath.Join(dir, "environ"))
	return err == nil && (bytes.HasPrefix(env, want) || bytes.Contains(env, append([]byte{0}, want...)))
}

// startedAt says when a process was started, in the kernel's ticks since boot; 0 if it is gone.
func startedAt(pid int) uint64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// Field 22; the second may hold anything between parentheses.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return 0
	}
	ticks, _ := strconv.ParseUint(fields[19], 10, 64)
	return ticks
}
