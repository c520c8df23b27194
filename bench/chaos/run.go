package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config says what to run.
type Config struct {
	Executable string        // a ringmaster binary, which is also what client processes run
	Python     string        // an interpreter that has the SDK; "": no pool in Python
	Seed       uint64        // of load and faults
	Duration   time.Duration // of the chaos; what comes before and after it takes some seconds more
	Clients    int           // a quarter of them in processes of their own
	Progress   io.Writer     // a line every few seconds; nil: none
}

// Client numbers: load clients count from 0.
const (
	clientFaults = 0x100 // and one more for each pool
	clientDeaf   = 0x200
	clientOthers = 0x1000
)

const (
	warmUp       = 1500 * time.Millisecond // of load, before the server is looked at for the first time
	settleWithin = 90 * time.Second        // after the load: for slots that have to wait before they start again
	leakWithin   = 20 * time.Second        // for connections and requests that are on their way out
	stopWithin   = 60 * time.Second
	progressing  = 2 * time.Second
	longRun      = 10 * time.Minute // a longer one logs less
)

// chaos is one run.
type chaos struct {
	cfg      Config
	promises Promises
	srv      *server
	tally    *Tally
	injected *counts
	missing  *counts
	recover  *recoveries
	flights  *flights
	bytes    noise
	pools    []string
	begun    time.Time

	before, after *holdings
	leaks         []Leak
	retried       int // requests that were run twice, as they may be
}

// Run runs the chaos and returns what came of it. An error means that it could not be run; broken promises are in the result.
func Run(ctx context.Context, cfg Config) (_ *Result, err error) {
	dir, err := os.MkdirTemp("", "rmchaos")
	if err != nil {
		return nil, err
	}
	c := &chaos{cfg: cfg, promises: promised, tally: newTally(), injected: newCounts(), missing: newCounts(), recover: newRecoveries(), flights: newFlights(), bytes: newNoise(cfg.Seed), begun: time.Now()}
	keep := false
	defer func() {
		if !keep {
			_ = os.RemoveAll(dir)
		}
	}()
	for _, key := range []string{"hang_timeout", "grace"} {
		if !supports(ctx, cfg.Executable, dir, key, "1s") {
			c.promises.HangTimeout = false
			c.missing.add(key)
		}
	}
	level := "debug" // names every request
	if cfg.Duration > longRun {
		level = "info"
	}
	if c.srv, err = newServer(cfg.Executable, dir, cfg.Python, level, c.promises.HangTimeout); err != nil {
		return nil, err
	}
	c.pools = slices.Sorted(maps.Keys(c.srv.pools))
	if err := c.srv.start(ctx); err != nil {
		if c.srv.cmd.Process != nil {
			_ = c.srv.stop(stopWithin)
		}
		return nil, fmt.Errorf("%w; its log ends with\n%s", err, c.srv.logged(20))
	}
	concurrent, err := c.chaos(ctx)
	c.ending(ctx, err)
	result := c.result(concurrent)
	if keep = len(result.Broken) > 0; keep {
		result.Log = c.srv.log
	}
	return result, ctx.Err()
}

// chaos is from the first request to the last, and the look at the server that follows. The error says why that was not all.
func (c *chaos) chaos(ctx context.Context) (concurrent int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() {
		select {
		case <-c.srv.exited:
			cancel(fmt.Errorf("the server ended by itself: %w", errors.Join(c.srv.err, errEnded)))
		case <-ctx.Done():
		}
	})
	local := c.local()
	hangUp := func() { // what connections hold is not there when the server is looked at
		for _, caller := range local {
			caller.settle(ctx)
			caller.close()
		}
	}
	defer hangUp()
	concurrent = c.cfg.Clients * lanes
	c.underLoad(ctx, local, func(ctx context.Context) { sleep(ctx, warmUp) })
	hangUp()
	if c.before, err = c.look(ctx, nil); err != nil {
		return concurrent, err
	}
	remote, err := c.remote()
	if err != nil {
		return concurrent, err
	}
	c.underLoad(ctx, local, c.harm)
	hangUp()
	for _, p := range remote {
		t, err := p.finish(2 * patience)
		if err != nil {
			c.tally.breaks("%v", err)
			continue
		}
		c.tally.add(t)
	}
	if ctx.Err() == nil {
		c.after, err = c.look(ctx, c.before)
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return concurrent, err
}

