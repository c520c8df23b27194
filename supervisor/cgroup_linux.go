package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupPrefix begins the names of supervisors' cgroups; then follow the process's id, for people, and a random number.
const cgroupPrefix = "ringmaster."

// cgroups is the supervisor's own cgroup (v2) below the one that it runs in, with one for each worker process. They limit and count nothing: nothing that a worker starts can leave its cgroup as it can
// its process group, and the kernel kills all of one at a word. A nil *cgroups stands for a machine where we may make none.
type cgroups struct {
	dir  string   // immutable
	lock *os.File // the open directory, locked (flock) for as long as the supervisor lives: the kernel lets go of it however it ends
	next atomic.Uint64
}

// openCgroups makes the supervisor's cgroup, and clears away what supervisors left whose guard was killed with them.
func openCgroups(log *slog.Logger) *cgroups {
	parent, err := cgroupOf(os.Getpid(), "")
	if err != nil {
		log.Debug("no cgroups for workers", "error", err)
		return nil
	}
	return openCgroupsIn(parent, log)
}

func openCgroupsIn(parent string, log *slog.Logger) *cgroups {
	removeStale(parent)
	dir, err := os.MkdirTemp(parent, fmt.Sprintf("%s%d.*", cgroupPrefix, os.Getpid()))
	if err != nil {
		log.Debug("no cgroups for workers", "error", err)
		return nil
	}
	c := &cgroups{dir: dir}
	if _, err = os.Stat(filepath.Join(dir, "cgroup.kill")); err == nil { // Linux 5.14
		c.lock, err = lockCgroup(dir)
	}
	if err != nil {
		log.Debug("no cgroups for workers", "error", err)
		_ = os.Remove(dir)
		return nil
	}
	return c
}

// removeStale ends what is in the cgroups below parent that no living supervisor holds the lock of. A process's id would not do to tell: in another container's eyes ours means nothing, or somebody else.
func removeStale(parent string) {
	found, _ := filepath.Glob(filepath.Join(parent, cgroupPrefix+"*"))
	for _, dir := range found {
		if lock, err := lockCgroup(dir); err == nil {
			removeCgroups(dir)
			lock.Close()
		}
	}
}

// lockCgroup takes the lock on a supervisor's cgroup, or fails if somebody has it.
func lockCgroup(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// path returns the directory of the supervisor's cgroup, "" if there is none.
func (c *cgroups) path() string {
	if c == nil {
		return ""
	}
	return c.dir
}

// close removes the supervisor's cgroup. Preconditions: every worker's is removed.
func (c *cgroups) close() {
	if c != nil {
		removeCgroups(c.dir)
		c.lock.Close()
	}
}

// make returns a cgroup for one worker process, nil if there is none to be had.
func (c *cgroups) make() *cgroup {
	if c == nil {
		return nil
	}
	g := &cgroup{dir: filepath.Join(c.dir, "worker."+strconv.FormatUint(c.next.Add(1), 10))}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil
	}
	var err error
	if g.file, err = os.Open(g.dir); err != nil {
		_ = os.Remove(g.dir)
		return nil
	}
	return g
}

// cgroupRefused reports whether a process was not started because it was to be in a cgroup: clone3 is forbidden, or the cgroup takes nobody.
func cgroupRefused(err error) bool {
	for _, refusal := range []error{unix.ENOSYS, unix.EPERM, unix.EACCES, unix.EOPNOTSUPP, unix.EBUSY, unix.EINVAL, unix.ENODEV} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

// cgroup is one worker process's.
type cgroup struct {
	dir  string
	file *os.File // the open directory, until a process is in it
}

// remove kills whoever is left in the cgroup, and removes it.
func (g *cgroup) remove() { removeCgroups(g.dir) }

// removeCgroups kills all that is in a cgroup and below, waits for their end, though not long, and removes it.
func removeCgroups(dir string) {
	const patience = time.Second
	_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	deadline := time.Now().Add(patience)
	for populated(dir, time.Until(deadline)) && time.Now().Before(deadline) {
	}
	below, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
	for _, procs := range below {
		removeCgroups(filepath.Dir(procs))
	}
	_ = os.Remove(dir) // what could not be killed keeps it; the next start tries again
}

// populated reports whether a cgroup has a living process; if so it has waited for that to change.
func populated(dir string, patience time.Duration) bool {
	f, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 256)
	n, err := f.Read(b)
	if err != nil || !bytes.Contains(b[:n], []byte("populated 1")) {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
	_, _ = unix.Poll(fds, max(0, int(patience.Milliseconds())))
	return true
}

// cgroupOf returns the directory of the cgroup that a process is in: that of a version 1 controller, or of version 2 for "".
func cgroupOf(pid int, controller string) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	path, err := cgroupPath(string(b), controller)
	if err != nil {
		return "", err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	return cgroupMounted(string(mounts), controller, path)
}

// cgroupPath finds a hierarchy in the lines of /proc/PID/cgroup: 4:memory:/a/b, or 0::/a/b for version 2.
func cgroupPath(lines, controller string) (string, error) {
	for line := range strings.Lines(lines) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for name := range strings.SplitSeq(parts[1], ",") {
			if name == controller && (controller != "" || parts[0] == "0") {
				return parts[2], nil
			}
		}
	}
	return "", fmt.Errorf("no cgroup for %q", controller)
}

// cgroupMounted finds where a hierarchy's path is in the file system, from the lines of /proc/self/mountinfo.
func cgroupMounted(mounts, controller, path string) (string, error) {
	for line := range strings.Lines(mounts) {
		before, after, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		switch {
		case controller == "" && kind[0] == "cgroup2":
		case controller != "" && kind[0] == "cgroup" && namedIn(strings.Split(kind[2], ","), controller):
		default:
			continue
		}
		root := strings.TrimSuffix(fields[3], "/") // what of the hierarchy is mounted: a container may see a part
		below, ok := strings.CutPrefix(path, root)
		if !ok || below != "" && below[0] != '/' {
			below = ""
		}
		return filepath.Join(fields[4], below), nil
	}
	return "", fmt.Errorf("no cgroup hierarchy for %q is mounted", controller)
}
