package supervisor

import (
	"context"
	"slices"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// stuckAfter is how long a slot's goroutine may be silent that looks at its process from time to time, or starts one.
const stuckAfter = 20 * time.Second

// Alive finds out whether the supervisor is alive itself, whatever its workers do: it fails when a lock is not to be had, or when a slot's goroutine has long been stuck while it started or watched
// over a process. It is what a watchdog asks. A look that is stuck goes on after ctx has ended; until it is through, every further one fails at once.
func (s *Supervisor) Alive(ctx context.Context) error {
	if !s.answering.TryLock() {
		return ipc.Errorf(ipc.Unavailable, "stuck", "the supervisor: somebody holds one of its locks and does not let go")
	}
	answer := make(chan error, 1)
	go func() {
		err := s.look(time.Now())
		s.answering.Unlock() // first: whoever has the answer may ask again at once
		answer <- err
	}()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ipc.AsError(context.Cause(ctx))
	}
}

// look takes every pool's lock in turn and looks for slots that should have reported.
func (s *Supervisor) look(now time.Time) error {
	pools, err := s.chosen("")
	if err != nil {
		return err
	}
	for _, p := range pools {
		if err := p.look(now); err != nil {
			return err
		}
	}
	return nil
}

func (p *pool) look(now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range slices.Concat(p.slots, p.extra) {
		if late := s.late(now); late > 0 {
			return ipc.Errorf(ipc.Unavailable, "stuck", "the supervisor: the goroutine of worker %s/%d, which is %s, has been silent for %v", p.name, s.index, s.state, (stuckAfter + late).Round(time.Second))
		}
	}
	return nil
}

// reports says that run is at work, and will say so again soon.
func (s *slot) reports() { s.due.Store(time.Now().Add(stuckAfter).UnixNano()) }

// rests says that run waits for something that may take any time.
func (s *slot) rests() { s.due.Store(0) }

// late is for how long run should have reported, 0 if it is in time.
func (s *slot) late(now time.Time) time.Duration {
	due := s.due.Load()
	if due == 0 {
		return 0
	}
	return max(0, now.Sub(time.Unix(0, due)))
}
