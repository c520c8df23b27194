package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/internal/moment"
	"github.com/ringmasterd/ringmaster/ipc"
)

// sent waits until so many requests are with the worker, in its ring, and so many in the queue.
func (l *line) sent(inFlight, queued int) {
	l.t.Helper()
	l.busy(inFlight, queued)
	inc := l.byName("test").slots[0].inc
	eventually(l.t, "what is in line to be in the ring", func() bool {
		open := inc.caller.AppendOpen(nil)
		return len(open) == inFlight && !slices.ContainsFunc(open, func(c ipc.OpenCall) bool { return !c.Sent })
	})
}

// add starts requests, one after the other, that record their names; in line there are so many already, behind the one in hand.
func (l *line) add(already int, records ...string) []<-chan outcome {
	l.t.Helper()
	var calls []<-chan outcome
	for i, r := range records {
		calls = append(calls, l.start(testContext(l.t), l.request("step", r, false)))
		l.sent(2+already+i, 0)
	}
	return calls
}

// wantRecordsFrom is wantRecords, but from the n-th on in any order.
func (l *line) wantRecordsFrom(n int, want ...string) {
	l.t.Helper()
	got := l.records()
	if slices.Sort(got[min(n, len(got)):]); !slices.Equal(got, want) {
		l.t.Errorf("ran %q, want %q", got, want)
	}
}

// gate is a request that lasts until open.
func (l *line) gate(record string) (req *ipc.Request, open func()) {
	file := filepath.Join(l.t.TempDir(), "open")
	return request(l.t, "test", "step", map[string]any{"file": l.file, "line": record, "until": file}), func() {
		l.t.Helper()
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			l.t.Fatal(err)
		}
	}
}

func of(pid int32, r *ipc.Request) *ipc.Request {
	r.Client = ipc.Client{PID: pid}
	return r
}

// Of very short requests several wait in line, as many as the pool has found to be short enough and as the worker has said; the rest is in the queue. What is in line runs in its order; of those that leave the queue at the same time any may be sent first.
func TestSeveralRequestsGoAhead(t *testing.T) {
	for _, tt := range []struct {
		says string
		hold time.Duration
		want int
	}{{"8", lineTime / mostLine, 8}, {"3", time.Microsecond, 3}, {"1000000000000000000", time.Microsecond, mostLine}, {"8", lineTime / 3, 3}, {"8", briefHold, 1}} {
		l := newLine(t, inlinePool(t, tt.says), func(*Supervisor) {})
		p := l.byName("test")
		p.mu.Lock()
		p.pace.hold = tt.hold
		p.mu.Unlock()
		calls, want := []<-chan outcome{l.held("a")}, []string{"a"}
		for i := range 10 {
			want = append(want, fmt.Sprint(i))
			calls = append(calls, l.start(testContext(t), l.request("step", fmt.Sprint(i), false)))
			n := min(i+1, tt.want)
			l.sent(1+n, i+1-n)
		}
		l.release()
		l.ends(calls...)
		l.wantRecordsFrom(1+tt.want, want...)
		l.busy(0, 0)
		if inc := p.slots[0].inc; len(inc.line) > 0 || inc.ended != 11 || inc.taken != 0 {
			t.Errorf("%+v", inc)
		}
		l.stop()
	}
}

// How long the line may be is what the requests in it take together, and one where that is more.
func TestLineLength(t *testing.T) {
	for hold, want := range map[time.Duration]int{0: mostLine, time.Microsecond: mostLine, lineTime / 4: 4, lineTime / 2: 2, lineTime: 1, briefHold: 1, longHold: 1} {
		p := pace{hold: hold, brief: true}
		if got := p.lineLength(); got != want {
			t.Errorf("%v each: %d, want %d", hold, got, want)
		}
		now := time.Now()
		for ago, want := range map[time.Duration]int{0: min(1, want), company - 1: min(1, want), company: min(5, want), -time.Second: min(1, want)} {
			inc := &incarnation{ahead: 5, changed: now.Add(-ago)}
			if got := inc.lineLength(&p, now); got != want {
				t.Errorf("%v each, the client changed %v ago: %d, want %d", hold, ago, got, want)
			}
		}
		if p.brief = false; p.lineLength() != 0 {
			t.Errorf("%v each, which are not short: %d", hold, p.lineLength())
		}
	}
}

