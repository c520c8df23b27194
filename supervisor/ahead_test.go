package supervisor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/internal/moment"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
	"github.com/ringmasterd/ringmaster/worker"
)

// serveInline is a worker of one thread that takes one message at a time out of its ring. ahead is what it says of that in its hello. Each of its actions does steps.
func serveInline(ahead string) error {
	mayBeSent, err := strconv.ParseUint(ahead, 10, 64)
	if err != nil {
		return err
	}
	seg, err := shm.Open(ipc.SegmentFD)
	if err != nil {
		return err
	}
	if err := seg.UseEventfd(ipc.EventFD); err != nil {
		return err
	}
	ring := ipc.WorkerRing(seg, 1<<30)
	fmt.Println("1|1|unix|fd:4|netrpc")
	actions := []ipc.Action{{Name: "step"}, {Name: "flow", Stream: true}, {Name: "both", Batchable: true}, {Name: "refuse"}}
	if err := ipc.SendHello(ring, ipc.Hello{SDK: "inline", Actions: actions, Ahead: mayBeSent}); err != nil {
		return err
	}
	for {
		b, err := ring.Recv()
		if err != nil {
			return err
		}
		m, err := ipc.Decode(b)
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *ipc.Request:
			if err := perform(m); err != nil {
				return err
			}
			end := []byte{0x93, 2, 0xcd, byte(m.ID >> 8), byte(m.ID), 1}
			switch m.Action {
			case "refuse":
				end[0] = 0x97
				end = append(end, 0x80, 0xc0, 0x90, 0x92, 0xa1, 'X', 0xa1, 'y')
			case "flow":
				chunk := slices.Clone(end)
				chunk[5] = 0
				if _, err := ring.Send(chunk); err != nil {
					return err
				}
			}
			if _, err := ring.Send(end); err != nil {
				return err
			}
		case ipc.Kind:
			return nil
		}
	}
}

// perform records a line, and then waits until a file is there, if one is named.
func perform(req *ipc.Request) error {
	if _, err := record(context.Background(), &worker.Request{Body: req.Body}); err != nil {
		return err
	}
	var args struct {
		Until string `msgpack:"until"`
	}
	if err := req.Body.Decode(&args); err != nil || args.Until == "" {
		return err
	}
	await(args.Until)
	return nil
}

// line is a pool of one such worker, and what its requests record.
type line struct {
	*harness
	file  string // of lines
	until string // the file that holds up who waits for it
	pid   int
}

func inlinePool(t *testing.T, ahead string) PoolConfig {
	return PoolConfig{Name: "test", Command: []string{testBinary(t), "inline", ahead}, Workers: 1, Concurrency: 1}
}

func newLine(t *testing.T, cfg PoolConfig, change func(*Supervisor)) *line {
	dir := t.TempDir() // removed when the worker, which may still record, has gone
	h := runWith(t, change, cfg).waitReady()
	l := &line{harness: h, file: filepath.Join(dir, "record"), until: filepath.Join(dir, "until"), pid: h.worker("test", 0).PID}
	l.brief()
	return l
}

// brief has the pool believe that requests are short, whatever it has seen.
func (l *line) brief() {
	p := l.byName("test")
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pace = pace{ended: learnedEnough, hold: 10 * time.Microsecond, brief: true}
}

func (l *line) request(action, record string, waits bool) *ipc.Request {
	body := map[string]any{"file": l.file, "line": record}
	if waits {
		body["until"] = l.until
	}
	return request(l.t, "test", action, body)
}

// held has the worker begin a request that lasts until release.
func (l *line) held(record string) <-chan outcome {
	l.t.Helper()
	end := l.start(testContext(l.t), l.request("step", record, true))
	eventually(l.t, "the first request to begin", func() bool { return slices.Contains(l.records(), record) })
	return end
}

func (l *line) records() []string {
	b, _ := os.ReadFile(l.file)
	return strings.Fields(string(b))
}

func (l *line) release() {
	l.t.Helper()
	if err := os.WriteFile(l.until, nil, 0o600); err != nil {
		l.t.Fatal(err)
	}
}

func (l *line) ends(calls ...<-chan outcome) {
	l.t.Helper()
	for i, c := range calls {
		if o := <-c; o.err != nil {
			l.t.Errorf("request %d: %v", i+1, o.err)
		}
	}
}

func (l *line) wantRecords(want ...string) {
	l.t.Helper()
	if got := l.records(); !slices.Equal(got, want) {
		l.t.Errorf("ran %q, want %q", got, want)
	}
}

