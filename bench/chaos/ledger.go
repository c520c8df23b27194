package chaos

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// ledger says how often each request was run.
type ledger struct {
	runs map[uint32][]uint8 // by series, by number; at most 255
}

// readLedger reads the file to which workers append a line for each run.
func readLedger(path string) (*ledger, error) {
	l := &ledger{runs: map[uint32][]uint8{}}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil // nothing was run
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for number := 1; lines.Scan(); number++ {
		nonce, _, _ := strings.Cut(lines.Text(), " ")
		n, err := parseNonce(nonce)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, number, err)
		}
		l.note(n)
	}
	return l, lines.Err()
}

func (l *ledger) note(n id) {
	list := l.runs[n.series()]
	for len(list) <= int(n.seq) {
		list = append(list, 0)
	}
	list[n.seq] = min(254, list[n.seq]) + 1
	l.runs[n.series()] = list
}

func (l *ledger) count(n id) int {
	if list := l.runs[n.series()]; int(n.seq) < len(list) {
		return int(list[n.seq])
	}
	return 0
}

// check holds the runs against the outcomes. Clients that were killed have none; their requests, too, are run at most so often.
func (l *ledger) check(t *Tally) (retried int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for series, list := range l.runs {
		for seq, runs := range list {
			n := id{uint16(series >> 8), class(series), uint32(seq)}
			if int(runs) > n.class.maxRuns() {
				t.broke("duplicated: %v was run %d times, may be %d", n, runs, n.class.maxRuns())
			}
			if runs == 2 {
				retried++
			}
		}
	}
	for series, list := range t.Fates {
		for seq, f := range list {
			n := id{uint16(series >> 8), class(series), uint32(seq)}
			switch runs := l.count(n); {
			case n.class != transform && n.class != stream && n.class != once && n.class != flood && n.class != hasty: // leaves no line
			case fate(f) == answered && runs == 0:
				t.broke("invented: %v was answered and never run", n)
			case fate(f) == turnedAway && runs > 0:
				t.broke("%v was refused and yet run %d times", n, runs)
			}
		}
	}
	return retried
}
