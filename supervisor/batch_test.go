package supervisor

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

func batching(action string, most int, delay time.Duration) map[string]ActionConfig {
	return map[string]ActionConfig{action: {Batch: Batch{Max: most, Delay: delay}}}
}

// bundles is a pool whose requests for bundle are gathered.
func bundles(workers, concurrency, most int) PoolConfig {
	cfg := builtin(workers, concurrency)
	cfg.Actions = batching("bundle", most, 0)
	return cfg
}

// patient has the pool gather for so long that the time plays no part.
func (h *harness) patient() *pool {
	p := h.byName("test")
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue.gathers["bundle"].delay = time.Hour
	return p
}

// gathering waits until so many requests wait for others, with a place free for them.
func (h *harness) gathering(n int) {
	h.t.Helper()
	p := h.byName("test")
	eventually(h.t, fmt.Sprintf("%d requests to wait for others", n), func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.queue.len == n && !p.alarm.IsZero()
	})
}

// bundled makes a request for bundle; more is added to its body.
func bundled(t testing.TB, file, line string, more map[string]any) *ipc.Request {
	body := map[string]any{"file": file, "line": line}
	maps.Copy(body, more)
	return request(t, "test", "bundle", body)
}

// startBundles starts requests, one after the other, and waits until each is in the queue.
func (h *harness) startBundles(file string, lines ...string) []<-chan outcome {
	h.t.Helper()
	p := h.byName("test")
	queued := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.queue.len
	}
	var ends []<-chan outcome
	for _, line := range lines {
		before := queued()
		ends = append(ends, h.start(testContext(h.t), bundled(h.t, file, line, nil)))
		eventually(h.t, "a request to queue", func() bool { return queued() == before+1 })
	}
	return ends
}

// wantSize expects an answer of bundle.
func wantSize(t testing.TB, o outcome, want int) {
	t.Helper()
	var got int
	if o.err != nil || o.reply.Body.Decode(&got) != nil || got != want {
		t.Errorf("ran with %d (%v), want %d", got, o.err, want)
	}
}

// runs returns what bundle recorded: a line for each run.
func runs(t *testing.T, file string) []string {
	t.Helper()
	all, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(all)), "\n")
}

func wantRuns(t *testing.T, file string, want ...string) {
	t.Helper()
	if got := runs(t, file); !slices.Equal(got, want) {
		t.Errorf("ran %q, want %q", got, want)
	}
}

// While the worker is busy requests gather by themselves, and go together, up to max, each with its own answer.
func TestRequestsGatherWhileTheWorkerIsBusy(t *testing.T) {
	h := run(t, bundles(1, 1, 4)).waitReady()
	file := filepath.Join(t.TempDir(), "record")
	held := h.hold("test")
	ends := h.startBundles(file, "a", "b", "c", "d", "e", "f")
	if err := held.finish(); err != nil {
		t.Fatal(err)
	}
	for i, end := range ends {
		wantSize(t, <-end, []int{4, 4, 4, 4, 2, 2}[i])
	}
	wantRuns(t, file, "a b c d", "e f")
	if st := h.busy(0, 0); st.Workers[0].Requests != 7 {
		t.Errorf("%d requests served, want 7", st.Workers[0].Requests)
	}
}

// A request that finds a worker idle goes there at once: no timer is set, nobody is waited for.
func TestALoneRequestDoesNotWait(t *testing.T) {
	h := run(t, bundles(2, 1, 4)).waitReady()
	h.allReady("test")
	p := h.patient()
	file := filepath.Join(t.TempDir(), "record")
	held := h.hold("test") // the other one is idle
	for range 3 {
		wantSize(t, <-h.start(testContext(t), bundled(t, file, "a", nil)), 1)
	}
	p.mu.Lock()
	if p.timer != nil {
		t.Error("a lone request was made to wait for others")
	}
	p.mu.Unlock()
	if err := held.finish(); err != nil {
		t.Error(err)
	}
	wantRuns(t, file, "a", "a", "a")
}