// shares are the pools, each as often as fits what it can do.
func (c *chaos) shares() []string {
	var list []string
	for _, pool := range c.pools {
		list = append(list, slices.Repeat([]string{pool}, map[string]int{wide: 4, narrow: 1, python: 2}[pool])...)
	}
	return list
}

// errEnded is all there is to say of a server that ended with status 0.
var errEnded = errors.New("its log may tell why")

// sleep returns after d, or with ctx.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// ofItsOwn reports whether a load client has a process of its own: every fourth has.
func ofItsOwn(client int) bool { return client%4 == 3 }

// local makes the clients of this process; half of them look at each message themselves.
func (c *chaos) local() []*caller {
	var all []*caller
	for i := range c.cfg.Clients {
		if ofItsOwn(i) {
			continue
		}
		caller := c.wired(uint16(i))
		if i%2 == 0 {
			c.library(caller)
		}
		all = append(all, caller)
	}
	return all
}

// library has a caller connect as programs do, and use arenas.
func (c *chaos) library(caller *caller) {
	caller.dial = func(ctx context.Context) (line, error) { return dialLib(ctx, c.srv.socket, c.tally) }
}

// wired makes a client that looks at each message itself.
func (c *chaos) wired(number uint16) *caller {
	return &caller{
		tally: c.tally, promises: c.promises, ids: numbers{client: number}, answered: c.recover.answered, flights: c.flights,
		dial: func(ctx context.Context) (line, error) {
			return dialWire(ctx, c.srv.socket, func(what string) { c.tally.breaks("%s", what) })
		},
	}
}

// remote starts the clients that have processes of their own.
func (c *chaos) remote() ([]*clientProcess, error) {
	var all []*clientProcess
	for i := range c.cfg.Clients {
		if !ofItsOwn(i) {
			continue
		}
		p, err := startClient(c.cfg.Executable, Spec{Socket: c.srv.socket, Seed: c.cfg.Seed, Client: uint16(i), Pools: c.shares(), Promises: c.promises})
		if err != nil {
			for _, p := range all {
				p.kill()
			}
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// underLoad runs f while the clients of this process ask, and returns when all their requests have their outcomes.
func (c *chaos) underLoad(ctx context.Context, local []*caller, f func(context.Context)) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	for _, caller := range local {
		wg.Go(func() { caller.load(ctx, stop, c.cfg.Seed, c.bytes, c.shares()) })
	}
	f(ctx)
}

// harm does everything that is done to the server, for as long as configured, and returns when the last of it has been noticed.
func (c *chaos) harm(ctx context.Context) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	rng := func(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(c.cfg.Seed, 1<<32+stream)) }
	for i, pool := range c.pools {
		j := &injector{srv: c.srv, pool: pool, caller: c.wired(uint16(clientFaults + i)), rng: rng(uint64(i)), injected: c.injected, recover: c.recover, flights: c.flights}
		if i%2 == 0 {
			c.library(j.caller)
		}
		wg.Go(func() {
			defer j.caller.close()
			j.run(ctx, stop)
		})
	}
	around := func(stream uint64, run func(*unrest)) {
		u := &unrest{
			srv: c.srv, tally: c.tally, promises: c.promises, rng: rng(stream), injected: c.injected, missing: c.missing,
			ids: &numbers{client: clientDeaf}, clients: clientOthers,
		}
		wg.Go(func() { run(u) })
	}
	around(100, func(u *unrest) { u.operate(ctx, stop) })
	around(101, func(u *unrest) { u.misuse(ctx, stop) })
	c.watch(ctx)
}

