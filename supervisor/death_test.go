package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

// The request that the worker had is lost at once, long before its deadline; nobody else notices.
func TestKilledWorkerLosesItsRequest(t *testing.T) {
	h := run(t, builtin(2, 2)).waitReady()
	h.allReady("test")
	lost, kept := h.hold("test"), h.hold("test")
	if lost.pid == kept.pid {
		t.Fatal("both requests are with one worker")
	}
	begin := time.Now()
	kill(t, lost.pid, unix.SIGKILL)
	e := wantError(t, lost.finish(), ipc.Aborted, "worker_lost")
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the caller was told after %v", took)
	}
	if !strings.Contains(e.Message, fmt.Sprintf("(pid %d)", lost.pid)) || !strings.Contains(e.Message, "signal: killed") {
		t.Errorf("message %q", e.Message)
	}
	if err := kept.finish(); err != nil {
		t.Errorf("the other worker's request: %v", err)
	}
	st := h.allReady("test")
	for _, w := range st.Workers {
		switch {
		case w.PID == kept.pid:
			if w.Restarts != 0 || w.LastExit != nil {
				t.Errorf("the other worker: %+v", w)
			}
		case w.PID == lost.pid || w.Restarts != 1 || w.LastExit == nil || w.LastExit.Cause != "signal" || w.LastExit.Detail != "signal: killed":
			t.Errorf("after the restart: %+v, %+v", w, w.LastExit)
		}
	}
	if exits := h.Status().Pools[0].Exits; !maps.Equal(exits, map[string]uint64{"signal": 1}) {
		t.Errorf("exits by cause: %v", exits)
	}
	h.must("echo", nil, nil)
}

// A request that sits in a dead worker's ring goes to another worker without anybody noticing, and runs once.
func TestUnreadRequestsGoElsewhere(t *testing.T) {
	const each = 8
	h := run(t, builtin(2, each)).waitReady()
	st := h.allReady("test")
	a, b := st.Workers[0].PID, st.Workers[1].PID
	kill(t, a, unix.SIGSTOP)
	kill(t, b, unix.SIGSTOP)
	ctx := testContext(t)
	file := filepath.Join(t.TempDir(), "record")
	var want []string
	var all []ipc.Replies
	for i := range 2 * each {
		want = append(want, fmt.Sprint(i))
		replies, err := h.Call(ctx, recordRequest(t, file, i)) // returns once the request is in the ring
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, replies)
	}
	if loads := h.loads(); !slices.Equal(loads, []int{each, each}) {
		t.Fatalf("%v in flight", loads)
	}
	kill(t, a, unix.SIGKILL)
	kill(t, b, unix.SIGCONT)
	for i, replies := range all {
		r, err := last(ctx, replies)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		var pid int
		if err := r.Body.Decode(&pid); err != nil || pid == a {
			t.Errorf("request %d was answered by %d, %v", i, pid, err)
		}
	}
	got := recorded(t, file)
	slices.SortFunc(got, func(a, b string) int { return mustInt(a) - mustInt(b) })
	if !slices.Equal(got, want) {
		t.Errorf("ran %v", got)
	}
}