// When a place gets free and fewer than max wait, they wait for more: until there are max.
func TestGatheringEndsWithTheLastWhoFits(t *testing.T) {
	h := run(t, bundles(1, 1, 3)).waitReady()
	p := h.patient()
	file := filepath.Join(t.TempDir(), "record")
	held := h.hold("test")
	ends := h.startBundles(file, "a")
	if err := held.finish(); err != nil {
		t.Fatal(err)
	}
	h.gathering(1)
	h.must("echo", nil, nil) // meanwhile the place is not lost to others
	ends = append(ends, h.startBundles(file, "b")...)
	h.gathering(2)
	ends = append(ends, h.start(testContext(t), bundled(t, file, "c", nil)))
	for _, end := range ends {
		wantSize(t, <-end, 3)
	}
	wantRuns(t, file, "a b c")
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.alarm.IsZero() {
		t.Error("the timer is still set")
	}
}

// … or until the one that came first has waited for delay.
func TestGatheringEndsWithTheDelay(t *testing.T) {
	h := run(t, bundles(1, 1, 4)).waitReady()
	p := h.byName("test")
	p.mu.Lock()
	p.queue.gathers["bundle"].delay = 200 * time.Millisecond
	p.mu.Unlock()
	file := filepath.Join(t.TempDir(), "record")
	held := h.hold("test")
	ends := h.startBundles(file, "a", "b")
	if err := held.finish(); err != nil {
		t.Fatal(err)
	}
	for _, end := range ends {
		wantSize(t, <-end, 2)
	}
	wantRuns(t, file, "a b")
}

// Who has little time left is not made to wait.
func TestGatheringKnowsDeadlines(t *testing.T) {
	now := time.Now()
	g := &gather{max: 4, delay: time.Second, took: 300 * time.Millisecond}
	push := func(at, deadline time.Time) {
		w := &waiter{}
		g.join(w, at, deadline)
		g.waiting.PushBack(w)
	}
	want := func(due time.Time) {
		t.Helper()
		if got := g.due(now); !got.Equal(due) {
			t.Errorf("due in %v, want %v", got.Sub(now), due.Sub(now))
		}
	}
	push(now, time.Time{})
	want(now.Add(time.Second))
	push(now.Add(10*time.Millisecond), now.Add(time.Hour))
	want(now.Add(time.Second))
	push(now.Add(20*time.Millisecond), now.Add(700*time.Millisecond))
	want(now.Add(400 * time.Millisecond))
	now = now.Add(400 * time.Millisecond)
	want(time.Time{})
	now = now.Add(-time.Millisecond)
	want(now.Add(time.Millisecond))
	push(now, time.Time{}) // the fourth
	want(time.Time{})
	g.waiting.Init()
	g.max = 1 // a reload has taken it away
	push(now, time.Time{})
	want(time.Time{})
}

// Errors are the requests' own.
func TestErrorsInABatch(t *testing.T) {
	h := run(t, bundles(1, 1, 8)).waitReady()
	file := filepath.Join(t.TempDir(), "record")
	held := h.hold("test")
	ends := h.startBundles(file, "a")
	bad := h.start(testContext(t), bundled(t, file, "b", map[string]any{"fail": true}))
	h.busy(1, 2)
	ends = append(ends, h.startBundles(file, "c")...)
	if err := held.finish(); err != nil {
		t.Fatal(err)
	}
	wantSize(t, <-ends[0], 3)
	wantError(t, (<-bad).err, ipc.Internal, "handler")
	wantSize(t, <-ends[1], 3)
	wantRuns(t, file, "a b c")
}

