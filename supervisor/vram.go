package supervisor

import (
	"bufio"
	"bytes"
	"context"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	vramEvery   = 5 * time.Second  // how old a measurement may be
	vramTimeout = 10 * time.Second // for one
)

// vramMeter measures how much GPU memory processes use, by asking nvidia-smi. It knows nothing where there is none, or where that shows no processes (in a container without the host's pids).
type vramMeter struct {
	mu      sync.Mutex
	at      time.Time         // guarded by mu: of the last measurement
	asking  bool              // guarded by mu
	byGroup map[int]uint64    // guarded by mu: bytes by process group
	launch  func(func()) bool // starts a goroutine; set before the first use
	every   time.Duration     // how old a measurement may be; likewise
}

// of returns the bytes that a process group uses, as of the last measurement, and has them measured anew if that was long ago.
func (m *vramMeter) of(pgid int) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.asking && time.Since(m.at) > m.every {
		m.asking = m.launch(m.measure)
	}
	return m.byGroup[pgid]
}

func (m *vramMeter) measure() {
	ctx, cancel := context.WithTimeout(context.Background(), vramTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nvidia-smi", "--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits")
	cmd.WaitDelay = time.Second
	out, _ := cmd.Output() // without the tool, or a driver, there is nothing to know
	groups := map[int]uint64{}
	for pid, used := range parseComputeApps(out) {
		if pgid, err := unix.Getpgid(pid); err == nil {
			groups[pgid] += used
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byGroup, m.at, m.asking = groups, time.Now(), false
}

// parseComputeApps reads nvidia-smi's lines, "pid, MiB", one for each process and device, into bytes by pid. A memory of "[N/A]" is skipped.
func parseComputeApps(out []byte) map[int]uint64 {
	used := map[int]uint64{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		pid, mib, ok := strings.Cut(lines.Text(), ",")
		p, err1 := strconv.Atoi(strings.TrimSpace(pid))
		m, err2 := strconv.ParseUint(strings.TrimSpace(mib), 10, 44)
		if ok && err1 == nil && err2 == nil && p > 0 {
			used[p] += m << 20
		}
	}
	return used
}
