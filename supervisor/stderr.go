package supervisor

import (
	"bufio"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

const (
	maxLogLine  = 8 << 10 // bytes of one line that are logged; the rest of it is dropped
	tailLines   = 40      // last lines kept for status: enough for where the threads of a worker that hangs are
	maxTailLine = 512     // bytes of each, and of whatever else a worker says about itself
)

// outputLog takes a worker's free text line by line: into the log, and the last lines into memory for status.
type outputLog struct {
	log *slog.Logger // immutable

	mu   sync.Mutex
	tail []string // guarded by mu
}

// copyFrom reads r to its end. Lines of any length pass; nothing a worker prints can block it or grow us.
func (o *outputLog) copyFrom(r io.Reader) {
	br := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, more, err := br.ReadLine()
		if len(line) > 0 {
			o.add(strings.ToValidUTF8(string(line), "�"))
		}
		for more && err == nil {
			_, more, err = br.ReadLine()
		}
		if err != nil {
			return
		}
	}
}

func (o *outputLog) add(line string) {
	o.log.Info(line)
	line = clip(line)
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.tail) == tailLines {
		o.tail = slices.Delete(o.tail, 0, 1)
	}
	o.tail = append(o.tail, line)
}

// clip shortens what a worker said to what the status keeps of it.
func clip(s string) string {
	if len(s) <= maxTailLine {
		return s
	}
	return strings.ToValidUTF8(s[:maxTailLine], "") + "…"
}

func (o *outputLog) last() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.tail)
}
