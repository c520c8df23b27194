package supervisor

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
)

// life is one process's, as its slot's goroutine sees it.
type life struct {
	slot     *slot
	inc      *incarnation
	log      *slog.Logger
	jitter   float64 // of the limits, in [0, 1)
	hangs    hangWatch
	rests    bool // as of the last look
	cut      bool // it hangs: SIGTERM has been sent, SIGKILL comes next
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
	loading := time.NewTimer(s.pool.config().StartTimeout)
	defer loading.Stop()
	tick := time.NewTimer(l.nextLook(time.Now()))
	defer tick.Stop()
	var hello <-chan *ipc.Hello // one, and not before the handshake: the two travel different ways and may arrive in any order
	for {
		s.reports()
		var changed <-chan struct{}
		var impatient <-chan time.Time
		if l.retiring != "" && !l.told && !l.cut {
			changed = l.sayDrain()
		}
		if l.told || l.cut {
			impatient = l.patience.C
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
			l.detail = fmt.Sprintf("not ready after start_timeout, %v", s.pool.config().StartTimeout)
			return l.kill("load_timeout")
		case <-s.kick:
			if l.roused() {
				tick.Reset(l.nextLook(time.Now()))
			}
			want, why, killed := s.wants()
			if want != wantProcess {
				l.retire(why)
			}
			if killed && !l.told && !l.cut {
				l.tell(inc.caller.Stop)
			}
		case now := <-tick.C:
			inc.attached.flush()
			l.lookForHangs(now)
			if why := l.overLimit(now); why != "" {
				s.pool.recycle(s, inc, why)
			}
			tick.Reset(l.nextLook(now))
		case <-changed: // look again whether it still has work
		case <-impatient:
			switch {
			case l.cut:
				l.log.Error("worker hangs and has not ended on SIGTERM: SIGKILL to its process group", "detail", l.detail)
				return l.kill("hung")
			case l.termed:
				l.detail = "it ignored SIGTERM"
				return l.kill(l.retiring)
			}
			l.log.Warn("worker does not go: SIGTERM", "cause", l.retiring)
			l.term()
		}
	}
}

// lookForHangs goes on with what is to be done about requests that are late: say so, cancel, SIGTERM; SIGKILL comes when patience is over.
func (l *life) lookForHangs(now time.Time) {
	if l.cut {
		return
	}
	lim := l.limits()
	for _, f := range l.hangs.look(now, lim, l.inc.caller.AppendOpen(nil), l.inc.ring.Taken()) {
		if f.late {
			l.log.Info("a request was cancelled, and the worker told so", "request", f.call.ID, "why", reasonOf(f.call))
		}
		switch {
		case f.hangs != "":
			l.detail = f.hangs
			l.log.Warn("worker hangs: SIGTERM, and SIGKILL if that does not help", "detail", l.detail, "request", f.call.ID, "grace", lim.grace)
			l.cut = true
			l.slot.set(stateDraining, nil)
			l.term()
			return
		case f.recall:
			l.log.Warn("a request makes no progress: the worker is told to cancel it", "request", f.call.ID, "hang_timeout", lim.timeout)
			l.inc.run.Go(func() { l.inc.caller.Recall(f.call.ID, hangReason) }) // the ring may be full; its closing ends that
		}
	}
}

// limits are the pool's at this time: a reload may change them.
func (l *life) limits() hangLimits {
	cfg := l.slot.pool.config()
	lim := hangLimits{grace: l.slot.pool.sup.hungGrace, timeout: cfg.HangTimeout, line: l.inc.ahead > 0}
	if cfg.Grace > 0 {
		lim.grace = cfg.Grace
	}
	return lim
}

// hangReason is why a request is cancelled that makes no progress.
const hangReason = "hang_timeout"

// term sends SIGTERM and starts the wait for what comes of it.
func (l *life) term() {
	l.termed = true
	l.inc.proc.signal(unix.SIGTERM)
	if l.patience == nil {
		l.patience = time.NewTimer(l.slot.pool.sup.endGrace)
	} else {
		l.patience.Reset(l.slot.pool.sup.endGrace)
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
		l.inc.probing, l.slot.tripped = l.slot.tripped, false
		l.inc.actions = make(map[string]ipc.Action, len(hello.Actions))
		for _, a := range hello.Actions {
			l.inc.actions[a.Name] = l.declared(a)
		}
		l.inc.arenas = hello.Arena > 0
		l.inc.ahead = int(min(hello.Ahead, mostLine))
		l.slot.pool.actions = l.inc.actions
		l.slot.pool.gatherings()
	})
	l.log.Info("worker ready", "sdk", clip(hello.SDK), "after", time.Since(l.inc.started).Round(time.Millisecond))
}

// declared is what a worker says of an action, without a signature that makes no sense: nobody would be helped by it, and requests do not need it.
func (l *life) declared(a ipc.Action) ipc.Action {
	if a.Signature == nil {
		return a
	}
	if err := a.Signature.Validate(); err != nil {
		l.log.Warn("what the worker says of an action's inputs and outputs makes no sense, and is not shown", "action", clip(a.Name), "error", err)
		a.Signature = nil
	}
	return a
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
	l.patience = time.NewTimer(l.slot.pool.sup.endGrace)
	l.inc.run.Go(func() { _ = message() }) // the ring's closing ends it
}

// kill ends the process at once.
func (l *life) kill(cause string) string {
	l.slot.rests() // a process that hangs in a device's driver does not even die
	l.inc.proc.kill()
	<-l.inc.proc.exited
	if l.retiring != "" && !l.cut {
		return l.retiring
	}
	return cause
}

// exitCause says why a process went that was not killed by us.
func (l *life) exitCause() string {
	if l.cut {
		return "hung"
	}
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
		l.detail = fmt.Sprintf("no handshake within %v; does the program call ringmaster's serve?", l.slot.pool.sup.handshakeTimeout)
	default:
		l.detail = firstLine(err.Error())
	}
	return "handshake"
}
