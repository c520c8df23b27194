package supervisor

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// state is a slot's.
//
//	        ┌───────────────────────────────────────────────────────────┐
//	        ▼                                                           │
//	┌▶ starting ──handshake──▶ loading ──hello──▶ ready ──retire──▶ draining ──▶ stopped
//	│     │                       │                 │                   │
//	│     └────────── death ──────┴─────────────────┴───────────────────┘ (a death while draining was asked for: no backoff)
//	│                   ▼
//	└──── time ──── backoff, or failed after five processes in a row that answered nothing
type state uint8

const (
	stateStopped state = iota // no process, and none wanted
	stateFailed               // no process; they keep failing, tried again every backoffMax
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

// want is what others want of a slot. It only ever grows.
type want uint8

const (
	wantProcess want = iota
	wantNone         // no process; the slot keeps its place
	wantGone         // neither
)

// slot keeps one worker process running in one place of its pool: processes follow one another. Its goroutine, run, is the single writer of its state and owns its process; others say what they want and kick it.
// A slot's configuration never changes; what needs another one gets another slot (roll.go).
type slot struct {
	pool  *pool
	cfg   *PoolConfig // what it points to is immutable, with defaults
	index int         // of its place
	place *place
	kick  chan struct{} // capacity 1: what is wanted has changed

	// Guarded by pool.mu.
	want      want
	why       string    // it is wanted so: the cause of its process's exit
	killed    bool      // no process is wanted, and at once
	heir      *slot     // takes the place, and is started, when this one is gone
	resting   bool      // run hardly looks at its process
	recycling time.Time // when its replacement was last tried; zero: never

	// Guarded by pool.mu, written by run alone.
	state     state
	accepting bool         // requests may be dispatched: the process is ready and not to go
	inc       *incarnation // the current process; nil if there is none
	sdk       string
	failures  int       // processes in a row that died before they had answered a request
	tripped   bool      // too many, and none has been ready since
	next      time.Time // the next start, in backoff and failed

	due     atomic.Int64 // when run will have reported again, in Unix nanoseconds; 0: it may wait for as long as it takes. Read by Answer
	backoff backoff      // run's own
}

// place is what is remembered over the slots that follow each other in one place. Guarded by pool.mu.
type place struct {
	starts   int
	served   uint64
	lastExit *Exit
}

func newSlot(p *pool, cfg *PoolConfig, index int, pl *place) *slot {
	return &slot{pool: p, cfg: cfg, index: index, place: pl, kick: make(chan struct{}, 1), state: stateStarting}
}

// places is how many requests the slot's process may have at a time: one until the first is answered, if those before it answered none. Preconditions: the pool's mu is held, there is a process.
func (s *slot) places() int {
	if s.inc.probing {
		return 1
	}
	return s.cfg.Concurrency
}

// givenUp reports whether nothing will come of the slot soon. Preconditions: the pool's mu is held.
func (s *slot) givenUp() bool {
	return s.heir == nil && (s.want != wantProcess && s.inc == nil || s.state == stateStopped || s.tripped)
}

// wish asks for more than was asked for so far.
func (s *slot) wish(w want, why string) {
	s.change(func() { s.ask(w, why) })
}

// ask is wish's inner half. Preconditions: the pool's mu is held, and the slot is kicked afterwards.
func (s *slot) ask(w want, why string) {
	if s.want < w {
		if s.want == wantProcess {
			s.why = why
		}
		s.want = w
	}
}

// kill asks for the end of the process, finished or not.
func (s *slot) kill() {
	s.change(func() {
		s.ask(wantNone, "stopped")
		s.killed = true
	})
}

// change runs f with the pool's lock held and kicks the slot.
func (s *slot) change(f func()) {
	s.pool.mu.Lock()
	f()
	s.pool.mu.Unlock()
	s.nudge()
}

func (s *slot) nudge() {
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
	s.accepting = st == stateReady && slices.Contains(p.slots, s)
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
func (s *slot) wants() (w want, why string, killed bool) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	return s.want, s.why, s.killed
}

// run keeps a process alive until the slot is wanted no more, or no process is and ctx ends.
func (s *slot) run(ctx context.Context) {
	defer s.pool.left(s)
	sup := s.pool.sup
	s.backoff = backoff{first: sup.backoffFirst, max: sup.backoffMax}
	for {
		switch w, _, _ := s.wants(); w {
		case wantGone:
			return
		case wantNone:
			s.set(stateStopped, nil)
			select {
			case <-s.kick:
				continue
			case <-ctx.Done():
				return
			}
		}
		s.set(stateStarting, func() { s.place.starts++ })
		exit, worked := s.live()
		if exit.planned() {
			s.set(stateStopped, func() { s.buried(exit) })
			continue
		}
		now := time.Now()
		wait := s.backoff.fail(now, worked, rand.Float64())
		next := stateBackoff
		if s.backoff.failed() {
			next = stateFailed
		}
		s.set(next, func() {
			s.buried(exit)
			s.failures, s.tripped, s.next = s.backoff.inRow, s.backoff.failed(), now.Add(wait)
		})
		s.log(0).Warn("worker ended", "cause", exit.Cause, "detail", exit.Detail, "next", next.String(), "restart_in", wait.Round(time.Millisecond))
		if next == stateFailed {
			s.log(0).Error("worker is in a crash loop", "processes", s.backoff.inRow, "last", exit.describe())
		}
		pause := time.NewTimer(wait)
		select {
		case <-pause.C:
		case <-s.kick:
			pause.Stop()
		}
	}
}

// buried remembers how the process ended. Preconditions: the pool's mu is held.
func (s *slot) buried(exit *Exit) {
	s.inc, s.place.lastExit = nil, exit
	s.pool.exits[exit.Cause]++
}

func (s *slot) log(pid int) *slog.Logger {
	l := s.pool.log.With("slot", s.index)
	if pid != 0 {
		l = l.With("pid", pid)
	}
	return l
}

// live runs one process from its spawn to its burial. worked says that it answered a request.
func (s *slot) live() (exit *Exit, worked bool) {
	cfg, sup := s.cfg, s.pool.sup
	log := s.log(0)
	defer s.rests()
	s.reports()
	inc, err := start(launch{
		argv: s.argv(), env: s.env(), dir: cfg.Dir, limit: sup.cfg.MaxMessage,
		handshake: sup.handshakeTimeout, log: log, spawner: sup.spawner, guard: sup.guard, confine: cfg,
	})
	if err != nil {
		return &Exit{Cause: "spawn", Detail: err.Error()}, false
	}
	log = s.log(inc.proc.pid)
	log.Info("worker started", "argv", strings.Join(s.argv(), " "))
	s.set(stateStarting, func() { s.inc = inc })

	life := &life{slot: s, inc: inc, log: log, jitter: rand.Float64()}
	cause := life.run()
	s.rests()
	s.set(stateDraining, nil) // whatever happened: dispatch nothing to it any more
	<-inc.proc.exited
	exit = &Exit{Cause: cause, Detail: inc.proc.status, Stderr: inc.out.last()}
	if life.detail != "" {
		exit.Detail = life.detail + " (" + inc.proc.status + ")"
	}
	inc.blame = !exit.planned()
	inc.lost.Store(ipc.Errorf(ipc.Aborted, "worker_lost", "worker %s/%d (pid %d) died while it had the request: %s; try again if the action may run twice",
		s.pool.name, s.index, inc.proc.pid, exit.describe()))
	inc.bury()
	exit.Stderr = inc.out.last() // now complete
	if exit.planned() {
		log.Info("worker stopped", "cause", exit.Cause, "detail", exit.Detail)
	}
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	return exit, inc.served > 0
}

func (s *slot) argv() []string {
	if b := s.cfg.Builtin; b != "" {
		return []string{s.pool.sup.cfg.Executable, "worker", "--builtin", b}
	}
	return s.cfg.Command
}

// status describes the slot. Preconditions: the pool's mu is held.
func (s *slot) status() WorkerStatus {
	st := WorkerStatus{
		Slot: s.index, State: s.state.String(), Restarts: max(0, s.place.starts-1), Requests: s.place.served, SDK: s.sdk, LastExit: s.place.lastExit,
	}
	st.Devices, _ = visibleDevices(s.cfg.Devices, s.index, s.pool.sup.devices)
	if s.inc != nil {
		st.PID, st.InFlight = s.inc.proc.pid, s.inc.inFlight
		st.UptimeS = time.Since(s.inc.started).Seconds()
	}
	return st
}