// A stream stands in line alone, and nothing is sent behind it. Nor is anything while somebody waits for the worker to have it alone, however few are in line.
func TestWhatClosesALine(t *testing.T) {
	l := newLine(t, inlinePool(t, "8"), func(*Supervisor) {})
	calls := append([]<-chan outcome{l.held("a")}, l.add(0, "b")...)
	calls = append(calls, l.start(testContext(t), l.request("flow", "c", false)))
	l.busy(2, 1)
	calls = append(calls, l.start(testContext(t), l.request("step", "d", false)))
	l.busy(2, 2)
	l.release()
	l.ends(calls...)
	l.wantRecords("a", "b", "c", "d")

	l.brief()
	first, open := l.gate("x")
	calls = []<-chan outcome{l.start(testContext(t), first)}
	eventually(t, "the request to begin", func() bool { return slices.Contains(l.records(), "x") })
	calls = append(calls, l.start(testContext(t), l.request("flow", "y", false)))
	l.sent(2, 0)
	calls = append(calls, l.start(testContext(t), l.request("step", "z", false)))
	l.busy(2, 1)
	open()
	l.ends(calls...)
	l.wantRecords("a", "b", "c", "d", "x", "y", "z")

	l.brief()
	second, open := l.gate("e")
	calls = []<-chan outcome{l.start(testContext(t), second)}
	eventually(t, "the request to begin", func() bool { return slices.Contains(l.records(), "e") })
	calls = append(calls, l.add(0, "f")...)
	p := l.byName("test")
	p.mu.Lock()
	p.reserve()
	p.mu.Unlock()
	calls = append(calls, l.start(testContext(t), l.request("step", "g", false)))
	l.busy(2, 1)
	p.mu.Lock()
	p.reserved = nil
	p.mu.Unlock()
	open()
	l.ends(calls...)
}

// Each request's time begins when the one before it has ended, not when it was sent or when one further ahead ended.
func TestTimesOfALine(t *testing.T) {
	l := newLine(t, inlinePool(t, "8"), func(*Supervisor) {})
	first := l.held("a")
	second, open := l.gate("b")
	second.Times = &ipc.Times{}
	third, fourth := l.request("step", "c", false), l.request("step", "d", false)
	third.Times, fourth.Times = &ipc.Times{}, &ipc.Times{}
	fourth.Timeout = 100 * time.Millisecond
	calls := []<-chan outcome{first, l.start(testContext(t), second)}
	l.sent(2, 0)
	late := l.start(testContext(t), fourth)
	l.sent(3, 0)
	calls = append(calls, l.start(testContext(t), third))
	l.sent(4, 0)
	released := moment.Now()
	l.release()
	eventually(t, "the second to begin", func() bool { return slices.Contains(l.records(), "b") })
	wantError(t, (<-late).err, ipc.DeadlineExceeded, "deadline")
	if try, _, _ := fourth.Times.Last(); try.Sent.Sub(try.Begin) < fourth.Timeout {
		t.Errorf("it ended in line behind one that had its turn: %+v", try)
	}
	opened := moment.Now()
	open()
	l.ends(calls...)
	if try, _, _ := second.Times.Last(); try.Begin >= released || try.Sent <= released || try.Sent >= opened || try.End < opened {
		t.Errorf("the second, released at %v, opened at %v: %+v", released, opened, try)
	}
	if try, _, _ := third.Times.Last(); try.Begin >= released || try.Sent <= opened || try.First < try.Sent || try.End < try.First {
		t.Errorf("the third, opened at %v: %+v", opened, try)
	}
}

// Whoever stands in line has not begun: all of them go to the next process, none is to blame, and each runs once.
func TestWorkerDiesWithALine(t *testing.T) {
	l := newLine(t, inlinePool(t, "8"), func(*Supervisor) {})
	first := l.held("a")
	line := l.add(0, "b", "c", "d", "e")
	kill(t, l.pid, unix.SIGKILL)
	o := <-first
	wantError(t, o.err, ipc.Aborted, "worker_lost")
	l.ends(line...)
	ran := l.records()
	if slices.Sort(ran); !slices.Equal(ran, []string{"a", "b", "c", "d", "e"}) {
		t.Errorf("ran %q", ran)
	}
	s := &l.byName("test").suspects
	for record, want := range map[string]int{"a": 1, "b": 0, "c": 0, "d": 0, "e": 0} {
		if n, _ := s.look(s.digest(l.request("step", record, record == "a")), time.Now()); n != want {
			t.Errorf("%d deaths are laid at the door of %s, want %d", n, record, want)
		}
	}
}

// A worker that hangs with a line is killed in time. What its callers gave up meanwhile is not run, the others by the next process.
func TestWorkerHangsWithALine(t *testing.T) {
	l := newLine(t, inlinePool(t, "8"), func(s *Supervisor) { s.hungGrace, s.tickEvery = 50*time.Millisecond, time.Millisecond })
	r := l.request("step", "a", true)
	r.Timeout = time.Second
	first := l.begin(r)
	line := l.add(0, "b", "c")
	short := l.request("step", "d", false)
	short.Timeout = 10 * time.Millisecond
	_, err := l.call(testContext(t), short)
	wantError(t, err, ipc.DeadlineExceeded, "deadline")
	l.busy(4, 0)
	wantError(t, (<-first).err, ipc.DeadlineExceeded, "deadline")
	l.ends(line...)
	if e := l.lastExit(); e.Cause != "hung" {
		t.Errorf("%+v", e)
	}
	ran := l.records()
	if slices.Sort(ran); !slices.Equal(ran, []string{"a", "b", "c"}) {
		t.Errorf("ran %q", ran)
	}
}

