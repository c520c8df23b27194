package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
)

// state is a slot's.
//
//	        ┌───────────────────────────────────────────────────────────┐
//	        ▼                                                           │
//	┌▶ starting ──handshake──▶ loading ──hello──▶ ready ──retire──▶ draining ──▶ stopped, or starting
//	│     │                       │                 │                   │
//	│     └────────── death ──────┴─────────────────┴───────────────────┘ (a death while draining was asked for: no backoff)
//	│                   ▼
//	└──── time ──── backoff, or failed after five starts in a row that never became ready
type state uint8

const (
	stateStopped state = iota // no process, and none wanted
	stateFailed               // no process; starts keep failing, tried again every backoffMax
	stateBackoff              // no process; waiting before the next start
	stateDraining
	stateStarting // spawned, no handshake yet
	stateLoading  // shaken hands, not ready yet
	stateReady
)

func (s state) String() string {
	return [...]string{"stopped", "failed", "backoff", "draining", "starting", "loading", "ready"}[s]
}

// better reports whether s is nearer to serving than other.
func (s state) better(other state) bool { return s > other }

// givenUp reports whether nothing will come of the slot soon.
func (s state) givenUp() bool { return s == stateFailed || s == stateStopped }

// slot is one place in a pool. Its goroutine, run, is the single writer of its state and owns its process; others say what they want and kick it.
type slot struct {
	pool  *pool
	index int
	sup   *Supervisor
	kick  chan struct{} // capacity 1: what is wanted has changed

	// Guarded by pool.mu. Written by run alone, but for the first three.
	stopped bool // wanted: no process
	killed  bool // wanted: no process, and at once
	wanted  int  // wanted: a process of at least this generation

	generation int // of the current process
	state      state
	accepting  bool         // requests may be dispatched: the process is ready and not to go
	inc        *incarnation // the current process; nil if there is none
	sdk        string
	starts     int
	served     uint64
	lastExit   *Exit

	backoff backoff // run's own
}

// want changes what is wanted of the slot; change runs with the pool's lock held.
func (s *slot) want(change func(*slot)) {
	s.pool.mu.Lock()
	change(s)
	s.pool.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// set changes the slot's state. change, which may be nil, runs with the pool's lock held.
func (s *slot) set(st state, change func()) {
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	s.state = st
	s.accepting = st == stateReady
	if change != nil {
		change()
	}
	if s.accepting {
		p.dispatch()
	} else if err := p.hopeless(); err != nil {
		p.refuseWaiters(err)
	}
	p.broadcast()
}

// wants returns what is wanted.
func (s *slot) wants() (stopped, killed bool, generation int) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	return s.stopped, s.killed, s.wanted
}

// run keeps a process alive until ctx ends and no process is wanted any more.
func (s *slot) run(ctx context.Context) {
	s.backoff = backoff{first: s.sup.backoffFirst, max: s.sup.backoffMax}
	for {
		stopped, killed, generation := s.wants()
		if stopped || killed {
			s.set(stateStopped, nil)
			select {
			case <-s.kick:
				continue
			case <-ctx.Done():
				return
			}
		}
		s.set(stateStarting, func() { s.generation = generation; s.starts++ })
		exit, wasReady := s.live()
		next, wait := stateStarting, time.Duration(0)
		if exit.planned() {
			s.backoff.inRow = 0
		} else {
			next, wait = stateBackoff, s.backoff.fail(time.Now(), wasReady, rand.Float64())
			if s.backoff.failed() {
				next = stateFailed
			}
		}
		s.set(next, func() { s.inc, s.lastExit = nil, exit })
		if exit.planned() {
			continue
		}
		s.log(0).Warn("worker ended", "cause", exit.Cause, "detail", exit.Detail, "next", next.String(), "restart_in", wait.Round(time.Millisecond))
		select {
		case <-time.After(wait):
		case <-s.kick:
			s.backoff.inRow = 0 // somebody wants it now
		}
	}
}

func (s *slot) log(pid int) *slog.Logger {
	l := s.pool.log.With("pool", s.pool.cfg.Name, "slot", s.index)
	if pid != 0 {
		l = l.With("pid", pid)
	}
	return l
}

