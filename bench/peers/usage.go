package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// usage is what a set of processes has used since each began.
type usage struct {
	cpu      time.Duration
	switches uint64        // times that a thread of theirs went to sleep: each is paid for with a wake-up
	machine  time.Duration // all that ran on this machine, theirs included, in the kernel's ticks
}

// usageOf adds up the processes.
func usageOf(pids []int) (usage, error) {
	var u usage
	for _, pid := range pids {
		// The CPU clock of another process, as clock_getcpuclockid(3) makes it: in nanoseconds, threads that have ended included.
		var t unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
			return u, fmt.Errorf("CPU clock of process %d: %w", pid, err)
		}
		u.cpu += time.Duration(t.Nano())
		u.switches += switchesOf(pid)
	}
	var err error
	u.machine, err = machineBusy()
	return u, err
}

func (u usage) since(v usage) usage {
	return usage{cpu: u.cpu - v.cpu, switches: u.switches - v.switches, machine: u.machine - v.machine}
}

// switchesOf counts the voluntary context switches of a process's threads.
func switchesOf(pid int) uint64 {
	var sum uint64
	for _, tid := range entries(fmt.Sprintf("/proc/%d/task", pid)) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, tid))
		if err != nil {
			continue // the thread has ended
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				n, _ := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
				sum += n
			}
		}
	}
	return sum
}

// machineBusy is how long the processors have worked since boot, for anybody.
func machineBusy() (time.Duration, error) {
	f, err := os.Open("/proc/stat")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		return 0, err
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	var busy time.Duration
	for i, field := range strings.Fields(line)[1:] {
		const idle, ioWait, guest, guestNice = 3, 4, 8, 9 // the last two are contained in others
		if i == idle || i == ioWait || i == guest || i == guestNice {
			continue
		}
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		busy += time.Duration(n) * tick
	}
	return busy, nil
}

// tree returns a process and all its descendants.
func tree(pid int) []int {
	pids := []int{pid}
	for i := 0; i < len(pids); i++ {
		for _, tid := range entries(fmt.Sprintf("/proc/%d/task", pids[i])) {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pids[i], tid))
			if err != nil {
				continue
			}
			for _, child := range strings.Fields(string(b)) {
				if n, err := strconv.Atoi(child); err == nil {
					pids = append(pids, n)
				}
			}
		}
	}
	return pids
}

func entries(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	return names
}