// watch waits until the time is up, and says now and then how it goes.
func (c *chaos) watch(ctx context.Context) {
	end := time.After(c.cfg.Duration)
	tick := time.NewTicker(progressing)
	defer tick.Stop()
	for begin := time.Now(); ; {
		select {
		case <-end:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
			if c.cfg.Progress != nil {
				c.tally.mu.Lock()
				requests, broken := c.tally.Requests, len(c.tally.Broken)+c.tally.More
				c.tally.mu.Unlock()
				fmt.Fprintf(c.cfg.Progress, "%4.0f s: %d requests (less those of other processes), %d faults, %d broken promises\n", time.Since(begin).Seconds(), requests, c.injected.total(), broken)
			}
		}
	}
}

// look waits until every worker is ready and nothing is under way, and says what the server then holds. If it held something before, look waits a while for what is more than that to go away.
func (c *chaos) look(ctx context.Context, before *holdings) (*holdings, error) {
	limited, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	if err := poll(limited, "all workers to be ready", func() (bool, error) { return c.srv.allReady(limited) }); err != nil {
		st, _ := c.srv.status(ctx)
		return nil, fmt.Errorf("%w: %+v", err, st.Pools)
	}
	limited, cancel = context.WithTimeout(ctx, leakWithin)
	defer cancel()
	var now *holdings
	last := -1 // goroutines at the last look
	err := poll(limited, "the server to let go", func() (bool, error) {
		st, err := c.srv.status(limited)
		if err != nil {
			return false, err
		}
		if now, err = holdingsOf(c.srv.pid()); err != nil {
			return false, err
		}
		now.Goroutines, now.Regions = st.Goroutines, st.Arenas.Regions
		for _, p := range st.Pools {
			if p.InFlight+p.Queued > 0 {
				return false, nil
			}
		}
		if before != nil {
			return len(leaked(compare(before, now), before, now)) == 0, nil
		}
		steady := last == now.Goroutines && now.Regions+now.Arenas == 0
		last = now.Goroutines
		return steady, nil
	})
	if now == nil {
		return nil, err
	}
	return now, nil
}

// ending stops the server and notes what is left of it, and what the ledger says. cause is why the chaos was not all.
func (c *chaos) ending(ctx context.Context, cause error) {
	if cause != nil && ctx.Err() == nil {
		c.tally.breaks("%v", cause)
	}
	if c.after != nil {
		c.leaks = compare(c.before, c.after)
		for _, what := range leaked(c.leaks, c.before, c.after) {
			c.tally.breaks("%s", what)
		}
	}
	segments := memfds(c.srv.pid())
	if err := c.srv.stop(stopWithin); err != nil {
		c.tally.breaks("the server did not end well: %v", err)
	}
	for what, left := range c.remains(segments) {
		if len(left) > 0 {
			c.tally.breaks("left behind: %s: %s", what, strings.Join(left, ", "))
		}
	}
	if ctx.Err() != nil {
		return // given up: the requests that were under way have no outcomes
	}
	c.tally.forgotten()
	l, err := readLedger(c.srv.ledger)
	if err != nil {
		c.tally.breaks("the ledger: %v", err)
		return
	}
	c.retried = l.check(c.tally)
}

// remains lists what is there after the server's end and should not be. It gives the kernel a moment.
func (c *chaos) remains(segments map[uint64]bool) map[string][]string {
	names := func(ps []process) []string {
		var s []string
		for _, p := range ps {
			s = append(s, p.String())
		}
		return s
	}
	var left map[string][]string
	limited, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = poll(limited, "nothing to be left", func() (bool, error) {
		left = map[string][]string{
			"processes":             names(session(c.srv.pid())),
			"users of its segments": names(memfdUsers(segments)),
			"files in /dev/shm":     sharedMemory(c.begun),
			"files":                 c.srv.litter(),
		}
		n := 0
		for _, l := range left {
			n += len(l)
		}
		return n == 0, nil
	})
	return left
}

// litter lists the files in the server's directory that nobody put there.
func (s *server) litter() []string {
	ours := []string{s.dir, s.config, s.ledger, s.log, s.tmp, filepath.Join(s.dir, "worker.py")}
	var found []string
	_ = filepath.WalkDir(s.dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil && !slices.Contains(ours, path) {
			found = append(found, path)
		}
		return nil
	})
	return found
}
