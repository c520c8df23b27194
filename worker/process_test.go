package worker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
)

// child is a worker process and the supervisor's half of its connection.
type child struct {
	t        testing.TB
	cmd      *exec.Cmd
	seg      *shm.Segment
	ring     *ipc.Ring
	caller   *ipc.Caller
	lifeline *os.File
	hello    chan *ipc.Hello

	ran     chan error     // what caller.Run returned
	running sync.WaitGroup // the test's goroutines for it
	exited  chan struct{}  // closed when the process is reaped
	stdout  chan string    // all of it
	log     *output        // stderr
}

// setup says how a child differs from the usual one.
type setup struct {
	role   string            // "": builtin
	env    map[string]string // replaced; "" unsets
	spoil  func(*shm.Segment)
	noRing bool // the test speaks on the ring itself
}

func start(t testing.TB, s setup) *child {
	t.Helper()
	checkLeaks(t)
	seg, err := shm.Create(shm.Geometry{S2W: 64 << 10, W2S: 64 << 10, Eventfd: true})
	if err != nil {
		t.Fatal(err)
	}
	if s.spoil != nil {
		s.spoil(seg)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "lifeline")
	defer theirs.Close()
	c := &child{
		t: t, seg: seg, ring: ipc.SupervisorRing(seg, 4<<20), lifeline: os.NewFile(uintptr(pair[0]), "lifeline"),
		hello: make(chan *ipc.Hello, 1), ran: make(chan error, 1), exited: make(chan struct{}), stdout: make(chan string, 1), log: &output{},
	}
	c.caller = ipc.NewCaller(c.ring, ipc.Events{Hello: func(h *ipc.Hello) { c.hello <- h }})

	env := map[string]string{
		roleVariable: "builtin", "GORACE": "atexit_sleep_ms=0", "GOCOVERDIR": os.Getenv("GOCOVERDIR"),
		ipc.CookieVariable: ipc.Cookie, ipc.VersionsVariable: "1", ipc.PoolVariable: "test", ipc.SlotVariable: "0", ipc.ConcurrencyVariable: "4", ipc.MaxMessageVariable: "1048576",
	}
	if s.role != "" {
		env[roleVariable] = s.role
	}
	for name, value := range s.env {
		env[name] = value
	}
	c.cmd = exec.Command(os.Args[0])
	for name, value := range env {
		if value != "" {
			c.cmd.Env = append(c.cmd.Env, name+"="+value)
		}
	}
	c.cmd.ExtraFiles = []*os.File{seg.File(), theirs, seg.Eventfd()}
	c.cmd.Stderr = c.log
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.running.Go(func() {
		all, _ := io.ReadAll(stdout)
		c.stdout <- string(all)
		_ = c.cmd.Wait() // its status is in ProcessState
		close(c.exited)
	})
	if !s.noRing {
		c.running.Go(func() { c.ran <- c.caller.Run() })
	}
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		await(t, c.exited, "the worker's end")
		_ = c.lifeline.Close()
		_ = c.ring.Close()
		c.running.Wait()
		lost := ipc.Errorf(ipc.Aborted, "worker_lost", "the worker is gone")
		c.caller.Close(lost, func(uint64) *ipc.Error { return lost })
		if err := seg.Check(); err != nil && s.spoil == nil && !s.noRing {
			t.Error(err)
		}
		if err := seg.Destroy(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the worker said: %s", c.log)
		}
	})
	return c
}

// output is a worker's stderr.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// ready waits for the hello.
func (c *child) ready() *ipc.Hello {
	c.t.Helper()
	select {
	case h := <-c.hello:
		return h
	case <-c.exited:
		c.t.Fatalf("the worker ended before it said hello: %v\n%s", c.cmd.ProcessState, c.log)
	case <-time.After(patience):
		c.t.Fatalf("no hello; the worker said: %s", c.log)
	}
	return nil
}

// status waits for the process to end and says how, like "exit status 1".
func (c *child) status() string {
	c.t.Helper()
	await(c.t, c.exited, "the worker's end")
	return c.cmd.ProcessState.String()
}