// live runs one process from its spawn to its burial.
func (s *slot) live() (exit *Exit, wasReady bool) {
	cfg := &s.pool.cfg
	log := s.log(0)
	inc, err := start(launch{
		argv: s.argv(), env: s.env(), dir: cfg.Dir, limit: s.sup.cfg.MaxMessage,
		handshake: s.sup.handshakeTimeout, log: log, spawner: s.sup.spawner, guard: s.sup.guard, confine: cfg,
	})
	if err != nil {
		return &Exit{Cause: "spawn", Detail: err.Error()}, false
	}
	log = s.log(inc.proc.pid)
	log.Info("worker started", "argv", strings.Join(s.argv(), " "))
	s.set(stateStarting, func() { s.inc = inc })

	life := &life{slot: s, inc: inc, log: log, limits: cfg.Limits.jittered(rand.Float64())}
	cause := life.run()
	s.set(stateDraining, nil) // whatever happened: dispatch nothing to it any more
	<-inc.proc.exited
	exit = &Exit{Cause: cause, Detail: inc.proc.status, Stderr: inc.out.last()}
	if life.detail != "" {
		exit.Detail = life.detail + " (" + inc.proc.status + ")"
	}
	inc.bury(ipc.Errorf(ipc.Aborted, "worker_lost", "worker %s/%d (pid %d) died while it had the request: %s; try again if the action may run twice",
		cfg.Name, s.index, inc.proc.pid, exit.describe()))
	exit.Stderr = inc.out.last() // now complete
	if exit.planned() {
		log.Info("worker stopped", "cause", exit.Cause, "detail", exit.Detail)
	}
	return exit, life.wasReady
}

// life is one process's, as its slot's goroutine sees it.
type life struct {
	slot     *slot
	inc      *incarnation
	log      *slog.Logger
	limits   Limits
	shaken   bool
	wasReady bool
	detail   string // of the death's cause

	retiring string      // cause, once the process is to go: it finishes what it has
	told     bool        // drain or stop has been sent
	patience *time.Timer // then: until the next step
	termed   bool        // then: SIGTERM has been sent
}

// run watches over the process until it is dead, and returns why it went.
func (l *life) run() (cause string) {
	s, inc := l.slot, l.inc
	loading := time.NewTimer(s.pool.cfg.StartTimeout)
	defer loading.Stop()
	tick := time.NewTicker(s.sup.tickEvery)
	defer tick.Stop()
	var hello <-chan *ipc.Hello // one, and not before the handshake: the two travel different ways and may arrive in any order
	for {
		var changed <-chan struct{}
		var impatient <-chan time.Time
		switch {
		case l.told:
			impatient = l.patience.C
		case l.retiring != "":
			changed = l.sayDrain()
		}
		select {
		case <-inc.proc.exited:
			return l.exitCause()
		case err := <-inc.broken:
			l.detail = clip(err.Error()) // it may quote the worker
			l.log.Error("worker broke the protocol", "error", l.detail)
			return l.kill("protocol")
		case err := <-inc.shaken:
			l.shaken = true
			if err != nil {
				return l.handshakeFailed(err)
			}
			hello = inc.hello
			if l.retiring == "" {
				s.set(stateLoading, nil)
			}
		case said := <-hello:
			hello = nil
			loading.Stop()
			l.ready(said)
		case <-loading.C:
			l.detail = fmt.Sprintf("not ready after start_timeout, %v", s.pool.cfg.StartTimeout)
			return l.kill("load_timeout")
		case <-s.kick:
			stopped, killed, generation := s.wants()
			switch {
			case killed:
				l.retire("stopped")
				if !l.told {
					l.tell(inc.caller.Stop)
				}
			case stopped:
				l.retire("stopped")
			case generation > s.generation:
				l.retire("restarted")
			}
		case now := <-tick.C:
			if since, ok := inc.caller.Overdue(); ok && now.Sub(since) > s.sup.hungGrace {
				l.detail = fmt.Sprintf("a request was cancelled or past its deadline %v ago and has not ended", now.Sub(since).Round(time.Second))
				l.log.Error("worker hangs", "detail", l.detail)
				return l.kill("hung")
			}
			if why := l.overLimit(now); why != "" && l.retiring == "" && l.wasReady {
				l.log.Info("worker is recycled", "limit", why)
				l.retire("recycled")
			}
		case <-changed: // look again whether it still has work
		case <-impatient:
			if l.termed {
				l.detail = "it ignored SIGTERM"
				return l.kill(l.retiring)
			}
			l.termed = true
			inc.proc.signal(unix.SIGTERM)
			l.patience.Reset(s.sup.endGrace)
		}
	}
}

// ready opens the slot for requests.
func (l *life) ready(hello *ipc.Hello) {
	l.wasReady = true
	if l.retiring != "" {
		return
	}
	l.slot.set(stateReady, func() {
		l.slot.sdk = clip(hello.SDK)
		l.slot.pool.actions = map[string]ipc.Action{}
		for _, a := range hello.Actions {
			l.slot.pool.actions[a.Name] = a
		}
	})
	l.log.Info("worker ready", "sdk", clip(hello.SDK), "after", time.Since(l.inc.started).Round(time.Millisecond))
}

