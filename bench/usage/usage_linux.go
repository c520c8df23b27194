package usage

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what a set of processes has used since each began.
type Usage struct {
	CPU     time.Duration
	Sleeps  uint64        // times that a thread of theirs went to sleep: each is paid for with a wake-up
	Machine time.Duration // all that ran on this machine, theirs included, in the kernel's ticks
}

// Of adds up the processes.
func Of(pids ...int) (Usage, error) {
	var u Usage
	for _, pid := range pids {
		// The CPU clock of another process, as clock_getcpuclockid(3) makes it: in nanoseconds, threads that have ended included.
		var t unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
			return u, fmt.Errorf("CPU clock of process %d: %w", pid, err)
		}
		u.CPU += time.Duration(t.Nano())
		u.Sleeps += sleepsOf(pid)
	}
	var err error
	u.Machine, err = machineBusy()
	return u, err
}

// Since is what was used between v and u.
func (u Usage) Since(v Usage) Usage {
	return Usage{CPU: u.CPU - v.CPU, Sleeps: u.Sleeps - v.Sleeps, Machine: u.Machine - v.Machine}
}

// sleepsOf counts the voluntary context switches of a process's threads.
func sleepsOf(pid int) uint64 {
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

// Private is how many bytes of memory a process has for itself: what it shares with others, such as rings, is not counted.
func Private(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no RssAnon", pid)
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

// Tree returns a process and all its descendants, in no certain order but for the process itself, which comes first.
//
// It looks for parents in the whole of /proc. The kernel's own list of a thread's children is faster, but may leave some out while others come and go (proc(5)).
func Tree(pid int) []int {
	children := map[int][]int{}
	for _, name := range entries("/proc") {
		if p, err := strconv.Atoi(name); err == nil {
			parent := Parent(p)
			children[parent] = append(children[parent], p)
		}
	}
	pids := []int{pid}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children[pids[i]]...)
	}
	return pids
}

// Parent returns the process that started this one, or that has inherited it; 0 if there is none or the process has ended.
func Parent(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b[max(0, bytes.LastIndexByte(b, ')')):]), " ") // the name before it may hold anything
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
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

// LoadAverage is the machine's, over one, five and fifteen minutes.
func LoadAverage() string {
	b, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(b))
	return strings.Join(fields[:min(3, len(fields))], " ")
}
