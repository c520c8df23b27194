package chaos

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// holdings are what a process holds of its system.
type holdings struct {
	FDs        map[string]int // by what they are: socket, pipe, pidfd, a path
	Threads    int
	Maps       int
	MemfdMaps  int
	RSS        int64 // bytes
	Goroutines int   // as the process says
	Children   int
	Zombies    int
	Regions    int // arenas, as the process says
	Arenas     int // descriptors and mappings of arenas in its children
}

func (h *holdings) fds() int {
	n := 0
	for _, count := range h.FDs {
		n += count
	}
	return n
}

// holdingsOf looks at a process from outside. Goroutines and Regions are left 0.
func holdingsOf(pid int) (*holdings, error) {
	h := &holdings{FDs: map[string]int{}}
	dir := fmt.Sprintf("/proc/%d", pid)
	for _, target := range links(dir + "/fd") {
		h.FDs[descriptor(target)]++
	}
	maps, err := os.ReadFile(dir + "/maps")
	if err != nil {
		return nil, err
	}
	h.Maps = bytes.Count(maps, []byte("\n"))
	h.MemfdMaps = bytes.Count(maps, []byte("/memfd:"))
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch key {
		case "Threads":
			h.Threads = int(n)
		case "VmRSS":
			h.RSS = n << 10
		}
	}
	for _, p := range processes() {
		if p.parent == pid {
			h.Children++
			h.Arenas += arenasOf(p.pid)
			if p.state == "Z" {
				h.Zombies++
			}
		}
	}
	return h, nil
}

// arenasOf counts a process's descriptors and mappings of arenas.
func arenasOf(pid int) int {
	n := 0
	for _, target := range links(fmt.Sprintf("/proc/%d/fd", pid)) {
		if strings.HasPrefix(target, arenaFile) {
			n++
		}
	}
	maps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	return n + bytes.Count(maps, []byte(arenaFile))
}

// arenaFile is how the kernel calls an arena.
const arenaFile = "/memfd:ringmaster-arena"

// descriptor is what kind of thing a descriptor refers to, without the number that tells one from another.
func descriptor(target string) string {
	kind, _, _ := strings.Cut(target, ":[")
	return strings.TrimSuffix(kind, " (deleted)")
}

func links(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var targets []string
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil { // else it is closed by now
			targets = append(targets, target)
		}
	}
	return targets
}

// process is a line of /proc.
type process struct {
	pid, parent, session int
	state                string
	name                 string
}

func (p process) String() string { return fmt.Sprintf("%d %s (%s)", p.pid, p.name, p.state) }

func processes() []process {
	entries, _ := os.ReadDir("/proc")
	var all []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid pgrp session: the name may hold anything
		_, rest, _ := bytes.Cut(stat, []byte(" ("))
		end := bytes.LastIndexByte(rest, ')')
		if end < 0 {
			continue
		}
		fields := strings.Fields(string(rest[end+1:]))
		if len(fields) < 4 {
			continue
		}
		p := process{pid: pid, state: fields[0], name: string(rest[:end])}
		p.parent, _ = strconv.Atoi(fields[1])
		p.session, _ = strconv.Atoi(fields[3])
		all = append(all, p)
	}
	return all
}

// session lists the processes of a session, zombies included.
func session(id int) []process {
	return slices.DeleteFunc(processes(), func(p process) bool { return p.session != id })
}

// memfds returns the inodes of the segments that a process has open. The numbers are the kernel's, of one file system for all of them.
func memfds(pid int) map[uint64]bool {
	inodes := map[uint64]bool{}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if target, err := os.Readlink(path); err != nil || !strings.HasPrefix(target, "/memfd:ringmaster") {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			inodes[st.Ino] = true
		}
	}
	return inodes
}

// memfdUsers lists the processes that have one of these segments open or mapped.
func memfdUsers(inodes map[uint64]bool) []process {
	return slices.DeleteFunc(processes(), func(p process) bool {
		for inode := range memfds(p.pid) {
			if inodes[inode] {
				return false
			}
		}
		maps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.pid))
		for line := range strings.Lines(string(maps)) {
			fields := strings.Fields(line)
			if len(fields) > 5 && strings.HasPrefix(fields[5], "/memfd:ringmaster") {
				if inode, err := strconv.ParseUint(fields[4], 10, 64); err == nil && inodes[inode] {
					return false
				}
			}
		}
		return true
	})
}

// sharedMemory lists what there is in /dev/shm of this user's that was made since then and that nobody uses: what other programs work with is theirs.
func sharedMemory(since time.Time) []string {
	entries, _ := os.ReadDir("/dev/shm")
	if len(entries) == 0 {
		return nil
	}
	used := sharedMemoryInUse()
	var names []string
	for _, e := range entries {
		var st unix.Stat_t
		if used[e.Name()] || unix.Lstat(filepath.Join("/dev/shm", e.Name()), &st) != nil || int(st.Uid) != os.Getuid() || time.Unix(st.Ctim.Unix()).Before(since) {
			continue
		}
		names = append(names, e.Name())
	}
	return names
}

// sharedMemoryInUse returns the names in /dev/shm that any process has open or mapped.
func sharedMemoryInUse() map[string]bool {
	used := map[string]bool{}
	use := func(path string) {
		if name, ok := strings.CutPrefix(path, "/dev/shm/"); ok {
			used[name] = true
		}
	}
	for _, p := range processes() {
		maps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.pid))
		for line := range strings.Lines(string(maps)) {
			if fields := strings.Fields(line); len(fields) > 5 {
				use(fields[5])
			}
		}
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.pid))
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil {
				use(target)
			}
		}
	}
	return used
}
