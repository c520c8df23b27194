package ipc

import "context"

// BatchHandler is a [Handler] that answers several requests in one call.
//
//	request, held ─┐                 ┌─ cancel: it ends at once
//	request, held ─┼─▶ held, by id ──┤
//	request, held ─┘                 └─ batch [id, id, …] ──▶ ServeBatch, on a goroutine of its own
//
// To a handler that is not one, a held request is one like any other, and batches are ignored.
type BatchHandler interface {
	Handler
	// ServeBatch must end every request, as ServeRequest does its one; there is at least one.
	ServeBatch(members []Member)
}

// Member is one of the requests of a call.
type Member struct {
	Ctx     context.Context // ends when the requester cancels, the request's deadline passes or the connection dies
	Request *Request
	W       *Responder
}

// hold keeps a request until a batch names it.
func (s *server) hold(m Member) {
	if s.held == nil {
		s.held = map[uint64]Member{}
	}
	s.held[m.Request.ID] = m
	s.active.Add(1)
}

// letGo ends a request that is cancelled before a batch has named it; false: there is no such request.
func (s *server) letGo(c Cancel) bool {
	m, ok := s.held[c.ID]
	if !ok {
		return false
	}
	delete(s.held, c.ID)
	_ = m.W.Fail(cancelCause(c.Reason)) // an error is the transport's death, which Recv will tell
	s.settle(m)
	s.returned(1)
	return true
}

// startBatch runs those of the held requests that the batch names.
func (s *server) startBatch(b *Batch) {
	var members []Member
	for _, id := range b.IDs {
		if m, ok := s.held[id]; ok {
			delete(s.held, id)
			members = append(members, m)
		}
	}
	if len(members) == 0 {
		return
	}
	s.handlers.Add(1)
	go s.handleBatch(members)
}

func (s *server) handleBatch(members []Member) {
	defer func() {
		for _, m := range members {
			if !m.W.ended {
				_ = m.W.End(&Reply{})
			}
			s.settle(m)
		}
		s.returned(len(members))
		s.handlers.Done()
	}()
	s.batches.ServeBatch(members)
}

// settle frees what a request holds that has been ended.
func (s *server) settle(m Member) {
	m.W.release()
	m.W.charge.End()
}

// returned counts requests down whose handler is done with them.
func (s *server) returned(n int) {
	if s.active.Add(-int64(n)) == 0 && s.draining.Load() {
		s.drain()
	}
}

// forgetHeld frees what held requests hold once nothing is received any more.
func (s *server) forgetHeld() {
	for _, m := range s.held {
		_ = m.W.Fail(context.Cause(m.Ctx)) // nobody will hear it
		s.settle(m)
	}
	s.held = nil
}
