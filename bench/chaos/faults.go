package chaos

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// How far apart two faults in a pool are at least, and at most unless the pool has to recover first: so far that a request of another process is not expected to be hit by two. For those of this process, see flights.
const (
	minSpacing = 600 * time.Millisecond
	maxSpacing = 1600 * time.Millisecond
)

// fault is one way to harm a pool.
type fault struct {
	name   string
	weight int
	inject func(*injector, context.Context)
	only   string // the pool it is for; "": all
}

var faults = []fault{
	{"kill", 5, (*injector).kill, ""},
	{"stop", 2, (*injector).stop, ""},
	{"pause", 2, (*injector).pause, ""},
	{"hang", 2, (*injector).hang, ""},
	{"crash", 2, (*injector).crash, ""},
	{"leak", 1, (*injector).leak, ""},
	{"lie", 3, (*injector).lie, ""},
	{"raise", 1, (*injector).raise, ""},
	{"poison", 1, (*injector).poison, narrow}, // in the other pools it would hit bystanders twice
}

// injector harms one pool, one fault after the other.
type injector struct {
	srv      *server
	pool     string
	caller   *caller
	rng      *rand.Rand
	injected *counts
	recover  *recoveries
	flights  *flights
	last     time.Time // when the last fault had been noticed
}

// run injects faults until stop is closed, and returns when the last has been noticed.
func (j *injector) run(ctx context.Context, stop <-chan struct{}) {
	for {
		pause := minSpacing + time.Duration(j.rng.Int64N(int64(maxSpacing-minSpacing)))
		f := j.choose()
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if !j.calm(ctx, stop) {
			return
		}
		j.injected.add(f.name + " " + j.pool)
		f.inject(j, ctx)
		j.last = time.Now()
	}
}

func (j *injector) choose() fault {
	var list []fault
	for _, f := range faults {
		if f.only == "" || f.only == j.pool {
			list = append(list, slices.Repeat([]fault{f}, f.weight)...)
		}
	}
	return list[j.rng.IntN(len(list))]
}

// calm waits until two workers are ready and none is on its way out, so that there is one to harm and one to take over, and until whatever the last fault may have hit has ended. A slot that was harmed
// often waits for long.
func (j *injector) calm(ctx context.Context, stop <-chan struct{}) bool {
	stopped := false
	err := poll(ctx, "two ready workers", func() (bool, error) {
		select {
		case <-stop:
			stopped = true
			return true, nil
		default:
		}
		ws, err := j.srv.workers(ctx, j.pool)
		leaving := slices.ContainsFunc(ws, func(w supervisor.WorkerStatus) bool { return w.State == "draining" })
		return ready(ws) >= 2 && !leaving && j.flights.landed(j.pool, j.last), err
	})
	if err != nil && ctx.Err() == nil {
		j.caller.tally.breaks("%v", err)
	}
	return err == nil && !stopped
}

// victim chooses a ready worker.
func (j *injector) victim(ctx context.Context) (supervisor.WorkerStatus, bool) {
	ws, err := j.srv.workers(ctx, j.pool)
	ws = slices.DeleteFunc(ws, func(w supervisor.WorkerStatus) bool { return w.State != "ready" })
	if err != nil || len(ws) == 0 {
		return supervisor.WorkerStatus{}, false
	}
	w := ws[j.rng.IntN(len(ws))]
	return w, unix.Kill(w.PID, 0) == nil
}

func (j *injector) kill(ctx context.Context) {
	w, ok := j.victim(ctx)
	if !ok {
		return
	}
	j.recover.killed(j.pool, strconv.Itoa(w.Slot), w.PID)
	_ = unix.Kill(w.PID, unix.SIGKILL)
	j.mustGo(ctx, 10*time.Second, "was killed", w.PID)
}

// stop stops a process for good: the server has to find out.
func (j *injector) stop(ctx context.Context) {
	w, ok := j.victim(ctx)
	if !ok {
		return
	}
	_ = unix.Kill(w.PID, unix.SIGSTOP)
	if !j.mustGo(ctx, j.noticed(), "was stopped by SIGSTOP", w.PID) {
		_ = unix.Kill(w.PID, unix.SIGKILL)
	}
}

// noticed is how long the server may take to find out that a worker makes no progress.
func (j *injector) noticed() time.Duration {
	if j.caller.promises.HangTimeout {
		return 15 * time.Second
	}
	return patience + 15*time.Second
}

