package supervisor

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// oomKills tells a worker that the kernel killed for want of memory from one that somebody else killed: both end by SIGKILL, but the kernel counts those that it kills, for each memory cgroup or at least for the machine. One count stands for
// one death; whoever asks first takes it.
type oomKills struct {
	mu   sync.Mutex
	seen map[string]uint64 // guarded by mu: of each file, what has been accounted for
}

// oomWatch is the count that goes with one process.
type oomWatch struct {
	kills *oomKills
	file  string // "" if there is none
}

// watch begins to watch over a process. What was killed before it has nothing to do with it.
func (k *oomKills) watch(pid int) *oomWatch {
	w := &oomWatch{kills: k, file: oomFile(pid)}
	k.note(w.file)
	return w
}

// note accounts for all that a file has counted.
func (k *oomKills) note(file string) {
	n := oomCount(file)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seen == nil {
		k.seen = map[string]uint64{}
	}
	k.seen[file] = n
}

// rose reports whether the kernel has killed somebody who is not accounted for, and accounts for it.
func (w *oomWatch) rose() bool {
	if w.file == "" {
		return false
	}
	n := oomCount(w.file)
	w.kills.mu.Lock()
	defer w.kills.mu.Unlock()
	if n <= w.kills.seen[w.file] {
		return false
	}
	w.kills.seen[w.file]++
	return true
}

// oomFile finds the file that counts the kernel's kills nearest to a process: of its memory cgroup, else of the machine.
func oomFile(pid int) string {
	if dir, err := cgroupOf(pid, "memory"); err == nil {
		if file := filepath.Join(dir, "memory.oom_control"); counts(file) {
			return file
		}
	}
	if dir, err := cgroupOf(pid, ""); err == nil { // the workers' own have no memory controller, one above may
		for ; len(dir) > len("/sys"); dir = filepath.Dir(dir) {
			if file := filepath.Join(dir, "memory.events"); counts(file) {
				return file
			}
		}
	}
	const machine = "/proc/vmstat"
	if counts(machine) {
		return machine
	}
	return ""
}

func counts(file string) bool {
	b, err := os.ReadFile(file)
	_, ok := oomLine(string(b))
	return err == nil && ok
}

func oomCount(file string) uint64 {
	b, _ := os.ReadFile(file)
	n, _ := oomLine(string(b))
	return n
}

// oomLine finds the line `oom_kill N`.
func oomLine(text string) (n uint64, ok bool) {
	for line := range strings.Lines(text) {
		if value, found := strings.CutPrefix(line, "oom_kill "); found {
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