// A member that is cancelled, or whose deadline passes, ends; the others do not notice. The worker is not blamed for going on with a batch that somebody waits for, but for one that nobody does.
func TestMembersThatAreCancelled(t *testing.T) {
	h := runWith(t, hungSoon, bundles(1, 1, 4)).waitReady()
	h.patient()
	file, until := filepath.Join(t.TempDir(), "record"), filepath.Join(t.TempDir(), "until")
	held := h.hold("test")
	queued, leave := context.WithCancel(testContext(t))
	gone := h.start(queued, bundled(t, file, "gone", nil))
	h.busy(1, 1)
	ends := h.startBundles(file, "a")
	leave() // while it waits
	wantError(t, (<-gone).err, ipc.Cancelled, "cancelled")
	late := bundled(t, file, "late", nil)
	late.Timeout = time.Millisecond
	if _, err := h.call(testContext(t), late); ipc.AsError(err).Code != ipc.DeadlineExceeded {
		t.Errorf("%v, want DEADLINE_EXCEEDED", err)
	}
	running, leave := context.WithCancel(testContext(t))
	cancelled := h.start(running, bundled(t, file, "b", map[string]any{"until": until}))
	h.busy(1, 2)
	short := bundled(t, file, "c", nil)
	short.Timeout = 300 * time.Millisecond
	expired := h.start(testContext(t), short)
	h.busy(1, 3)
	ends = append(ends, h.startBundles(file, "d")...)
	if err := held.finish(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the batch to run", func() bool { _, err := os.Stat(file); return err == nil })
	leave()
	wantError(t, (<-cancelled).err, ipc.Cancelled, "cancelled")
	wantError(t, (<-expired).err, ipc.DeadlineExceeded, "deadline")
	h.busy(4, 0) // the worker still has them all
	if err := os.WriteFile(until, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, end := range ends {
		wantSize(t, <-end, 4)
	}
	h.busy(0, 0)
	if w := h.worker("test", 0); w.Restarts != 0 {
		t.Errorf("the worker was replaced: %+v", w.LastExit)
	}
	h.must("echo", nil, nil)
}

func TestABatchThatNobodyWaitsForHangs(t *testing.T) {
	h := runWith(t, hungSoon, bundles(1, 1, 2)).waitReady()
	file := filepath.Join(t.TempDir(), "record")
	held := h.hold("test")
	ctx, leave := context.WithCancel(testContext(t))
	var ends []<-chan outcome
	for i, line := range []string{"a", "b"} {
		ends = append(ends, h.start(ctx, bundled(t, file, line, map[string]any{"until": "/nowhere/at/all"})))
		h.busy(1, i+1)
	}
	if err := held.finish(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the batch to run", func() bool { _, err := os.Stat(file); return err == nil })
	leave()
	for _, end := range ends {
		wantError(t, (<-end).err, ipc.Cancelled, "cancelled")
	}
	if exit := h.lastExit(); exit.Cause != "hung" {
		t.Errorf("%+v", exit)
	}
	wantRuns(t, file, "a b")
}

// A batch is late since the last that somebody waited for is.
func TestHangWatchSeesABatchAsOne(t *testing.T) {
	now := time.Now()
	lim := hangLimits{grace: time.Second}
	call := func(id, batch uint64, abandoned time.Time) ipc.OpenCall {
		c := ipc.OpenCall{ID: id, Sent: true, Batch: batch, Abandoned: abandoned}
		if !abandoned.IsZero() {
			c.Reason = "cancelled"
		}
		return c
	}
	long, recent := now.Add(-time.Hour), now.Add(-500*time.Millisecond)
	for name, tt := range map[string]struct {
		open  []ipc.OpenCall
		hangs bool
	}{
		"all wait":                 {[]ipc.OpenCall{call(1, 7, time.Time{}), call(2, 7, time.Time{})}, false},
		"one waits":                {[]ipc.OpenCall{call(1, 7, long), call(2, 7, time.Time{}), call(3, 7, long)}, false},
		"the last left lately":     {[]ipc.OpenCall{call(1, 7, long), call(2, 7, recent)}, false},
		"none waits":               {[]ipc.OpenCall{call(1, 7, long), call(2, 7, long)}, true},
		"none of the one waits":    {[]ipc.OpenCall{call(1, 7, long), call(2, 8, time.Time{}), call(3, 7, long)}, true},
		"one beside a batch waits": {[]ipc.OpenCall{call(1, 0, long), call(2, 7, time.Time{})}, true},
	} {
		var h hangWatch
		for _, open := range [][]ipc.OpenCall{tt.open, func() []ipc.OpenCall { r := slices.Clone(tt.open); slices.Reverse(r); return r }()} {
			hangs := slices.ContainsFunc(h.look(now, lim, open, 0), func(f finding) bool { return f.hangs != "" })
			if hangs != tt.hangs {
				t.Errorf("%s: hangs %v, want %v", name, hangs, tt.hangs)
			}
		}
	}
}

// The worker dies with a batch in hand: each member's second try runs alone, so that the one whose fault it is convicts nobody else.
func TestDeathOfABatch(t *testing.T) {
	h := run(t, bundles(1, 1, 4)).waitReady()
	file := filepath.Join(t.TempDir(), "record")
	held := h.hold("test")
	ends := h.startBundles(file, "a", "b")
	poison := h.start(testContext(t), bundled(t, file, "poison", map[string]any{"deaths": 1000}))
	h.busy(1, 3)
	ends = append(ends, h.startBundles(file, "c")...)
	if err := held.finish(); err != nil {
		t.Fatal(err)
	}
	for _, end := range ends {
		wantSize(t, <-end, 1)
	}
	wantError(t, (<-poison).err, ipc.Aborted, "poison_request")
	got := runs(t, file)
	if len(got) != 5 || got[0] != "a b poison c" {
		t.Fatalf("ran %q", got)
	}
	slices.Sort(got[1:])
	if want := []string{"a", "b", "c", "poison"}; !slices.Equal(got[1:], want) {
		t.Errorf("then %q, want %q", got[1:], want)
	}
}

// A batch that a dying worker had not read moves on as one.
func TestABatchThatWasNotRead(t *testing.T) {
	h := runWith(t, func(s *Supervisor) { s.backoffFirst = 500 * time.Millisecond }, bundles(1, 2, 3)).waitReady() // so that all are back before the next process is ready
	h.patient()
	file := filepath.Join(t.TempDir(), "record")
	held := h.hold("test") // so that the worker is not idle
	pid := h.worker("test", 0).PID
	kill(t, pid, unix.SIGSTOP)
	var ends []<-chan outcome
	for _, line := range []string{"a", "b", "c"} {
		ends = append(ends, h.start(testContext(t), bundled(t, file, line, nil)))
	}
	h.busy(4, 0)
	h.byName("test").mu.Lock()
	taken := h.byName("test").slots[0].inc.taken
	h.byName("test").mu.Unlock()
	if taken != 2 {
		t.Errorf("%d places are taken, want 2", taken)
	}
	kill(t, pid, unix.SIGKILL)
	wantError(t, held.finish(), ipc.Aborted, "worker_lost")
	for _, end := range ends {
		if o := <-end; o.err != nil {
			t.Error(o.err)
		}
	}
	if got := runs(t, file); len(got) != 1 || len(got[0]) != 5 {
		t.Errorf("ran %q, want three in one", got)
	}
}

// Streams, and what takes one request at a time, are not gathered, and the log says so.
func TestOnlyWhatCanBeIsGathered(t *testing.T) {
	cfg := builtin(1, 1)
	cfg.Actions = map[string]ActionConfig{}
	for _, name := range []string{"count", "echo", "nothing", "bundle"} {
		maps.Copy(cfg.Actions, batching(name, 4, time.Second))
	}
	h := run(t, cfg).waitReady()
	p := h.byName("test")
	var said bytes.Buffer
	p.mu.Lock()
	p.log = slog.New(slog.NewTextHandler(&said, nil))
	p.gatherings()
	for name, g := range p.queue.gathers {
		if name != "bundle" && g.max != 1 {
			t.Errorf("%s is gathered", name)
		}
	}
	p.queue.gathers["echo"] = &gather{max: 4, delay: time.Hour} // as if another worker of the pool could
	p.mu.Unlock()
	for _, want := range []string{"the action streams; only actions that give one answer can be\" action=count", "takes one at a time", "action=echo", "have no such action\" action=nothing"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, &said)
		}
	}
	held := h.hold("test")
	var ends []<-chan outcome
	for i := range 4 {
		ends = append(ends, h.start(testContext(t), request(t, "test", "echo", i)))
	}
	h.busy(1, 4)
	if err := held.finish(); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	p.queue.gathers["echo"].max = 1 // those that are left wait for nobody
	p.dispatch()
	p.mu.Unlock()
	for _, end := range ends {
		if o := <-end; o.err != nil {
			t.Error(o.err)
		}
	}
}

// A reload changes how many are gathered while workers go on, and lets those go that wait for what will not come.
func TestReloadChangesBatches(t *testing.T) {
	h := run(t, bundles(1, 1, 8)).waitReady()
	h.patient()
	before := pids(h.allReady("test"))
	file := filepath.Join(t.TempDir(), "record")
	held := h.hold("test")
	ends := h.startBundles(file, "a", "b", "c")
	if err := held.finish(); err != nil {
		t.Fatal(err)
	}
	h.gathering(3)
	if r := h.reload(bundles(1, 1, 2)); !slices.Equal(r.Changed, []string{"test"}) {
		t.Errorf("%+v", r)
	}
	wantSize(t, <-ends[0], 2)
	wantSize(t, <-ends[1], 2)
	wantSize(t, <-ends[2], 1)
	wantRuns(t, file, "a b", "c")
	held = h.hold("test")
	ends = h.startBundles(file, "d", "e")
	h.reload(builtin(1, 1))
	if err := held.finish(); err != nil {
		t.Fatal(err)
	}
	for _, end := range ends {
		wantSize(t, <-end, 1)
	}
	if got := pids(h.allReady("test")); !slices.Equal(got, before) {
		t.Errorf("pids %v, before %v", got, before)
	}
}

// Those who ride along are chosen as fairly as the one whose turn it was: each user has the same part of a batch, and those whose part others had are made up for it.
func TestCompanyIsFair(t *testing.T) {
	var q fairQueue
	g := &gather{max: 32}
	q.gathers = map[string]*gather{"embed": g}
	crowd := func(c ipc.Client, n int) {
		for range n {
			w := &waiter{client: c, action: "embed", cost: time.Millisecond, gather: g}
			g.join(w, time.Time{}, time.Time{})
			q.push(w, time.Millisecond)
		}
	}
	a, b1, b2 := client(1, 1), client(2, 1), client(2, 2)
	crowd(a, 1000)
	crowd(b1, 1000)
	crowd(b2, 1000)
	q.push(&waiter{client: client(3, 1), action: "other", cost: 16 * time.Millisecond}, time.Millisecond)
	got := map[ipc.Client]int{}
	others := 0
	for range 20 {
		q.look(time.Now())
		w := q.pop(time.Millisecond)
		if w.gather == nil {
			others++
			q.push(&waiter{client: client(3, 1), action: "other", cost: 16 * time.Millisecond}, time.Millisecond)
			continue
		}
		for _, w := range append(q.company(g, 31, time.Millisecond), w) {
			got[w.client]++
		}
	}
	all := got[a] + got[b1] + got[b2]
	if share := float64(got[a]) / float64(all); share < 0.45 || share > 0.55 {
		t.Errorf("%v: one user has %.2f of it", got, share)
	}
	if d := got[b1] - got[b2]; d < -8 || d > 8 {
		t.Errorf("%v: two processes of one user have not the same", got)
	}
	if others < 5 || others > 12 {
		t.Errorf("another action had %d turns of 20", others)
	}
}

// While requests are being gathered, those of their clients that are not have their turns.
func TestGatheringHoldsNobodyUp(t *testing.T) {
	var q fairQueue
	g := &gather{max: 32, delay: time.Hour}
	q.gathers = map[string]*gather{"embed": g}
	now := time.Now()
	var plain []*waiter
	for i := range 20 {
		w := &waiter{client: client(1, int32(i%3)), cost: time.Millisecond}
		if i%2 == 0 {
			w.gather = g
			g.join(w, now, time.Time{})
		} else {
			plain = append(plain, w)
		}
		q.push(w, time.Millisecond)
	}
	for range plain {
		if due := q.look(now); !due.Equal(now.Add(time.Hour)) {
			t.Fatalf("due %v", due)
		}
		if w := q.pop(time.Millisecond); w == nil || w.gather != nil {
			t.Fatalf("popped %+v", w)
		}
	}
	q.look(now)
	if w := q.pop(time.Millisecond); w != nil {
		t.Fatalf("popped %+v, which waits for others", w)
	}
	for range 10 {
		q.look(now.Add(time.Hour))
		if w := q.pop(time.Millisecond); w == nil {
			t.Fatal("nobody's turn, though the time has come")
		}
	}
	if q.len != 0 || g.waiting.Len() != 0 || q.flows != nil {
		t.Errorf("%+v is left", q)
	}
}