// pause stops a process for less long than anybody should mind.
func (j *injector) pause(ctx context.Context) {
	w, ok := j.victim(ctx)
	if !ok {
		return
	}
	_ = unix.Kill(w.PID, unix.SIGSTOP)
	select {
	case <-time.After(time.Duration(50+j.rng.IntN(350)) * time.Millisecond):
	case <-ctx.Done():
	}
	_ = unix.Kill(w.PID, unix.SIGCONT)
}

func (j *injector) hang(ctx context.Context) {
	how := []string{"block", "spin", "stop"}[j.rng.IntN(3)]
	j.harm(ctx, hang, harmBody{How: how}, 500*time.Millisecond, "ran "+how+", an action that hangs,")
}

func (j *injector) crash(ctx context.Context) {
	how := []string{"exit", "panic", "segv", "abort"}[j.rng.IntN(4)]
	j.harm(ctx, crash, harmBody{How: how}, patience, "ran "+how)
}

func (j *injector) leak(ctx context.Context) {
	j.harm(ctx, leak, harmBody{MiB: leakMiB}, patience, "leaked beyond its limit")
}

func (j *injector) lie(ctx context.Context) {
	hows := []string{"header", "ahead", "backwards", "unaligned", "frame", "astray", "astray"}
	if j.pool == narrow {
		hows = append(hows, "payload")
	}
	how := hows[j.rng.IntN(len(hows))]
	j.harm(ctx, lie, harmBody{How: how}, patience, "lied ("+how+")")
}

func (j *injector) raise(ctx context.Context) {
	_ = j.caller.call(ctx, newRequest(j.caller.ids.take(raise), j.pool, harmBody{}, patience)) // the tally has it
}

func (j *injector) poison(ctx context.Context) {
	j.harm(ctx, poison, harmBody{How: "kill"}, patience, "was poisoned")
}

// harm sends a request that ends its worker, and waits until it has.
func (j *injector) harm(ctx context.Context, c class, body harmBody, timeout time.Duration, what string) {
	ws, err := j.srv.workers(ctx, j.pool)
	if err != nil {
		return
	}
	var pids []int
	for _, w := range ws {
		if w.PID != 0 {
			pids = append(pids, w.PID)
		}
	}
	n := j.caller.ids.take(c)
	body.Nonce = n.nonce()
	r := newRequest(n, j.pool, body, timeout)
	if body.How == "astray" {
		r.req.Tensors = []ipc.Tensor{{Name: "x", DType: "uint8", Shape: []uint64{4 << 10}, Data: make([]byte, 4<<10)}}
		r.req.Outputs = []ipc.Output{{Name: "x", At: ipc.Range{Length: 4 << 10}}}
	}
	err = j.caller.call(ctx, r)      // the tally has it
	queued := c == hang && !j.ran(n) // its deadline came there
	if queued || refused(ipc.AsError(err)) {
		return
	}
	j.mustGo(ctx, 20*time.Second, what, pids...)
}

// ran reports whether an action that leaves a line has run.
func (j *injector) ran(n id) bool {
	l, err := readLedger(j.srv.ledger)
	if err != nil {
		j.caller.tally.breaks("the ledger: %v", err)
		return false
	}
	return l.count(n) > 0
}

// mustGo waits until one of the processes has been given up by the server.
func (j *injector) mustGo(ctx context.Context, within time.Duration, what string, pids ...int) bool {
	begin := time.Now()
	limited, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err := poll(limited, "", func() (bool, error) {
		ws, err := j.srv.workers(limited, j.pool)
		left := 0
		for _, w := range ws {
			if slices.Contains(pids, w.PID) && w.State != "backoff" && w.State != "failed" {
				left++
			}
		}
		return left < len(pids), err
	})
	if err != nil && ctx.Err() == nil {
		j.caller.tally.breaks("unnoticed: a worker of pool %s %s and was not replaced within %v (processes %v, since %s): %v", j.pool, what, within, pids, begin.Format("15:04:05.000"), err)
	}
	return err == nil
}

// counts counts by name.
type counts struct {
	mu sync.Mutex
	n  map[string]int // guarded by mu
}

func newCounts() *counts { return &counts{n: map[string]int{}} }

func (c *counts) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[name]++
}

// total is all that was counted.
func (c *counts) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, k := range c.n {
		n += k
	}
	return n
}
