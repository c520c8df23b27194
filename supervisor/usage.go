package supervisor

import (
	"time"

	psutil "github.com/shirou/gopsutil/v3/process"
)

// measure fills in what the kernel says of a worker's process. A process that is gone has zeros.
func measure(w *WorkerStatus) {
	if w.PID == 0 {
		return
	}
	p := processOf(w.PID)
	if m, err := p.MemoryInfo(); err == nil {
		w.RSSBytes = m.RSS
	}
	if n, err := p.NumFDs(); err == nil {
		w.FDs = int(n)
	}
	if t, err := p.Times(); err == nil && w.UptimeS > 0 {
		w.CPUPercent = 100 * (t.User + t.System) / max(w.UptimeS, time.Millisecond.Seconds())
	}
}

// residentBytes is a process's resident set, 0 if it is gone.
func residentBytes(pid int) uint64 {
	m, err := processOf(pid).MemoryInfo()
	if err != nil {
		return 0
	}
	return m.RSS
}

// processOf is psutil.NewProcess without its look whether the process exists: that opens a pidfd which only the garbage collector closes.
func processOf(pid int) *psutil.Process { return &psutil.Process{Pid: int32(pid)} }
