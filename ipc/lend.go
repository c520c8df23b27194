package ipc

import (
	"errors"

	"github.com/ringmasterd/ringmaster/internal/arena"
)

// attach makes an arena for the requester, on Serve's goroutine: whoever asks for much waits, and nobody else does. The descriptor goes first.
func (s *server) attach(m *Attach) error {
	switch {
	case s.cfg.Strict: // a supervisor tells of arenas elsewhere
		return nil
	case m.ID == 0:
		return s.hangUp(Errorf(InvalidArgument, "bad_message", "an attach's id must be at least 1"))
	case s.lookup(m.ID) != nil:
		return s.hangUp(duplicate(m.ID))
	}
	ring, _ := s.t.(*Ring)
	if s.cfg.Arenas == nil || ring == nil || ring.line == nil {
		return s.refuse(m.ID, errNoArenas)
	}
	region, err := s.cfg.Arenas.Make(m.Bytes)
	if err != nil {
		return s.refuse(m.ID, noArena(err))
	}
	if err := ring.line.sendFile(region.File); err != nil {
		s.cfg.Arenas.Detach(region.ID)
		return s.refuse(m.ID, arenaBusy("the arena could not be sent: %v; read the socket", err))
	}
	return send(s.t, func(e *encoder) { e.attach(&Attach{ID: m.ID, Bytes: region.Bytes, Region: region.ID}) })
}

// noArena says why there is no arena to be had.
func noArena(err error) *Error {
	var quota *arena.QuotaError
	switch {
	case errors.Is(err, arena.ErrNothing):
		return Errorf(InvalidArgument, "invalid_argument", "%v", err)
	case errors.As(err, &quota):
		return Errorf(ResourceExhausted, "arena_quota", "%v", err)
	}
	return Errorf(Unavailable, "arena", "the machine has no memory for an arena: %v", err)
}

// arenaBusy is the error of an arena that cannot be passed on now.
func arenaBusy(format string, args ...any) *Error {
	e := Errorf(Unavailable, "arena_busy", format, args...)
	e.RetryAfter = fullPause
	return e
}

// awaitRelease tells the requester when the arena memory is free that one of its requests named, which has ended for it.
func (s *server) awaitRelease(id uint64, free <-chan struct{}) {
	defer s.handlers.Done()
	select {
	case <-free:
		_ = send(s.t, func(e *encoder) { e.release(Release{ID: id}) })
	case <-s.ctx.Done():
	}
}