// A full queue makes room for a client that has less waiting than another, in line or in the queue.
func TestALineCountsForItsClients(t *testing.T) {
	cfg := inlinePool(t, "8")
	cfg.Queue = 4
	l := newLine(t, cfg, func(*Supervisor) {})
	step := func(pid int32, record string) *ipc.Request { return of(pid, l.request("step", record, false)) }
	inc := l.byName("test").slots[0].inc
	alone := func() { // the client last changed long ago, whatever the time is
		p := l.byName("test")
		p.mu.Lock()
		defer p.mu.Unlock()
		inc.changed = time.Time{}
	}
	calls := []<-chan outcome{l.begin(of(1, l.request("step", "a", true)))}
	for i, r := range []string{"b", "c", "d"} {
		alone()
		calls = append(calls, l.start(testContext(t), step(1, r)))
		l.sent(2+i, 0)
	}
	p := l.byName("test")
	p.mu.Lock()
	p.pace.hold = briefHold // no more room in line
	p.mu.Unlock()
	surplus := l.start(testContext(t), step(1, "e"))
	l.busy(4, 1)
	calls = append(calls, l.start(testContext(t), step(2, "f")))
	wantError(t, (<-surplus).err, ipc.ResourceExhausted, "queue_full")
	_, err := l.call(testContext(t), step(1, "g")) // it has three in line, and nothing in the queue
	wantError(t, err, ipc.ResourceExhausted, "queue_full")
	l.release()
	l.ends(calls...)
	l.wantRecords("a", "b", "c", "d", "f")
}

// While clients take turns the line is one request long, and nobody's own second.
func TestALineOfSeveralClients(t *testing.T) {
	l := newLine(t, inlinePool(t, "8"), func(*Supervisor) {})
	step := func(pid int32, record string) *ipc.Request { return of(pid, l.request("step", record, false)) }
	p := l.byName("test")
	p.mu.Lock()
	p.slots[0].inc.changed = time.Time{}
	p.mu.Unlock()
	first, open := l.gate("a")
	calls := []<-chan outcome{l.begin(of(1, first))}
	turned := func(at time.Time) { // when the client last changed, the test says: it may itself take long between one step and the next
		p.mu.Lock()
		defer p.mu.Unlock()
		p.slots[0].inc.changed = at
	}
	turned(time.Time{})
	for i, r := range []string{"b", "c"} {
		calls = append(calls, l.start(testContext(t), step(1, r)))
		l.sent(2+i, 0)
	}
	turned(time.Now().Add(time.Hour))
	calls = append(calls, l.start(testContext(t), step(2, "d")))
	l.busy(3, 1)
	calls = append(calls, l.start(testContext(t), step(1, "e")))
	l.busy(3, 2)
	open()
	l.ends(calls...)
	l.wantRecordsFrom(3, "a", "b", "c", "d", "e")
}

// A worker that is replaced finishes all that is in line.
func TestRestartWithALine(t *testing.T) {
	l := newLine(t, inlinePool(t, "8"), func(*Supervisor) {})
	calls := append([]<-chan outcome{l.held("a")}, l.add(0, "b", "c", "d")...)
	restarted := l.start(testContext(t), request(t, ControlPool, "restart", map[string]string{"pool": "test"}))
	l.await("test", "the new worker to take over", func(st PoolStatus) bool { return st.Workers[0].PID != l.pid && st.Workers[0].State == "ready" })
	l.release()
	l.ends(append(calls, restarted)...)
	l.wantRecords("a", "b", "c", "d")
}

// Background work finds no place behind a line, and gives way to one who has to wait: nothing is in line behind it.
func TestBackgroundWorkAndALine(t *testing.T) {
	l := newLine(t, inlinePool(t, "8"), func(*Supervisor) {})
	calls := append([]<-chan outcome{l.held("a")}, l.add(0, "b", "c")...)
	r := l.request("step", "d", false)
	r.Background, r.Yield = true, func() bool { return true }
	_, err := l.call(testContext(t), r)
	wantError(t, err, ipc.ResourceExhausted, "busy")
	l.release()
	l.ends(calls...)
	l.wantRecords("a", "b", "c")
}

// Whose requests are in line is known whatever ends: the one in hand, or one that was never sent.
func TestWhoIsInLine(t *testing.T) {
	a, b := ipc.Client{PID: 1}, ipc.Client{PID: 2}
	inc := &incarnation{line: []ipc.Client{a, b, a}, ended: 10}
	of := func(c ipc.Client, after uint64) *lease { return &lease{inc: inc, client: c, after: after} }
	hand, first, second, third := of(b, 0), of(a, 11), of(b, 12), of(a, 13)
	check := func(l *lease, want ...ipc.Client) {
		t.Helper()
		inc.leftLine(l)
		if !slices.Equal(inc.line, want) {
			t.Errorf("%v, want %v", inc.line, want)
		}
	}
	check(second, a, a) // never sent
	check(hand, a)
	check(first)
	check(third)
	check(of(a, 99)) // nobody's
	if inc.ended != 15 {
		t.Errorf("%d ended", inc.ended)
	}
}
