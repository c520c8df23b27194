package supervisor

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

// hungSoon has a worker killed that is a little late with the end of an abandoned request.
func hungSoon(s *Supervisor) { s.hungGrace, s.endGrace = 100*time.Millisecond, 100*time.Millisecond }

// Whatever holds a request up, its caller is told when the deadline passes; the worker is killed a little later, and replaced.
func TestHangingWorkerIsReplaced(t *testing.T) {
	for _, how := range []string{"block", "spin", "stop"} {
		t.Run(how, func(t *testing.T) {
			h := runWith(t, hungSoon, builtin(1, 2)).waitReady()
			pid := h.worker("test", 0).PID
			req := request(t, "test", "hang", map[string]string{"how": how})
			req.Timeout = 50 * time.Millisecond
			begin := time.Now()
			_, err := h.call(testContext(t), req)
			wantError(t, err, ipc.DeadlineExceeded, "deadline")
			if took := time.Since(begin); took < req.Timeout || took > 10*time.Second {
				t.Errorf("the caller was told after %v", took)
			}
			w := h.await("test", "a restart", func(p PoolStatus) bool { return p.Workers[0].State == "ready" && p.Workers[0].PID != pid }).Workers[0]
			if w.Restarts != 1 || w.LastExit.Cause != "hung" || !strings.HasPrefix(w.LastExit.Detail, "a request was cancelled or past its deadline") {
				t.Errorf("status %+v, last exit %+v", w, w.LastExit)
			}
			h.must("echo", nil, nil)
		})
	}
}

// Those who share a worker with one that hangs lose it with the worker.
func TestHangingWorkerTakesTheOthersWithIt(t *testing.T) {
	h := runWith(t, hungSoon, builtin(1, 2)).waitReady()
	shared := h.hold("test")
	ctx, cancel := context.WithCancel(testContext(t))
	hung := h.start(ctx, request(t, "test", "hang", nil))
	h.busy(2, 0)
	cancel()
	wantError(t, (<-hung).err, ipc.Cancelled, "cancelled")
	h.lastExit()
	e := wantError(t, shared.finish(), ipc.Aborted, "worker_lost")
	if !strings.Contains(e.Message, "hung") {
		t.Errorf("message %q", e.Message)
	}
	h.must("echo", nil, nil)
}

// A request that is larger than the ring waits for a worker to read; one that is stopped never does.
func TestStoppedWorkerAndALargeRequest(t *testing.T) {
	h := runWith(t, func(s *Supervisor) { s.hungGrace = time.Second }, builtin(1, 4)).waitReady()
	pid := h.worker("test", 0).PID
	kill(t, pid, unix.SIGSTOP)
	large := func() *ipc.Request {
		const n = 2 * ringCapacity
		return &ipc.Request{Pool: "test", Action: "echo", Timeout: 100 * time.Millisecond, Tensors: []ipc.Tensor{{DType: "uint8", Shape: []uint64{n}, Data: make([]byte, n)}}}
	}
	first := h.start(testContext(t), large())
	h.busy(1, 0)
	small := request(t, "test", "echo", nil)
	small.Timeout = 100 * time.Millisecond
	others := []<-chan outcome{h.start(testContext(t), large()), h.start(testContext(t), small)} // stuck behind it
	h.busy(3, 0)
	// Nobody waits for the others when somebody wants to know how the worker is.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if health := h.all()[0].health(ctx); health.OK || !strings.Contains(health.Error, "DEADLINE_EXCEEDED") {
		t.Errorf("health %+v", health)
	}
	for _, end := range append(others, first) {
		wantError(t, (<-end).err, ipc.DeadlineExceeded, "deadline")
	}
	w := h.await("test", "a restart", func(p PoolStatus) bool { return p.Workers[0].State == "ready" && p.Workers[0].PID != pid }).Workers[0]
	if w.LastExit.Cause != "hung" {
		t.Errorf("last exit %+v", w.LastExit)
	}
	h.busy(0, 0)
	req := large()
	req.Timeout = 0
	if _, err := h.call(testContext(t), req); err != nil {
		t.Error(err)
	}
}