func mustInt(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

// With one worker, the next process gets them. One that was cancelled meanwhile is not run.
func TestUnreadRequestsWaitForTheNextProcess(t *testing.T) {
	h := run(t, builtin(1, 3)).waitReady()
	pid := h.worker("test", 0).PID
	kill(t, pid, unix.SIGSTOP)
	file := filepath.Join(t.TempDir(), "record")
	ctx := testContext(t)
	gone, cancel := context.WithCancel(ctx)
	var ends []<-chan outcome
	for i := range 3 {
		with := ctx
		if i == 1 {
			with = gone
		}
		ends = append(ends, h.start(with, recordRequest(t, file, i)))
		h.busy(i+1, 0)
	}
	cancel()
	wantError(t, (<-ends[1]).err, ipc.Cancelled, "cancelled")
	kill(t, pid, unix.SIGKILL)
	for _, i := range []int{0, 2} {
		if o := <-ends[i]; o.err != nil {
			t.Errorf("request %d: %v", i, o.err)
		}
	}
	got := recorded(t, file)
	slices.Sort(got)
	if !slices.Equal(got, []string{"0", "2"}) {
		t.Errorf("ran %v", got)
	}
}

// They were accepted: where nobody may wait, they may.
func TestUnreadRequestsNeedNoRoomInTheQueue(t *testing.T) {
	cfg := builtin(1, 3)
	cfg.Queue = -1
	h := run(t, cfg).waitReady()
	pid := h.worker("test", 0).PID
	kill(t, pid, unix.SIGSTOP)
	var ends []<-chan outcome
	for i := range 3 {
		ends = append(ends, h.start(testContext(t), request(t, "test", "echo", nil)))
		h.busy(i+1, 0)
	}
	kill(t, pid, unix.SIGKILL)
	for _, end := range ends {
		if o := <-end; o.err != nil {
			t.Error(o.err)
		}
	}
}

// While it waits for another worker, a request still listens to whoever waits for it.
func TestUnreadRequestCanBeCancelledBeforeItsSecondStart(t *testing.T) {
	h := runWith(t, func(s *Supervisor) { s.backoffFirst = time.Minute }, builtin(1, 1)).waitReady()
	pid := h.worker("test", 0).PID
	kill(t, pid, unix.SIGSTOP)
	replies, err := h.Call(testContext(t), request(t, "test", "echo", nil))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	end := make(chan error, 1)
	go func() {
		_, err := last(ctx, replies)
		end <- err
	}()
	kill(t, pid, unix.SIGKILL)
	h.await("test", "the request to queue", func(p PoolStatus) bool { return p.Queued == 1 })
	cancel()
	wantError(t, <-end, ipc.Cancelled, "cancelled")
	if _, err := replies.Recv(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("%v after the end", err)
	}
	h.busy(0, 0)
}

func TestStreamThatHasBegunIsLost(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	ctx := testContext(t)
	replies, err := h.Call(ctx, request(t, "test", "count", map[string]any{"n": 1000000}))
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if _, err := replies.Recv(ctx); err != nil {
			t.Fatal(err)
		}
	}
	kill(t, h.worker("test", 0).PID, unix.SIGKILL)
	_, err = last(ctx, replies)
	wantError(t, err, ipc.Aborted, "worker_lost")
	if _, err := replies.Recv(ctx); !errors.Is(err, io.EOF) {
		t.Errorf("%v after the end", err)
	}
	replies.Cancel("cancelled") // does nothing after the end
	h.must("echo", nil, nil)
}

func TestHowAWorkerDied(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	for i, c := range []struct {
		body          map[string]any
		cause, detail string
		stderr        string // somewhere in it
	}{
		{map[string]any{"how": "kill"}, "signal", "signal: killed", ""},
		{map[string]any{"how": "segv"}, "signal", "signal: segmentation fault", ""},
		{map[string]any{"how": "abort"}, "signal", "signal: aborted", ""},
		{map[string]any{"how": "exit", "code": 7}, "exited", "exit status 7", ""},
		{map[string]any{"how": "exit", "code": 0}, "exited", "exit status 0", ""},
		{map[string]any{"how": "panic"}, "exited", "exit status 2", "panic: crash: asked to panic"},
	} {
		pid := h.allReady("test").Workers[0].PID
		h.must("echo", nil, nil) // it works, so this is no crash loop
		_, err := h.call(testContext(t), request(t, "test", "crash", c.body))
		e := wantError(t, err, ipc.Aborted, "worker_lost")
		if !strings.Contains(e.Message, c.detail) {
			t.Errorf("%v: message %q", c.body, e.Message)
		}
		w := h.await("test", "a restart", func(p PoolStatus) bool { return p.Workers[0].State == "ready" && p.Workers[0].Restarts == i+1 }).Workers[0]
		if w.LastExit.Cause != c.cause || w.LastExit.Detail != c.detail || !strings.Contains(strings.Join(w.LastExit.Stderr, "\n"), c.stderr) || w.PID == pid {
			t.Errorf("%v: %+v, last exit %+v", c.body, w, w.LastExit)
		}
	}
}

