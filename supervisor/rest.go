package supervisor

import "time"

// A process that has nothing to do, and no limit that it could reach, is hardly looked at: a tick a second for each of many workers would keep a processor from sleeping. Whoever gives it a request says so.
//
//	watched ──a look finds no request, no limit, nothing to tell──▶ resting
//	   ▲                                                               │
//	   └──────── a request, or another configuration: rouse ───────────┘

// restEvery is how often a process is looked at that rests, so that [Supervisor.Alive] knows that its slot's goroutine could. The looks of all slots fall together.
const restEvery = stuckAfter / 2

// nextLook is how long until the process is to be looked at again, as of now.
func (l *life) nextLook(now time.Time) time.Duration {
	s, p, owes := l.slot, l.slot.pool, l.inc.attached.owes()
	p.mu.Lock()
	defer p.mu.Unlock()
	s.resting = l.inc.inFlight == 0 && p.config().Limits == Limits{} && !owes
	if l.rests = s.resting; l.rests {
		return restEvery - now.Sub(p.sup.begin)%restEvery
	}
	return l.limits().lookEvery(p.sup.tickEvery)
}

// roused reports whether somebody has said since the last look that the process rests no more.
func (l *life) roused() bool {
	l.slot.pool.mu.Lock()
	defer l.slot.pool.mu.Unlock()
	return l.rests && !l.slot.resting
}

// rouse has the process looked at as often as its limits say. Preconditions: the pool's mu is held.
func (s *slot) rouse() {
	if s.resting {
		s.resting = false
		s.nudge()
	}
}