// Whoever waits for a worker to make room in its ring waits no longer than his deadline. What is half in the ring gets there in the end, so that the worker, which was stopped only for a while, goes on as if nothing had been.
func TestNoRoomAndADeadline(t *testing.T) {
	h := runWith(t, func(s *Supervisor) { s.hungGrace = time.Hour }, builtin(1, 4)).waitReady()
	pid := h.worker("test", 0).PID
	kill(t, pid, unix.SIGSTOP)
	const n = 2 * ringCapacity
	data := make([]byte, n)
	late := func(action string, tensors ...ipc.Tensor) <-chan outcome {
		req := &ipc.Request{Pool: "test", Action: action, Timeout: 100 * time.Millisecond, Tensors: tensors}
		return h.start(testContext(t), req)
	}
	large := ipc.Tensor{DType: "uint8", Shape: []uint64{n}, Data: data}
	calls := []<-chan outcome{late("echo", large)}
	h.busy(1, 0)
	calls = append(calls, late("echo", large), late("echo"))
	for _, end := range calls {
		select {
		case o := <-end:
			wantError(t, o.err, ipc.DeadlineExceeded, "deadline")
		case <-time.After(20 * time.Second):
			t.Error("a request goes on long after its deadline")
		}
	}
	h.busy(3, 0) // the worker has them, for all that is known
	kill(t, pid, unix.SIGCONT)
	h.busy(0, 0)
	h.must("echo", nil, nil)
	if w := h.worker("test", 0); w.PID != pid {
		t.Errorf("restarted: %+v", w.LastExit)
	}
}

// A stream whose caller does not read is held up by its credit, not by the worker: that is no hang.
func TestSlowReaderIsNoHang(t *testing.T) {
	const grace = 50 * time.Millisecond // in which even a busy machine lets the worker read
	h := runWith(t, func(s *Supervisor) { s.hungGrace, s.tickEvery = grace, time.Millisecond }, builtin(1, 2)).waitReady()
	slow := h.hold("test")
	for begin := time.Now(); time.Since(begin) < 4*grace; {
		h.must("sleep", map[string]any{"seconds": 0.002}, nil)
	}
	if err := slow.finish(); err != nil {
		t.Error(err)
	}
	if w := h.worker("test", 0); w.Restarts != 0 {
		t.Errorf("restarted: %+v", w.LastExit)
	}
}

// quietRequest is one whose first runs say nothing; see quiet.
func quietRequest(t *testing.T, file string, deaf bool, times int) *ipc.Request {
	t.Helper()
	return request(t, "test", "quiet", map[string]any{"file": file, "line": "x", "deaf": deaf, "times": times})
}

// A request without progress is cancelled after hang_timeout, long before its deadline. A worker that obeys lives on.
func TestHangTimeoutCancels(t *testing.T) {
	cfg := builtin(1, 2)
	cfg.HangTimeout = 100 * time.Millisecond
	h := run(t, cfg).waitReady()
	beside := h.hold("test") // waits for its caller, not for the worker
	file := filepath.Join(t.TempDir(), "record")
	_, err := h.call(testContext(t), quietRequest(t, file, false, 1000))
	if e := wantError(t, err, ipc.DeadlineExceeded, "hang_timeout"); !strings.Contains(e.Message, "100ms") {
		t.Errorf("message %q", e.Message)
	}
	if err := beside.finish(); err != nil {
		t.Error(err)
	}
	if w := h.worker("test", 0); w.Restarts != 0 {
		t.Errorf("restarted: %+v", w.LastExit)
	}
}

// One that does not is killed, and what it had is tried again where that is allowed.
func TestHangTimeoutKills(t *testing.T) {
	cfg := builtin(2, 1)
	cfg.HangTimeout, cfg.Grace = 50*time.Millisecond, 50*time.Millisecond
	h := runWith(t, func(s *Supervisor) { s.endGrace = 50 * time.Millisecond }, cfg).waitReady()
	h.allReady("test")
	file := filepath.Join(t.TempDir(), "record")
	if _, err := h.call(testContext(t), quietRequest(t, file, true, 1)); err != nil {
		t.Fatal(err)
	}
	if got := recorded(t, file); len(got) != 2 {
		t.Errorf("ran %v, want twice", got)
	}
	eventually(t, "the worker to be replaced", func() bool { return h.restarts() == 1 })
	for _, w := range h.allReady("test").Workers {
		if w.Restarts == 1 && (w.LastExit.Cause != "hung" || !strings.Contains(w.LastExit.Detail, "hang_timeout")) {
			t.Errorf("last exit %+v", w.LastExit)
		}
	}
}