// A worker's child that keeps its pipes open neither delays the next process for long nor keeps a zombie.
func TestGrandchildHoldsThePipes(t *testing.T) {
	for name, escape := range map[string]bool{"in the worker's group": false, "in a session of its own": true} {
		for how, without := range map[string]bool{"": false, ", without cgroups": true} {
			t.Run(name+how, func(t *testing.T) {
				h := runWith(t, func(s *Supervisor) { s.withoutCgroups = without }, builtin(1, 1)).waitReady()
				pid := h.worker("test", 0).PID
				var grandchild int
				h.must("fork", escape, &grandchild)
				kill(t, pid, unix.SIGKILL)
				h.await("test", "a restart", func(p PoolStatus) bool { return p.Workers[0].State == "ready" && p.Workers[0].PID != pid })
				for _, c := range children(t) {
					if slices.Contains(strings.Fields(c), fmt.Sprint(pid)) {
						t.Errorf("process %d is still there", pid)
					}
				}
				if escape && alive(grandchild) { // whoever is in the group may take a moment longer
					t.Errorf("the grandchild is still there")
				}
				eventually(t, "the grandchild's end", func() bool { return !alive(grandchild) })
				h.must("echo", nil, nil)
			})
		}
	}
	t.Run("both pipes", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "pid")
		cfg := shell(`test -e "$FILE" || setsid sh -c 'echo $$ >"$FILE.new"; mv "$FILE.new" "$FILE"; exec sleep 1000' & exec "$WORKER" worker --builtin echo`)
		cfg.Env = map[string]string{"FILE": file, "WORKER": testBinary(t)}
		h := run(t, cfg).waitReady()
		eventually(t, "the grandchild", func() bool { return len(glob(t, file)) == 1 })
		grandchild := mustInt(recorded(t, file)[0])
		pid := h.worker("test", 0).PID
		kill(t, pid, unix.SIGKILL)
		h.await("test", "a restart", func(p PoolStatus) bool { return p.Workers[0].State == "ready" && p.Workers[0].PID != pid })
		h.must("echo", nil, nil)
		if alive(grandchild) {
			t.Errorf("the grandchild is still there")
		}
	})
}

// Every request has one outcome, and nothing is left, however often workers are killed under it.
func TestKillingAllTheTime(t *testing.T) {
	const kills, callers = 30, 8
	h := runWith(t, func(s *Supervisor) { s.backoffMax = time.Millisecond }, builtin(3, 4)).waitReady()
	ctx, cancel := context.WithCancel(t.Context())
	var lost, answered, cancelled atomic.Int64
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				var err error
				switch {
				case i == 0: // more than the ring holds
					_, err = h.call(testContext(t), &ipc.Request{Pool: "test", Action: "echo", Context: fmt.Append(nil, n), Tensors: []ipc.Tensor{{DType: "uint8", Shape: []uint64{6 << 20}, Data: make([]byte, 6<<20)}}})
				case i%2 == 0:
					_, err = h.call(testContext(t), request(t, "test", "echo", n*callers+i))
				default: // a grant of credit for each chunk, and some cancels
					short, stop := context.WithTimeout(testContext(t), time.Duration(n%20+1)*time.Millisecond)
					req := request(t, "test", "count", map[string]any{"n": 300, "which": n*callers + i}) // like requests would soon be taken for poison
					req.Credit = 1
					_, err = h.call(short, req)
					stop()
				}
				switch e := ipc.AsError(err); {
				case e == nil:
					answered.Add(1)
				case e.Reason == "worker_lost", e.Reason == "poison_request" && i%2 == 0: // its second try was killed as well
					lost.Add(1)
				case (e.Reason == "deadline" || e.Reason == "would_expire") && i%2 == 1:
					cancelled.Add(1)
				default:
					t.Errorf("caller %d: %v", i, err)
				}
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			h.all()[0].health(ctx)
		}
	})
	for k := range kills {
		slot := k % 3
		w := h.await("test", "a worker", func(p PoolStatus) bool { return p.Workers[slot].State == "ready" && p.Workers[slot].InFlight > 0 }).Workers[slot]
		kill(t, w.PID, unix.SIGKILL)
		h.await("test", "its end", func(p PoolStatus) bool { return p.Workers[slot].PID != w.PID })
	}
	cancel()
	wg.Wait()
	h.busy(0, 0)
	t.Logf("%d answered, %d cancelled, %d lost", answered.Load(), cancelled.Load(), lost.Load())
	if answered.Load() == 0 {
		t.Error("that proves nothing")
	}
}
