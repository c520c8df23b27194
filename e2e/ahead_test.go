package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const aheadPool = `
pools:
  line: {command: ["${PYTHON}", "${ROOT}/e2e/testdata/ahead.py"], grace: 200ms}
`

// inLine is a worker in Python that has one request in hand and one ahead.
type inLine struct {
	*server
	file, until string // of what is recorded; that the one in hand waits for
	pid         int
	first       <-chan outcome // each is answered with the process's pid
	cancel      context.CancelFunc
	second      <-chan outcome
}

// line gets the worker so far: requests have to be short for a while before one goes ahead, which on a busy machine they may not be at once.
func (s *server) line(t *testing.T, action string, looks bool) *inLine {
	t.Helper()
	c, ctx := s.dial(), testContext(t)
	for try := 0; ; try++ {
		if try == 100 {
			t.Fatal("no request goes ahead")
		}
		for range 64 {
			if _, err := c.Call(ctx, "line", "quick", nil); err != nil {
				t.Fatal(err)
			}
		}
		dir := t.TempDir()
		l := &inLine{server: s, file: filepath.Join(dir, "record"), until: filepath.Join(dir, "until"), pid: s.workers("line")[0].PID}
		held, cancel := context.WithCancel(ctx)
		t.Cleanup(cancel)
		l.cancel = cancel
		l.first = call(held, c, "line", "hold", map[string]any{"file": l.file, "line": "first", "until": l.until, "looks": looks})
		eventually(t, time.Minute, "the first request to begin", func() bool { return len(l.records()) == 1 })
		l.second = call(ctx, c, "line", action, map[string]any{"file": l.file, "line": "second"})
		var inFlight, queued int
		eventually(t, time.Minute, "the second request to come", func() bool { inFlight, queued = s.counts("line"); return inFlight+queued == 2 })
		if inFlight == 2 {
			if looks { // a ping comes behind the second request: it is answered by a worker that has looked at that
				if _, errs, code := s.output("health", "line"); code != 0 {
					t.Fatal(errs)
				}
			}
			return l
		}
		l.release(t)
		for _, end := range []<-chan outcome{l.first, l.second} {
			if o := <-end; o.err != nil {
				t.Fatal(o.err)
			}
		}
	}
}

// counts is how many requests a pool's workers have, and how many wait.
func (s *server) counts(pool string) (inFlight, queued int) {
	s.t.Helper()
	out, errs, code := s.output("status", "--json")
	var st struct {
		Pools []struct {
			Name     string
			InFlight int `json:"in_flight"`
			Queued   int
		}
	}
	if err := json.Unmarshal([]byte(out), &st); err != nil || code != 0 {
		s.t.Fatalf("status --json: exit %d, %v\n%s%s", code, err, out, errs)
	}
	for _, p := range st.Pools {
		if p.Name == pool {
			return p.InFlight, p.Queued
		}
	}
	s.t.Fatalf("no pool %s in %s", pool, out)
	return 0, 0
}

func (l *inLine) records() []string {
	b, _ := os.ReadFile(l.file)
	return strings.Fields(string(b))
}

func (l *inLine) release(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(l.until, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A worker in Python that is sent requests ahead: what is in line has not begun, whether the worker has looked at it or not.
func TestRequestsAhead(t *testing.T) {
	s := serve(t, aheadPool, "line")
	ended := func(t *testing.T, l *inLine, same bool) {
		t.Helper()
		if o := <-l.second; o.err != nil || (o.answer == strconv.Itoa(l.pid)) != same {
			t.Errorf("the second: %+v; the process of the first was %d", o, l.pid)
		}
		if got := l.records(); !slices.Equal(got, []string{"first", "second"}) {
			t.Errorf("ran %q", got)
		}
	}
	for _, looks := range []bool{false, true} {
		for _, action := range []string{"record", "record_again"} {
			t.Run(fmt.Sprintf("killed, %s, looks: %v", action, looks), func(t *testing.T) {
				for range 3 { // one that is blamed would be refused after two deaths
					l := s.line(t, action, looks)
					if err := unix.Kill(l.pid, unix.SIGKILL); err != nil {
						t.Fatal(err)
					}
					refused(t, (<-l.first).err, "ABORTED", "worker_lost")
					ended(t, l, false)
				}
			})
		}
		t.Run(fmt.Sprintf("answered, looks: %v", looks), func(t *testing.T) {
			l := s.line(t, "record", looks)
			l.release(t)
			if o := <-l.first; o.err != nil {
				t.Error(o.err)
			}
			ended(t, l, true)
		})
	}
	for _, looks := range []bool{false, true} {
		t.Run(fmt.Sprintf("killed with several in line, looks: %v", looks), func(t *testing.T) {
			var more []<-chan outcome
			var l *inLine
			want := []string{"first", "second"}
			for try := 0; ; try++ {
				l, more = s.line(t, "record", looks), nil
				c := s.dial()
				want = want[:2]
				for i := range 3 {
					want = append(want, strconv.Itoa(i))
					more = append(more, call(testContext(t), c, "line", "record", map[string]any{"file": l.file, "line": want[2+i]}))
				}
				var inFlight, queued int
				eventually(t, time.Minute, "the others to come", func() bool { inFlight, queued = s.counts("line"); return inFlight+queued == 5 })
				if inFlight > 2 { // requests have been short enough for more than one ahead
					break
				}
				if try == 100 {
					t.Fatal("one request goes ahead, and no more")
				}
				l.release(t)
				for _, end := range append(more, l.first, l.second) {
					if o := <-end; o.err != nil {
						t.Fatal(o.err)
					}
				}
			}
			if looks {
				if _, errs, code := s.output("health", "line"); code != 0 {
					t.Fatal(errs)
				}
			}
			if err := unix.Kill(l.pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			refused(t, (<-l.first).err, "ABORTED", "worker_lost")
			for i, end := range append(more, l.second) {
				if o := <-end; o.err != nil || o.answer == strconv.Itoa(l.pid) {
					t.Errorf("%d: %+v; the process of the first was %d", i, o, l.pid)
				}
			}
			ran := l.records()
			slices.Sort(ran)
			if slices.Sort(want); !slices.Equal(ran, want) {
				t.Errorf("ran %q, want each of %q once", ran, want)
			}
		})
	}
	t.Run("the first is cancelled", func(t *testing.T) {
		l := s.line(t, "record", true)
		l.cancel() // which the worker is told behind the second
		refused(t, (<-l.first).err, "CANCELLED", "cancelled")
		ended(t, l, true)
	})
	t.Run("the first hangs", func(t *testing.T) {
		l := s.line(t, "record", false)
		l.cancel() // which it does not hear
		refused(t, (<-l.first).err, "CANCELLED", "cancelled")
		ended(t, l, false)
		if w := s.workers("line")[0]; w.LastExit == nil || w.LastExit.Cause != "hung" {
			t.Errorf("%+v", w.LastExit)
		}
	})
	t.Run("SIGTERM", func(t *testing.T) {
		l := s.line(t, "record", true)
		told := func() int { return strings.Count(s.log.String(), " in hold") }
		before := told()
		if err := unix.Kill(l.pid, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "the worker to tell where it is", func() bool { return told() > before })
		l.release(t)
		if o := <-l.first; o.err != nil {
			t.Error(o.err)
		}
		ended(t, l, false)
	})
}