func (c *child) wantStatus(want string) {
	c.t.Helper()
	if got := c.status(); got != want {
		c.t.Errorf("the worker ended with %q, want %q; it said: %s", got, want, c.log)
	}
}

func (c *child) start(action string, credit uint32, body any) *ipc.Call {
	c.t.Helper()
	b, err := ipc.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	call, err := c.caller.Start(&ipc.Request{Action: action, Credit: credit, Body: b}, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return call
}

// call makes a call and returns its END.
func (c *child) call(action string, body any) (*ipc.Reply, error) {
	c.t.Helper()
	return c.start(action, 1, body).Recv(bounded(c.t))
}

// poll waits until ok, for what cannot be waited for otherwise.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

func wantError(t *testing.T, err error, code ipc.Code, reason string) *ipc.Error {
	t.Helper()
	var e *ipc.Error
	if !errors.As(err, &e) || e.Code != code || e.Reason != reason {
		t.Errorf("got %v, want %s/%s", err, code, reason)
		return &ipc.Error{}
	}
	return e
}

func TestHandshakeAndHello(t *testing.T) {
	c := start(t, setup{role: "load"})
	h := c.ready()
	if got := await(t, c.stdout, "stdout to end"); got != "1|1|unix|fd:4|netrpc\n" {
		t.Errorf("stdout was %q", got)
	}
	poll(t, "the load function's print in the log", func() bool { return strings.Contains(c.log.String(), "loading") })
	if h.MinVersion != 1 || h.MaxVersion != 1 || !strings.HasPrefix(h.SDK, "ringmaster-go/") {
		t.Errorf("hello is %+v", h)
	}
	got := map[string]ipc.Action{}
	for _, a := range h.Actions {
		got[a.Name] = a
	}
	for _, want := range []ipc.Action{{Name: "echo", Idempotent: true}, {Name: "count", Stream: true}, {Name: "crash"}, {Name: "sum", Idempotent: true}} {
		if got[want.Name] != want {
			t.Errorf("the hello says %+v of an action, want %+v", got[want.Name], want)
		}
	}
	if len(got) != len(builtins) {
		t.Errorf("%d actions, want %d", len(got), len(builtins))
	}
	// What was inherited must not be inherited further.
	for _, fd := range []int{3, 4} {
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", c.cmd.Process.Pid, fd))
		if err != nil {
			t.Fatal(err)
		}
		var flags int
		for line := range strings.Lines(string(info)) {
			_, _ = fmt.Sscanf(line, "flags: %o", &flags)
		}
		if flags&unix.O_CLOEXEC == 0 {
			t.Errorf("fd %d is not closed on exec", fd)
		}
	}
}

func TestRequests(t *testing.T) {
	c := start(t, setup{})
	c.ready()

	headers := map[string]string{"a": "b"}
	body, err := ipc.Marshal(map[string]any{"x": []int{1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	tensors := []ipc.Tensor{{Name: "t", DType: "uint8", Shape: []uint64{200000}, Data: bytes.Repeat([]byte{7}, 200000)}} // larger than the ring
	call, err := c.caller.Start(&ipc.Request{Action: "echo", Headers: headers, Body: body, Tensors: tensors}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := call.Recv(bounded(t))
	if err != nil || r.Headers["a"] != "b" || !bytes.Equal(r.Body, body) || len(r.Tensors) != 1 || !bytes.Equal(r.Tensors[0].Data, tensors[0].Data) {
		t.Errorf("echo: %+v, %v", r, err)
	}

	stream := c.start("count", 2, map[string]any{"n": 100, "text": "hi"})
	for i := 0; ; i++ {
		r, err := stream.Recv(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		if r.End {
			if i != 100 {
				t.Errorf("%d chunks, want 100", i)
			}
			break
		}
		var chunk countChunk
		if err := r.Body.Decode(&chunk); err != nil || chunk != (countChunk{i, "hi"}) {
			t.Fatalf("chunk %d is %+v, %v", i, chunk, err)
		}
	}

	_, err = c.call("summ", nil)
	if e := wantError(t, err, ipc.NotFound, "unknown_action"); !strings.Contains(e.Message, `"summ"`) || !strings.Contains(e.Message, "sleep, sum") {
		t.Errorf("the message does not help: %s", e.Message)
	}
	_, err = c.call("sleep", "long")
	wantError(t, err, ipc.InvalidArgument, "invalid_argument")

	var info struct {
		PID int               `msgpack:"pid"`
		Env map[string]string `msgpack:"env"`
		FDs map[string]string `msgpack:"fds"`
	}
	r, err = c.call("env", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Body.Decode(&info); err != nil {
		t.Fatal(err)
	}
	if info.PID != c.cmd.Process.Pid || info.Env[ipc.PoolVariable] != "test" || info.FDs["1"] == "" || info.FDs["1"] != info.FDs["2"] || !strings.Contains(info.FDs["3"], "memfd:") {
		t.Errorf("env says %+v", info)
	}
	if err := c.caller.Ping(bounded(t)); err != nil {
		t.Error(err)
	}
	if err := c.caller.Drain(); err != nil {
		t.Fatal(err)
	}
	c.wantStatus("exit status 0")
}

func TestCancelAndDeadline(t *testing.T) {
	c := start(t, setup{})
	c.ready()
	done := make(chan struct{})
	body, err := ipc.Marshal(map[string]int{"seconds": 3600})
	if err != nil {
		t.Fatal(err)
	}
	call, err := c.caller.Start(&ipc.Request{Action: "sleep", Body: body}, func(*ipc.Error) { close(done) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = call.Recv(ctx)
	wantError(t, err, ipc.Cancelled, "cancelled")
	await(t, done, "the cancelled sleep's END")

	call, err = c.caller.Start(&ipc.Request{Action: "sleep", Body: body, Timeout: time.Millisecond}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = call.Recv(bounded(t))
	wantError(t, err, ipc.DeadlineExceeded, "deadline")
}

func TestMoreRequestsThanAgreed(t *testing.T) {
	c := start(t, setup{env: map[string]string{ipc.ConcurrencyVariable: "1"}})
	c.ready()
	c.start("hang", 1, map[string]string{"how": "block"})
	_, err := c.call("echo", nil)
	wantError(t, err, ipc.ResourceExhausted, "too_many_requests")
}

func TestCrashes(t *testing.T) {
	for _, c := range []struct {
		how, status, says string
	}{
		{"kill", "signal: killed", ""},
		{"segv", "signal: segmentation fault", ""},
		{"abort", "signal: aborted", ""},
		{"panic", "exit status 2", "asked to panic"},
		{"exit", "exit status 7", ""},
	} {
		t.Run(c.how, func(t *testing.T) {
			w := start(t, setup{})
			w.ready()
			call := w.start("crash", 1, map[string]any{"how": c.how, "code": 7})
			w.wantStatus(c.status)
			if !strings.Contains(w.log.String(), c.says) {
				t.Errorf("the log says %q, want something about %q", w.log, c.says)
			}
			_ = w.ring.Close()
			if err := await(t, w.ran, "Run"); !errors.Is(err, io.EOF) {
				t.Errorf("the ring of a dead worker: %v", err)
			}
			lost := ipc.Errorf(ipc.Aborted, "worker_lost", "it died")
			w.caller.Close(lost, func(sent uint64) *ipc.Error {
				if consumed, err := w.ring.Consumed(sent); err != nil || !consumed {
					t.Errorf("the request that killed it was not read: %v, %v", consumed, err)
				}
				return lost
			})
			_, err := call.Recv(bounded(t))
			wantError(t, err, ipc.Aborted, "worker_lost")
		})
	}
}

// drains are the two ways to make a worker finish what it has and go.
var drains = map[string]func(*child) error{
	"drain":   func(c *child) error { return c.caller.Drain() },
	"SIGTERM": func(c *child) error { return c.cmd.Process.Signal(syscall.SIGTERM) },
}

func TestDrainFinishesWhatRuns(t *testing.T) {
	for name, drain := range drains {
		t.Run(name, func(t *testing.T) {
			c := start(t, setup{})
			c.ready()
			call := c.start("count", 1, map[string]int{"n": 3})
			if _, err := call.Recv(bounded(t)); err != nil {
				t.Fatal(err)
			}
			if err := drain(c); err != nil {
				t.Fatal(err)
			}
			poll(t, "the worker to notice", func() bool { return c.seg.WorkerStatus().State == shm.WorkerDrain })
			for range 2 {
				if r, err := call.Recv(bounded(t)); err != nil || r.End {
					t.Fatalf("got %+v, %v, want a chunk", r, err)
				}
			}
			if r, err := call.Recv(bounded(t)); err != nil || !r.End {
				t.Fatalf("got %+v, %v, want END", r, err)
			}
			c.wantStatus("exit status 0")
		})
	}
}

// A worker that does not end what it should says where it hangs, last of all the goroutine that does.
func TestSIGTERMSaysWhereItHangs(t *testing.T) {
	for _, how := range []string{"block", "spin"} {
		t.Run(how, func(t *testing.T) {
			c := start(t, setup{})
			c.ready()
			c.start("hang", 1, map[string]string{"how": how})
			poll(t, "the action to run", func() bool { return c.seg.WorkerStatus().Request != 0 })
			for told := 0; !strings.Contains(c.log.String(), "worker.hang("); { // the first may come before it is there
				if err := drains["SIGTERM"](c); err != nil {
					t.Fatal(err)
				}
				poll(t, "the stacks", func() bool { return strings.Count(c.log.String(), "ServeRequest") > told })
				told = strings.Count(c.log.String(), "ServeRequest")
			}
			_, last, _ := strings.Cut(c.log.String(), "worker.hang(")
			if strings.Contains(last, "\ngoroutine ") {
				t.Errorf("others come after it:\n%s", last)
			}
			select {
			case <-c.exited:
				t.Errorf("it ended: %s", c.status())
			default:
			}
		})
	}
}

func TestSIGTERMOfAnIdleWorkerIsQuiet(t *testing.T) {
	c := start(t, setup{})
	c.ready()
	if _, err := c.call("echo", nil); err != nil {
		t.Fatal(err)
	}
	poll(t, "it to be idle", func() bool { return c.seg.WorkerStatus().State == shm.WorkerReady })
	if err := drains["SIGTERM"](c); err != nil {
		t.Fatal(err)
	}
	c.wantStatus("exit status 0")
	if got := c.log.String(); got != "" {
		t.Errorf("it says %q", got)
	}
}

func TestDrainOfAnIdleWorker(t *testing.T) {
	for name, drain := range drains {
		t.Run(name, func(t *testing.T) {
			c := start(t, setup{})
			c.ready()
			if err := drain(c); err != nil {
				t.Fatal(err)
			}
			c.wantStatus("exit status 0")
		})
	}
}

func TestStopDoesNotWait(t *testing.T) {
	for _, how := range []string{"spin", "block"} {
		t.Run(how, func(t *testing.T) {
			c := start(t, setup{})
			c.ready()
			c.start("hang", 1, map[string]string{"how": how})
			poll(t, "the request to run", func() bool { return c.seg.WorkerStatus().State == shm.WorkerBusy })
			if err := c.caller.Stop(); err != nil {
				t.Fatal(err)
			}
			c.wantStatus("exit status 0")
		})
	}
}

func TestAStoppedProcess(t *testing.T) {
	c := start(t, setup{})
	c.ready()
	c.start("hang", 1, map[string]string{"how": "stop"})
	poll(t, "the process to stop", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := bytes.Cut(stat, []byte(") "))
		return len(rest) > 0 && rest[0] == 'T'
	})
	_ = c.cmd.Process.Kill()
	c.wantStatus("signal: killed")
}

func TestTheSupervisorsEndIsTheWorkers(t *testing.T) {
	for _, c := range []struct{ name, role, action, body string }{
		{"idle", "builtin", "", ""},
		{"while it spins", "builtin", "hang", "spin"},
		{"while it hangs", "builtin", "hang", "block"},
		{"while it loads", "load for ever", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := start(t, setup{role: c.role})
			if c.role == "load for ever" {
				poll(t, "loading to begin", func() bool { return strings.Contains(w.log.String(), "loading") })
			} else {
				w.ready()
			}
			if c.action != "" {
				w.start(c.action, 1, map[string]string{"how": c.body})
				poll(t, "the request to run", func() bool { return w.seg.WorkerStatus().State == shm.WorkerBusy })
			}
			began := time.Now()
			_ = w.lifeline.Close()
			w.wantStatus("exit status 1")
			if took := time.Since(began); took > time.Second {
				t.Errorf("the worker outlived its supervisor by %v, want less than 1 s", took)
			}
		})
	}
}

func TestPacketsOnTheLifelineAreIgnored(t *testing.T) {
	c := start(t, setup{})
	c.ready()
	for _, packet := range [][]byte{{}, {1}, make([]byte, 5000), {}} {
		if err := unix.Sendto(int(c.lifeline.Fd()), packet, 0, nil); err != nil {
			t.Fatal(err)
		}
	}
	poll(t, "the packets to be taken", func() bool {
		n, err := unix.IoctlGetInt(int(c.lifeline.Fd()), unix.SIOCOUTQ)
		return err == nil && n == 0
	})
	if _, err := c.call("echo", "still there"); err != nil {
		t.Error(err)
	}
}

func TestLoading(t *testing.T) {
	t.Run("fails", func(t *testing.T) {
		c := start(t, setup{role: "load fails"})
		c.wantStatus("exit status 1")
		if got := await(t, c.stdout, "stdout"); got != "1|1|unix|fd:4|netrpc\n" {
			t.Errorf("the handshake comes first; stdout was %q", got)
		}
		if !strings.Contains(c.log.String(), "load: no such model") {
			t.Errorf("the log says %q", c.log)
		}
	})
	for name, end := range map[string]func(*child) error{
		"drain": drains["drain"], "SIGTERM": drains["SIGTERM"], "stop": func(c *child) error { return c.caller.Stop() },
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, setup{role: "load for ever"})
			poll(t, "loading to begin", func() bool { return strings.Contains(c.log.String(), "loading") })
			if err := c.caller.Ping(bounded(t)); err != nil {
				t.Errorf("a ping while it loads: %v", err)
			}
			if got := c.seg.WorkerStatus(); got.State != shm.WorkerLoading || got.PID != uint32(c.cmd.Process.Pid) {
				t.Errorf("the worker says of itself %+v", got)
			}
			if err := end(c); err != nil {
				t.Fatal(err)
			}
			c.wantStatus("exit status 0")
		})
	}
}

func TestTheEndOfServesContext(t *testing.T) {
	c := start(t, setup{role: "context"})
	c.ready()
	c.start("end", 1, nil)
	c.wantStatus("exit status 1")
	if !strings.Contains(c.log.String(), "had enough") {
		t.Errorf("the log says %q", c.log)
	}
}

func TestWhatTheWorkerSaysAboutItself(t *testing.T) {
	c := start(t, setup{})
	c.ready()
	poll(t, "READY", func() bool { return c.seg.WorkerStatus().State == shm.WorkerReady })
	c.start("hang", 1, map[string]string{"how": "block"})
	poll(t, "BUSY", func() bool { return c.seg.WorkerStatus().Since > 0 })
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	s := c.seg.WorkerStatus()
	if s.State != shm.WorkerBusy || s.Request != 1 || s.PID != uint32(c.cmd.Process.Pid) || s.Beat < s.Since {
		t.Errorf("the worker says %+v", s)
	}
	if age := time.Duration(uint64(now.Nano()) - s.Since); age < 0 || age > patience {
		t.Errorf("the request has been running for %v by the worker's clock", age)
	}
}

func TestRefusalsToStart(t *testing.T) {
	for _, c := range []struct {
		name   string
		setup  setup
		status string
		says   string
	}{
		{"by hand", setup{env: map[string]string{ipc.CookieVariable: ""}}, "exit status 1", "started by ringmaster"},
		{"another's cookie", setup{env: map[string]string{ipc.CookieVariable: "x"}}, "exit status 1", "started by ringmaster"},
		{"no version", setup{env: map[string]string{ipc.VersionsVariable: ""}}, "exit status 1", "no common protocol version"},
		{"no common version", setup{env: map[string]string{ipc.VersionsVariable: "2,3"}}, "exit status 1", `speaks "2,3"`},
		{"concurrency 0", setup{env: map[string]string{ipc.ConcurrencyVariable: "0"}}, "exit status 1", `RINGMASTER_CONCURRENCY="0"`},
		{"no number", setup{env: map[string]string{ipc.MaxMessageVariable: "64MiB"}}, "exit status 1", `RINGMASTER_MAX_MESSAGE="64MiB"`},
		{"no actions", setup{role: "no actions"}, "exit status 1", "no actions"},
		{"an action of both kinds", setup{role: "both kinds"}, "exit status 1", `"both"`},
		{"a broken segment", setup{spoil: scribbler(0x28, 1)}, "exit status 70", "segment header"},
		{"another layout", setup{spoil: scribbler(0x08, 2)}, "exit status 70", "version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := start(t, c.setup)
			w.wantStatus(c.status)
			if got := await(t, w.stdout, "stdout"); got != "" {
				t.Errorf("stdout was %q: a handshake without a worker", got)
			}
			if !strings.Contains(w.log.String(), c.says) {
				t.Errorf("the log says %q, want %q in it", w.log, c.says)
			}
		})
	}
	t.Run("no segment", func(t *testing.T) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = []string{roleVariable + "=builtin", ipc.CookieVariable + "=" + ipc.Cookie, ipc.VersionsVariable + "=1"}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !bytes.Contains(out, []byte("fd 3")) {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// scribbler overwrites a word of a segment.
func scribbler(off int64, value uint64) func(*shm.Segment) {
	return func(seg *shm.Segment) { scribble(seg, off, value) }
}

func scribble(seg *shm.Segment, off int64, value uint64) {
	if _, err := seg.File().WriteAt(binary.LittleEndian.AppendUint64(nil, value), off); err != nil {
		panic(err)
	}
}

// A supervisor that breaks the protocol has lost its worker: status 70.
func TestABrokenSupervisor(t *testing.T) {
	for name, breach := range map[string]func(*testing.T, *child){
		"malformed message": func(t *testing.T, c *child) { send(t, c, []byte{0xc1}) },
		"malformed request": func(t *testing.T, c *child) { send(t, c, []byte{0x93, 1, 1, 7}) },
		"id 0":              func(t *testing.T, c *child) { send(t, c, []byte{0x92, 1, 0}) },
		"an id twice": func(t *testing.T, c *child) {
			open := []byte("\x9a\x01\x07\xc0\xa4hang\xc0\xc0\xc0\xc0\xc0\x81\xa3how\xa5block")
			send(t, c, open)
			send(t, c, open)
		},
		"a message over the limit": func(_ *testing.T, c *child) {
			c.running.Go(func() { _, _ = c.ring.Send(make([]byte, 2<<20)) }) // blocks when the worker has had enough
		},
		"a tail that cannot be": func(_ *testing.T, c *child) {
			scribble(c.seg, 0x1000, 1<<50) // noticed within a second, without a wake-up
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, setup{noRing: true})
			poll(t, "READY", func() bool { return c.seg.WorkerStatus().State == shm.WorkerReady })
			breach(t, c)
			c.wantStatus("exit status 70")
			if !strings.Contains(c.log.String(), "worker: ") {
				t.Errorf("the log says %q, want a reason", c.log)
			}
		})
	}
}

func send(t *testing.T, c *child, message []byte) {
	t.Helper()
	if _, err := c.ring.Send(message); err != nil {
		t.Fatal(err)
	}
}