// retire has the process finish what it has and go. Before it is ready there is nothing to finish.
func (l *life) retire(cause string) {
	if l.retiring != "" {
		return
	}
	l.retiring = cause
	l.slot.set(stateDraining, nil)
	l.inc.seg.SetSupervisorState(shm.StateDrain)
	if !l.wasReady {
		l.inc.proc.kill()
	}
}

// sayDrain tells a retiring process to go once it has nothing left to do, and returns what to wait for otherwise. Only then: a request that was leased may not have been sent yet.
func (l *life) sayDrain() (changed <-chan struct{}) {
	p := l.slot.pool
	p.mu.Lock()
	busy, changed := l.inc.inFlight > 0, p.changed
	p.mu.Unlock()
	if busy {
		return changed
	}
	l.tell(l.inc.caller.Drain)
	return nil
}

// tell sends drain or stop. Not on this goroutine: a ring that a stuck worker does not read may be full.
func (l *life) tell(message func() error) {
	l.told = true
	l.patience = time.NewTimer(l.slot.sup.endGrace)
	l.inc.run.Go(func() { _ = message() }) // the ring's closing ends it
}

// kill ends the process at once.
func (l *life) kill(cause string) string {
	l.inc.proc.kill()
	<-l.inc.proc.exited
	if l.retiring != "" {
		return l.retiring
	}
	return cause
}

// exitCause says why a process went that was not killed by us.
func (l *life) exitCause() string {
	if l.retiring != "" {
		return l.retiring
	}
	if !l.shaken {
		if err := <-l.inc.shaken; err != nil { // comes at once: the process is dead
			return l.handshakeFailed(err)
		}
	}
	if !l.wasReady {
		l.detail = "before it was ready"
	}
	return l.inc.proc.deathCause()
}

// handshakeFailed tells a process that said something else than the handshake, or nothing in time, from one that ended before it.
func (l *life) handshakeFailed(err error) string {
	l.kill("")
	if l.retiring != "" {
		return l.retiring
	}
	said, garbage := strings.CutPrefix(firstLine(err.Error()), "Unrecognized remote plugin message: ")
	switch {
	case strings.HasSuffix(err.Error(), "\nFailed to read any lines from plugin's stdout"), strings.Contains(err.Error(), "exited before we could connect"):
		l.detail = "before the handshake"
		return l.inc.proc.deathCause()
	case garbage:
		l.detail = fmt.Sprintf("its first line on stdout is not the handshake: %.200q; print to stderr instead", said)
	case strings.Contains(err.Error(), "timeout"):
		l.detail = fmt.Sprintf("no handshake within %v; does the program call ringmaster's serve?", l.slot.sup.handshakeTimeout)
	default:
		l.detail = firstLine(err.Error())
	}
	return "handshake"
}

// overLimit says which limit the process has reached, if any.
func (l *life) overLimit(now time.Time) string {
	lim := l.limits
	if lim.Lifetime > 0 && now.Sub(l.inc.started) > lim.Lifetime {
		return "lifetime"
	}
	if lim.Requests > 0 {
		l.slot.pool.mu.Lock()
		served := l.inc.served
		l.slot.pool.mu.Unlock()
		if served >= lim.Requests {
			return "requests"
		}
	}
	if lim.RSS > 0 {
		if rss := residentBytes(l.inc.proc.pid); rss > lim.RSS {
			return fmt.Sprintf("rss (%d bytes)", rss)
		}
	}
	return ""
}

// jittered shortens the limits on requests and lifetime by up to a tenth, but never to none; r is in [0, 1).
func (l Limits) jittered(r float64) Limits {
	f := 1 - r/10
	return Limits{RSS: l.RSS, Requests: uint64(math.Ceil(float64(l.Requests) * f)), Lifetime: time.Duration(math.Ceil(float64(l.Lifetime) * f))}
}

func (s *slot) argv() []string {
	if b := s.pool.cfg.Builtin; b != "" {
		return []string{s.sup.cfg.Executable, "worker", "--builtin", b}
	}
	return s.pool.cfg.Command
}

// status describes the slot. Preconditions: the pool's mu is held.
func (s *slot) status() WorkerStatus {
	st := WorkerStatus{
		Slot: s.index, State: s.state.String(), Restarts: max(0, s.starts-1), Requests: s.served, SDK: s.sdk, LastExit: s.lastExit,
	}
	st.Devices, _ = visibleDevices(s.pool.cfg.Devices, s.index, s.sup.devices)
	if s.inc != nil {
		st.PID, st.InFlight = s.inc.proc.pid, s.inc.inFlight
		st.UptimeS = time.Since(s.inc.started).Seconds()
	}
	return st
}