// SIGTERM comes before SIGKILL: a worker that can still end may end in its own way.
func TestHungWorkerIsToldToTerminateFirst(t *testing.T) {
	cfg := villainPool(t, "deaf")
	cfg.Grace = 50 * time.Millisecond
	h := runWith(t, func(s *Supervisor) { s.backoffFirst, s.endGrace = time.Hour, time.Minute }, cfg).waitReady()
	req := request(t, "test", "echo", nil)
	req.Timeout = 20 * time.Millisecond
	_, err := h.call(testContext(t), req)
	wantError(t, err, ipc.DeadlineExceeded, "deadline")
	if exit := h.lastExit(); exit.Cause != "hung" || !strings.Contains(exit.Detail, "signal: terminated") {
		t.Errorf("last exit %+v", exit)
	}
}

func TestHangWatch(t *testing.T) {
	const grace, timeout = 5 * time.Second, 30 * time.Second
	start := time.Now()
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	type look struct {
		s     int // seconds
		call  ipc.OpenCall
		taken uint64
		want  string // late, recall, hangs or ""
	}
	sent := ipc.OpenCall{ID: 1, Sent: true, End: 100}
	with := func(c ipc.OpenCall, change func(*ipc.OpenCall)) ipc.OpenCall { change(&c); return c }
	cancelled := with(sent, func(c *ipc.OpenCall) { c.Abandoned, c.Reason = at(10), "cancelled" })
	recalled := with(sent, func(c *ipc.OpenCall) { c.Reason = hangReason })
	held := with(sent, func(c *ipc.OpenCall) { c.Held = true })
	replies := func(n uint64) ipc.OpenCall { return with(sent, func(c *ipc.OpenCall) { c.Replies = n }) }
	unsent := ipc.OpenCall{ID: 1, Due: at(100)}
	for name, looks := range map[string][]look{
		"works, and is quiet":        {{0, sent, 100, ""}, {30, sent, 100, ""}},
		"makes no progress":          {{0, sent, 100, ""}, {31, sent, 100, "recall"}, {32, recalled, 100, ""}, {37, recalled, 100, "hangs"}},
		"yields":                     {{0, sent, 100, ""}, {29, replies(1), 100, ""}, {58, replies(2), 100, ""}, {89, replies(2), 100, "recall"}},
		"yields on after its recall": {{0, sent, 100, ""}, {31, sent, 100, "recall"}, {32, with(recalled, func(c *ipc.OpenCall) { c.Replies = 5 }), 100, ""}, {37, with(recalled, func(c *ipc.OpenCall) { c.Replies = 9 }), 100, "hangs"}},
		"waits for credit":           {{0, held, 100, ""}, {100, held, 100, ""}, {120, sent, 100, ""}, {131, sent, 100, "recall"}},
		"is cancelled":               {{9, sent, 100, ""}, {11, cancelled, 100, "late"}, {12, cancelled, 100, ""}, {16, cancelled, 100, "hangs"}},
		"is not read":                {{0, sent, 99, ""}, {5, sent, 99, ""}, {6, sent, 99, "hangs"}},
		"is read at last":            {{0, sent, 99, ""}, {5, sent, 99, ""}, {6, sent, 100, ""}},
		"other things are read":      {{0, sent, 50, ""}, {5, sent, 60, ""}, {10, sent, 60, ""}, {11, sent, 60, "hangs"}},
		"cannot be sent":             {{0, unsent, 50, ""}, {6, unsent, 50, "hangs"}},
		"is being sent, slowly":      {{0, unsent, 50, ""}, {5, unsent, 60, ""}, {10, unsent, 70, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			var h hangWatch
			for _, l := range looks {
				got := ""
				for _, f := range h.look(at(l.s), hangLimits{grace: grace, timeout: timeout}, []ipc.OpenCall{l.call}, l.taken) {
					switch {
					case f.hangs != "":
						got = "hangs"
					case f.recall:
						got = "recall"
					case f.late:
						got = "late"
					}
				}
				if got != l.want {
					t.Fatalf("after %d s: %q, want %q", l.s, got, l.want)
				}
			}
		})
	}
	// An unread request waits its turn while the worker has another one in hand.
	var h hangWatch
	for s := range 20 {
		second := ipc.OpenCall{ID: 2, Sent: true, End: 200}
		if f := h.look(at(s), hangLimits{grace: grace}, []ipc.OpenCall{sent, second}, 100); len(f) > 0 {
			t.Fatalf("after %d s: %+v", s, f)
		}
	}
	if len(h.marks) != 2 {
		t.Errorf("%d marks", len(h.marks))
	}
	h.look(at(21), hangLimits{}, nil, 100)
	if len(h.marks) != 0 {
		t.Errorf("%d marks of what has ended", len(h.marks))
	}
}