// One request at a time waits in the worker's ring; those behind it wait in the queue, and so does a large one that does not go ahead.
func TestOneRequestGoesAhead(t *testing.T) {
	l := newLine(t, inlinePool(t, "1"), func(*Supervisor) {})
	ctx := testContext(t)
	calls := []<-chan outcome{l.held("a")}
	calls = append(calls, l.start(ctx, l.request("step", "b", false)))
	l.busy(2, 0)
	large := l.request("step", "large", false)
	large.Tensors = []ipc.Tensor{{Name: "x", DType: "uint8", Shape: []uint64{mostAhead}, Data: make([]byte, mostAhead)}}
	calls = append(calls, l.start(ctx, large))
	l.busy(2, 1)
	for i := range 3 {
		calls = append(calls, l.start(ctx, l.request("step", fmt.Sprint(i), false)))
		l.busy(2, 2+i)
	}
	l.release()
	l.ends(calls...)
	l.busy(0, 0)
	ran := l.records()
	if slices.Sort(ran[2:]); !slices.Equal(ran, []string{"a", "b", "0", "1", "2", "large"}) {
		t.Errorf("ran %q", ran)
	}
	if w := l.worker("test", 0); w.Requests != 6 || w.PID != l.pid {
		t.Errorf("status %+v", w)
	}
}

