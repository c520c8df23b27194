package supervisor

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	gpusEvery  = 2 * time.Second // how old a measurement of the GPUs may be
	gpusAbsent = time.Minute     // after how long nvidia-smi is looked for again
)

// gpuMeter tells how the machine's GPUs are, by asking nvidia-smi, as vramMeter does.
type gpuMeter struct {
	mu     sync.Mutex
	next   time.Time         // guarded by mu: when they are measured anew, if somebody asks
	asking bool              // guarded by mu
	gpus   []GPU             // guarded by mu; what it points to is immutable
	launch func(func()) bool // starts a goroutine; set before the first use
}

// look returns the GPUs as of the last measurement, and has them measured anew if that was long ago.
func (m *gpuMeter) look() []GPU {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.asking && time.Now().After(m.next) {
		m.asking = m.launch(m.measure)
	}
	return m.gpus
}

func (m *gpuMeter) measure() {
	ctx, cancel := context.WithTimeout(context.Background(), vramTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nvidia-smi", "--query-gpu=index,name,utilization.gpu,memory.used,memory.total,temperature.gpu", "--format=csv,noheader,nounits")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	pause := gpusEvery
	if errors.Is(err, exec.ErrNotFound) {
		pause = gpusAbsent
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gpus, m.next, m.asking = parseGPUs(out), time.Now().Add(pause), false
}

// parseGPUs reads nvidia-smi's lines, one for each GPU. A number that it does not know, as in "[N/A]", is 0; a line without an index is skipped.
func parseGPUs(out []byte) []GPU {
	lines := csv.NewReader(bytes.NewReader(out))
	lines.FieldsPerRecord, lines.TrimLeadingSpace, lines.LazyQuotes = -1, true, true
	var gpus []GPU
	for {
		f, err := lines.Read()
		if err != nil {
			return gpus
		}
		if len(f) < 6 {
			continue
		}
		number := func(i int) int {
			n, err := strconv.ParseUint(strings.TrimSpace(f[i]), 10, 44)
			if err != nil {
				return 0
			}
			return int(n)
		}
		if _, err := strconv.ParseUint(strings.TrimSpace(f[0]), 10, 16); err != nil {
			continue
		}
		gpus = append(gpus, GPU{
			Index: number(0), Name: strings.TrimSpace(f[1]), BusyPercent: number(2), MemoryUsed: uint64(number(3)) << 20, MemoryTotal: uint64(number(4)) << 20, TemperatureC: number(5),
		})
	}
}