// What was sent ahead owes nothing while it waits in line behind another one, however long that takes; from then on it is a request like any other.
func TestHangWatchOfALine(t *testing.T) {
	const grace, timeout = 5 * time.Second, 30 * time.Second
	start := time.Now()
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	first := ipc.OpenCall{ID: 1, Sent: true, End: 100}
	second := ipc.OpenCall{ID: 2, Sent: true, End: 200}
	abandoned := second
	abandoned.Abandoned, abandoned.Reason = at(1), "deadline"
	const never = 1000
	for name, tt := range map[string]struct {
		second     ipc.OpenCall
		line       bool
		ends, read int    // seconds: when the first ends, and the second is read
		replies    bool   // the second yields all the time
		want       string // what is found of the second
		when       int
	}{
		"it is read":                               {second, true, 100, 100, true, "", never},
		"it is read, and makes no progress":        {second, true, 100, 100, false, "recall", 130},
		"it is not read":                           {second, true, 100, never, false, "hangs", 105},
		"nobody waits for it":                      {abandoned, true, 100, 100, false, "hangs", 105},
		"nobody waits for it, and it yields":       {abandoned, true, 100, 100, true, "hangs", 105},
		"nobody waits for it, and it is unread":    {abandoned, true, 100, never, false, "hangs", 105},
		"the worker reads whatever comes, usually": {abandoned, false, 100, never, false, "hangs", 7},
	} {
		t.Run(name, func(t *testing.T) {
			var h hangWatch
			got, when := "", never
			for s := 0; s < 200 && got == ""; s++ {
				c := tt.second
				if tt.replies && s >= tt.read {
					c.Replies = uint64(s)
				}
				open, taken := []ipc.OpenCall{c}, uint64(100)
				if s < tt.ends {
					one := first
					one.Replies = uint64(s) // it is long, and makes progress
					open = append(open, one)
				}
				if s >= tt.read {
					taken = 200
				}
				for _, f := range h.look(at(s), hangLimits{grace: grace, timeout: timeout, line: tt.line}, open, taken) {
					switch {
					case f.call.ID != 2:
						t.Fatalf("after %d s: %+v", s, f)
					case f.hangs != "":
						got, when = "hangs", s
					case f.recall:
						got, when = "recall", s
					}
				}
			}
			if got != tt.want || when != tt.when {
				t.Errorf("%q after %d s, want %q after %d", got, when, tt.want, tt.when)
			}
		})
	}
}

// However long the line, only the one whose turn it is owes something.
func TestHangWatchOfALongLine(t *testing.T) {
	const grace = 5 * time.Second
	start := time.Now()
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	var open []ipc.OpenCall
	for i := range 5 {
		open = append(open, ipc.OpenCall{ID: uint64(i + 1), Sent: true, End: uint64(100 * (i + 1)), Abandoned: at(1), Reason: "deadline"})
	}
	open[0].Abandoned, open[0].Reason = time.Time{}, ""
	var h hangWatch
	lim := hangLimits{grace: grace, line: true}
	look := func(s int) []finding { return h.look(at(s), lim, open, 100) }
	for s := range 100 { // the first is long, and has time
		if f := look(s); len(f) > 0 {
			t.Fatalf("after %d s: %+v", s, f)
		}
	}
	open = open[1:]
	for s := 100; s < 104; s++ { // the second's turn has come; it is not begun
		for _, f := range look(s) {
			if f.hangs != "" {
				t.Fatalf("after %d s: %+v", s, f)
			}
		}
	}
	if f := look(106); len(f) == 0 || f[0].hangs == "" {
		t.Errorf("the worker goes on with nothing: %+v", f)
	}
}

// One who asks for a short grace is not to wait for a long tick.
func TestHangsAreLookedForAsOftenAsTheLimitsSay(t *testing.T) {
	for _, test := range []struct {
		limits     hangLimits
		most, want time.Duration
	}{
		{hangLimits{grace: 5 * time.Second}, time.Second, time.Second},
		{hangLimits{grace: 200 * time.Millisecond}, time.Second, 50 * time.Millisecond},
		{hangLimits{grace: 5 * time.Second, timeout: time.Second}, time.Second, 250 * time.Millisecond},
		{hangLimits{grace: time.Millisecond}, time.Second, 10 * time.Millisecond},
		{hangLimits{grace: time.Millisecond}, time.Millisecond, time.Millisecond},
	} {
		if got := test.limits.lookEvery(test.most); got != test.want {
			t.Errorf("%+v, at most %v: every %v, want %v", test.limits, test.most, got, test.want)
		}
	}
}