// However many come at a time, each is run once.
func TestManyRequestsGoAhead(t *testing.T) {
	l := newLine(t, inlinePool(t, "1"), func(*Supervisor) {})
	const clients, each = 8, 50
	ctx := testContext(t)
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			for n := range each {
				if _, err := l.call(ctx, l.request("step", fmt.Sprintf("%d/%d", i, n), false)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	l.busy(0, 0)
	ran := l.records()
	slices.Sort(ran)
	if n := len(slices.Compact(slices.Clone(ran))); len(ran) != clients*each || n != clients*each {
		t.Errorf("%d ran, %d of them different, want %d", len(ran), n, clients*each)
	}
}

// Where another worker may be idle first, where the one there is may read too early or is to be left alone, and where nothing is known, requests wait in the queue.
func TestWhenNothingGoesAhead(t *testing.T) {
	type how struct {
		cfg    func(*PoolConfig)
		first  func(*line) <-chan outcome
		second func(*ipc.Request)
		before func(*pool)
	}
	for name, tt := range map[string]how{
		"the worker has not said so":       {cfg: func(c *PoolConfig) { c.Command[2] = "0" }},
		"nothing is known":                 {before: func(p *pool) { p.pace = pace{} }},
		"requests gather":                  {cfg: func(c *PoolConfig) { c.Actions = map[string]ActionConfig{"both": {Batch{Max: 2}}} }},
		"requests belong to workers":       {cfg: func(c *PoolConfig) { c.Balance = Hash }},
		"a stream is in hand":              {first: func(l *line) <-chan outcome { return l.begin(l.request("flow", "a", true)) }},
		"it is large":                      {second: func(r *ipc.Request) { r.Context = make([]byte, mostAhead) }},
		"the worker is being tried":        {before: func(p *pool) { p.slots[0].inc.probing = true }},
		"the one in hand is to be alone":   {before: func(p *pool) { p.slots[0].inc.alone = true }},
		"somebody waits for it to himself": {before: func(p *pool) { p.reserved = p.slots[0] }},
		"background work is in hand": {first: func(l *line) <-chan outcome {
			r := l.request("step", "a", true)
			r.Background, r.Yield = true, func() bool { return false }
			return l.begin(r)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := inlinePool(t, "1")
			if tt.cfg != nil {
				tt.cfg(&cfg)
			}
			l := newLine(t, cfg, func(*Supervisor) {})
			var first <-chan outcome
			if tt.first != nil {
				first = tt.first(l)
			} else {
				first = l.held("a")
			}
			p := l.byName("test")
			if tt.before != nil {
				p.mu.Lock()
				tt.before(p)
				p.mu.Unlock()
			}
			r := l.request("step", "b", false)
			if tt.second != nil {
				tt.second(r)
			}
			second := l.start(testContext(t), r)
			l.busy(1, 1)
			p.mu.Lock()
			p.reserved, p.slots[0].inc.alone = nil, false
			p.mu.Unlock()
			l.release()
			l.ends(first, second)
			l.wantRecords("a", "b")
		})
	}
	t.Run("there are two workers", func(t *testing.T) {
		cfg := inlinePool(t, "1")
		cfg.Workers = 2
		l := newLine(t, cfg, func(*Supervisor) {})
		l.allReady("test")
		calls := []<-chan outcome{l.held("a"), l.held("b")}
		calls = append(calls, l.start(testContext(t), l.request("step", "c", false)))
		l.busy(2, 1)
		l.release()
		l.ends(calls...)
	})
}

// begin starts a call, and waits until the worker has begun it.
func (l *line) begin(r *ipc.Request) <-chan outcome {
	l.t.Helper()
	end := l.start(testContext(l.t), r)
	eventually(l.t, "the first request to begin", func() bool { return len(l.records()) == 1 })
	return end
}

// Who looks where the time went sees that what was in line waited.
func TestTimesOfARequestAhead(t *testing.T) {
	for _, action := range []string{"step", "refuse", "flow"} {
		l := newLine(t, inlinePool(t, "1"), func(*Supervisor) {})
		first, r := l.held("a"), l.request(action, "b", false)
		r.Times = &ipc.Times{}
		second := l.start(testContext(t), r)
		l.busy(2, 0)
		released := moment.Now()
		l.release()
		l.ends(first)
		if o := <-second; (o.err != nil) != (action == "refuse") {
			t.Error(o.err)
		}
		if try, _, _ := r.Times.Last(); try.Begin >= released || try.Sent <= released || try.First != 0 && try.First < try.Sent || try.End < try.Sent {
			t.Errorf("%s, released at %v: %+v", action, released, try)
		}
		l.stop()
	}
}

// One that ends in line was in the queue all the time.
func TestTimesOfARequestThatEndsInLine(t *testing.T) {
	const timeout = 20 * time.Millisecond
	l := newLine(t, inlinePool(t, "1"), func(*Supervisor) {})
	first, r := l.held("a"), l.request("step", "b", false)
	r.Timeout, r.Times = timeout, &ipc.Times{}
	_, err := l.call(testContext(t), r)
	wantError(t, err, ipc.DeadlineExceeded, "deadline")
	if try, _, _ := r.Times.Last(); try.Sent.Sub(try.Begin) < timeout || try.End < try.Sent {
		t.Errorf("%+v", try)
	}
	l.release()
	l.ends(first)
}

// What waits in line has not begun: it neither dies with the worker nor is it to blame, and another process runs it, once.
func TestWorkerDiesWithARequestAhead(t *testing.T) {
	l := newLine(t, inlinePool(t, "1"), func(*Supervisor) {})
	first := l.held("a")
	r := l.request("step", "b", false)
	second := l.start(testContext(t), r)
	l.busy(2, 0)
	kill(t, l.pid, unix.SIGKILL)
	o := <-first
	wantError(t, o.err, ipc.Aborted, "worker_lost")
	l.ends(second)
	l.wantRecords("a", "b")
	s := &l.byName("test").suspects
	if n, _ := s.look(s.digest(r), time.Now()); n != 0 {
		t.Errorf("%d deaths are laid at its door", n)
	}
	if n, _ := s.look(s.digest(l.request("step", "a", true)), time.Now()); n != 1 {
		t.Errorf("%d deaths of the one that was in hand", n)
	}
}

// The caller of what waits in line is told of its deadline in time, and the worker, which has not begun with it, is not taken to hang.
func TestDeadlineInLine(t *testing.T) {
	const grace = 50 * time.Millisecond
	l := newLine(t, inlinePool(t, "1"), func(s *Supervisor) { s.hungGrace, s.tickEvery = grace, time.Millisecond })
	first := l.held("a")
	r := l.request("step", "b", false)
	r.Timeout = 10 * time.Millisecond
	begin := time.Now()
	_, err := l.call(testContext(t), r)
	wantError(t, err, ipc.DeadlineExceeded, "deadline")
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the caller was told after %v", took)
	}
	l.busy(2, 0)
	looked := time.Now().Add(4 * grace)
	eventually(t, "some time to pass", func() bool { return time.Now().After(looked) })
	l.release()
	l.ends(first)
	l.busy(0, 0)
	if w := l.worker("test", 0); w.PID != l.pid {
		t.Errorf("restarted: %+v", w.LastExit)
	}
}

// What waits in line counts as if it waited in the queue: for the room there is, and for what comes behind it.
func TestLineIsPartOfTheQueue(t *testing.T) {
	for _, tt := range []struct {
		ahead, full string
		inLine      []string
		timeout     time.Duration
		late        string
	}{
		{"1", ": 1 requests are waiting already", []string{"b"}, 90 * time.Second, "about 1 requests go first, which takes 2m0s"},
		{"8", ": 3 requests are waiting already", []string{"b", "c", "d"}, 210 * time.Second, "about 3 requests go first, which takes 4m0s"},
	} {
		t.Run(tt.ahead, func(t *testing.T) {
			cfg := inlinePool(t, tt.ahead)
			cfg.Queue = len(tt.inLine)
			l := newLine(t, cfg, func(*Supervisor) {})
			calls := append([]<-chan outcome{l.held("a")}, l.add(0, tt.inLine...)...)
			_, err := l.call(testContext(t), l.request("step", "y", false))
			if e := wantError(t, err, ipc.ResourceExhausted, "queue_full"); !strings.Contains(e.Message, tt.full) {
				t.Error(e.Message)
			}
			p := l.byName("test")
			p.mu.Lock()
			p.pace.hold = time.Minute
			p.mu.Unlock()
			r := l.request("step", "z", false)
			r.Timeout = tt.timeout
			_, err = l.call(testContext(t), r)
			if e := wantError(t, err, ipc.ResourceExhausted, "would_expire"); !strings.Contains(e.Message, tt.late) {
				t.Error(e.Message)
			}
			l.release()
			l.ends(calls...)
		})
	}
}

// A full queue makes room for a client that has less in it than another, which has one in line.
func TestLineCountsForItsClient(t *testing.T) {
	cfg := inlinePool(t, "1")
	cfg.Queue = 2
	l := newLine(t, cfg, func(*Supervisor) {})
	of := func(pid int32, record string) *ipc.Request {
		r := l.request("step", record, false)
		r.Client = ipc.Client{PID: pid}
		return r
	}
	calls := []<-chan outcome{l.held("a"), l.start(testContext(t), of(1, "b"))}
	l.busy(2, 0)
	surplus := l.start(testContext(t), of(1, "c"))
	l.busy(2, 1)
	calls = append(calls, l.start(testContext(t), of(2, "d")))
	wantError(t, (<-surplus).err, ipc.ResourceExhausted, "queue_full")
	_, err := l.call(testContext(t), of(1, "e"))
	wantError(t, err, ipc.ResourceExhausted, "queue_full")
	l.release()
	l.ends(calls...)
	l.wantRecords("a", "b", "d")
}

// A client does not stand in line behind itself while another one asks, too.
func TestNobodyIsInLineBehindItself(t *testing.T) {
	l := newLine(t, inlinePool(t, "1"), func(*Supervisor) {})
	of := func(pid int32, record string, waits bool) *ipc.Request {
		r := l.request("step", record, waits)
		r.Client = ipc.Client{PID: pid}
		return r
	}
	// When the client last changed, the test says: it may itself take long between one step and the next.
	inc := l.byName("test").slots[0].inc
	turned := func(ago time.Duration) {
		p := l.byName("test")
		p.mu.Lock()
		defer p.mu.Unlock()
		inc.changed = time.Now().Add(time.Minute - ago)
	}
	calls := []<-chan outcome{l.begin(of(1, "a", true))}
	turned(0)
	calls = append(calls, l.start(testContext(t), of(1, "c", false)))
	l.busy(1, 1)
	calls = append(calls, l.start(testContext(t), of(2, "b", false)))
	l.busy(2, 1)
	l.release()
	l.ends(calls...)
	l.wantRecords("a", "c", "b") // as the queue would have it

	if err := os.Remove(l.until); err != nil {
		t.Fatal(err)
	}
	l.brief() // "a" may have taken long
	calls = []<-chan outcome{l.start(testContext(t), of(1, "d", true))}
	eventually(t, "the request to begin", func() bool { return len(l.records()) == 4 })
	turned(time.Hour)
	calls = append(calls, l.start(testContext(t), of(1, "e", false)))
	l.busy(2, 0)
	l.release()
	l.ends(calls...)
}

// A worker that hangs with a request in line is killed in time, and the one in line is answered by the next process.
func TestWorkerHangsWithARequestAhead(t *testing.T) {
	l := newLine(t, inlinePool(t, "1"), func(s *Supervisor) { s.hungGrace, s.tickEvery = 50*time.Millisecond, time.Millisecond })
	r := l.request("step", "a", true)
	r.Timeout = 200 * time.Millisecond
	first := l.begin(r)
	second := l.start(testContext(t), l.request("step", "b", false))
	l.busy(2, 0)
	wantError(t, (<-first).err, ipc.DeadlineExceeded, "deadline")
	l.ends(second)
	if e := l.lastExit(); e.Cause != "hung" {
		t.Errorf("%+v", e)
	}
	l.wantRecords("a", "b")
}

// What a request has beside its tensors' data takes room, too.
func TestSmallRequests(t *testing.T) {
	long := strings.Repeat("x", mostAhead+1)
	for name, req := range map[string]*ipc.Request{
		"the body":        {Body: []byte(long)},
		"the context":     {Context: []byte(long)},
		"the trace":       {TraceID: long},
		"a header":        {Headers: map[string]string{"k": long}},
		"a tensor":        {Tensors: []ipc.Tensor{{Data: []byte(long)}}},
		"a tensor's name": {Tensors: []ipc.Tensor{{Name: long}}},
		"shapes":          {Tensors: []ipc.Tensor{{Shape: make([]uint64, mostAhead/8+1)}}},
		"an output":       {Outputs: []ipc.Output{{Name: long}}},
	} {
		if small(req) {
			t.Errorf("a request is taken to be small though %s is not", name)
		}
	}
	if !small(&ipc.Request{Body: []byte(long[:100])}) {
		t.Error("100 bytes are much")
	}
}

// A pool that gathers requests no longer is like one that never did.
func TestAheadAfterGathering(t *testing.T) {
	cfg := inlinePool(t, "1")
	cfg.Actions = map[string]ActionConfig{"both": {Batch{Max: 2}}}
	l := newLine(t, cfg, func(*Supervisor) {})
	cfg.Actions = nil
	if _, err := l.Reload(testContext(t), Config{Pools: []PoolConfig{cfg}}); err != nil {
		t.Fatal(err)
	}
	calls := []<-chan outcome{l.held("a"), l.start(testContext(t), l.request("both", "b", false))}
	l.busy(2, 0)
	l.release()
	l.ends(calls...)
	l.wantRecords("a", "b")
}

// A worker that is replaced finishes what waits in line, too.
func TestRestartWithARequestAhead(t *testing.T) {
	l := newLine(t, inlinePool(t, "1"), func(*Supervisor) {})
	calls := []<-chan outcome{l.held("a"), l.start(testContext(t), l.request("step", "b", false))}
	l.busy(2, 0)
	restarted := l.start(testContext(t), request(t, ControlPool, "restart", map[string]string{"pool": "test"}))
	l.await("test", "the new worker to take over", func(st PoolStatus) bool { return st.Workers[0].PID != l.pid && st.Workers[0].State == "ready" })
	l.release()
	l.ends(append(calls, restarted)...)
	l.wantRecords("a", "b")
}

// Whether requests are short is decided by many, and not changed by a mean that wavers.
func TestBriefRequests(t *testing.T) {
	var p pace
	learn := func(n int, took time.Duration, brief bool) {
		t.Helper()
		for range n {
			p.learn("x", took)
		}
		if p.brief != brief {
			t.Errorf("after %d of %v, a mean of %v: %v", n, took, p.hold, p.brief)
		}
	}
	learn(learnedEnough-1, 100*time.Microsecond, false)
	learn(1, 100*time.Microsecond, true)
	learn(100, 1500*time.Microsecond, true)
	learn(100, 3*time.Millisecond, false)
	learn(100, 1500*time.Microsecond, false)
	learn(100, 500*time.Microsecond, true)
	learn(1, 30*time.Second, false)
	learn(40, 100*time.Microsecond, false)
	learn(40, 100*time.Microsecond, true)
}

// The time in line is not the request's.
func TestTimeInLineIsNotHeld(t *testing.T) {
	now := time.Now()
	before := func(s int) time.Time { return now.Add(-time.Duration(s) * time.Second) }
	for _, tt := range []struct {
		ahead   bool // the worker may be sent requests ahead
		batch   *batch
		at, end int // seconds ago: it was given to the worker; the one before it ended, 0: none has
		want    int
	}{
		{false, nil, 10, 0, 10},
		{false, nil, 10, 4, 10},
		{true, nil, 10, 0, 10},
		{true, nil, 10, 20, 10},
		{true, nil, 10, 4, 4},
		{true, &batch{}, 10, 4, 10},
	} {
		l := &lease{inc: &incarnation{}, at: before(tt.at), batch: tt.batch}
		if tt.ahead {
			l.inc.ahead = 1
		}
		if tt.end != 0 {
			l.inc.lastEnd = before(tt.end)
		}
		if got := now.Sub(l.turn()); got != time.Duration(tt.want)*time.Second {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}
