package drive

import "sync/atomic"

// ways counts how requests travelled.
type ways struct {
	arena, message atomic.Int64
}

func (w *ways) note(arena bool) {
	if arena {
		w.arena.Add(1)
	} else {
		w.message.Add(1)
	}
}

func (w *ways) reset() {
	w.arena.Store(0)
	w.message.Store(0)
}

// most is how most of them did.
func (w *ways) most(cfg *Config) string {
	switch {
	case cfg.Ring == 0:
		return "socket"
	case w.arena.Load() < w.message.Load() || w.arena.Load() == 0:
		return "message"
	case cfg.Arena:
		return "arena"
	}
	return "copy"
}
