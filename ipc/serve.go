package ipc

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringmasterd/ringmaster/internal/arena"
	"github.com/ringmasterd/ringmaster/internal/budget"
	"github.com/ringmasterd/ringmaster/internal/deadline"
)

// Handler answers requests, any number at a time. ctx ends when the requester cancels, the request's deadline passes or the connection dies. ServeRequest must end the request
// with End or Fail; one that returns without has its request ended with an empty reply.
type Handler interface {
	ServeRequest(ctx context.Context, req *Request, w *Responder)
}

// ServeConfig tunes [Serve].
type ServeConfig struct {
	MaxInFlight  int           // open requests at a time; more are refused with RESOURCE_EXHAUSTED/too_many_requests. Held ones have a limit of their own, [MaxBatch] times as many. 0: 1024
	Strict       bool          // a malformed message (a bad tensor apart) ends Serve, as towards a supervisor; otherwise it ends only its request
	StallTimeout time.Duration // how long Responder.Send waits for credit before it gives up with RESOURCE_EXHAUSTED/slow_reader; 0: for ever
	Drain, Stop  func()        // the peer said so; called on Serve's goroutine, must not block

	// Account, if not nil, is charged for what the requester makes this process hold: its requests from before their bytes are read until their handlers have returned, and the replies that wait
	// for it. What is too much is refused with RESOURCE_EXHAUSTED/memory_full, /too_many_requests or /slow_reader.
	Account *budget.Account

	// Admit, if not nil, is asked before that, with the size of each message in bytes; an error refuses it unread. Called on Serve's goroutine, must not block.
	Admit func(size int) *Error

	// Crew, if not nil, runs the handlers; its owner closes it after Serve. nil: Serve has one of its own.
	Crew *Crew
	// Lead, if not nil, says of a request that its handler is through with it at once, or says [Request.Waits] first: it then runs on the goroutine that has read the request. Called on that.
	Lead func(*Request) bool
	// Arenas are those that the requester, a client with rings, may attach and name in requests; nil: it may have none.
	Arenas *arena.Set

	Refused func(*Error) // a request was refused for want of room; called on Serve's goroutine, must not block

	// Draining, once closed, makes Serve return nil as soon as no request is open. Requests that arrive while others are open are served.
	Draining <-chan struct{}

	// Ending, if not nil, is called when Serve has received its last message, with what it is going to return, before it waits for the handlers: one that does not
	// listen to its context may take for ever.
	Ending func(error)
}

// Serve answers requests from t until t ends, the peer breaks the protocol or cfg.Draining has run its course, and returns why. By then it has closed t, cancelled what was
// open and joined every handler. The end of ctx cancels the requests; it does not end Serve, closing t does.
func Serve(ctx context.Context, t Transport, h Handler, cfg ServeConfig) error {
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = 1024
	}
	ctx, cancel := context.WithCancelCause(ctx)
	if cfg.Crew == nil {
		cfg.Crew = NewCrew(ownCrew)
		defer cfg.Crew.Close()
	}
	s := &server{messages: decoder{serves: true}, over: make(chan error, 1), t: t, h: h, cfg: cfg, ctx: ctx, open: map[uint64]*Responder{}, room: admission{account: cfg.Account, ask: cfg.Admit}}
	s.batches, _ = h.(BatchHandler)
	s.room.watch(t)
	if cfg.Draining != nil {
		s.handlers.Go(s.awaitDraining)
	}
	cancelled := make(chan struct{})
	context.AfterFunc(ctx, func() {
		s.cancelAll()
		close(cancelled)
	})
	if cfg.Lead != nil {
		cfg.Crew.lookout.join(s)
		defer cfg.Crew.lookout.leave(s)
	}
	s.burst.follow(t)
	s.cfg.Crew.handle(job{s: s})
	err := <-s.over
	cancel(Errorf(Cancelled, "disconnected", "the connection to the requester is gone"))
	<-cancelled
	_ = t.Close() // or a handler could wait for ever for a peer that does not read
	if s.drained.Load() {
		err = nil
	}
	s.forgetHeld()
	if cfg.Ending != nil {
		cfg.Ending(err)
	}
	s.handlers.Wait()
	return err
}

// ownCrew is how many goroutines wait for requests where [ServeConfig] does not say.
const ownCrew = 64

type server struct {
	t        Transport
	h        Handler
	batches  BatchHandler // h, if it is one
	cfg      ServeConfig
	ctx      context.Context
	over     chan error // capacity 1: why the reading has ended
	leading  leading
	burst    burst          // of the goroutine that reads
	handlers sync.WaitGroup // and awaitDraining
	room     admission      // run only
	messages decoder        // run only

	held map[uint64]Member // Serve's: requests that no batch has named yet

	active   atomic.Int64 // requests whose handlers have not returned, or not begun: held ones
	draining atomic.Bool
	drained  atomic.Bool // draining, and active was seen 0: nothing more is received

	mu       sync.Mutex
	open     map[uint64]*Responder // guarded by mu
	openHeld int                   // guarded by mu: of open, those that came held
}

// awaitDraining passes cfg.Draining on. Of it and the last handler, whoever comes second finds the other's mark.
func (s *server) awaitDraining() {
	select {
	case <-s.cfg.Draining:
		s.draining.Store(true)
		if s.active.Load() == 0 {
			s.drain()
		}
	case <-s.ctx.Done():
	}
}

func (s *server) drain() {
	s.drained.Store(true)
	flush(s.t)
	_ = s.t.Close()
}

// read receives until the transport ends, the peer breaks the protocol or cfg.Draining has run its course, which it then says to over, or another goroutine reads on.
func (s *server) read() {
	err := s.run()
	if err == errPassed { //nolint:errorlint // it is no error, and never wrapped
		return
	}
	s.room.settle()
	s.burst.flush()
	s.over <- err
}

func (s *server) run() error {
	for {
		s.room.settle()
		if s.drained.Load() {
			return nil // what is still in the transport was never read
		}
		b, err := s.t.Recv()
		if s.cfg.Lead != nil {
			s.burst.received(s.t)
		}
		if err != nil {
			if err := s.unreceived(err); err != nil {
				return err
			}
			continue
		}
		m, err := s.messages.decode(b)
		if err != nil {
			if err := s.malformed(m, AsError(err)); err != nil {
				return err
			}
			continue
		}
		req, ok := m.(*Request)
		if ok {
			if err := s.start(req); err != nil {
				return err
			}
			continue
		}
		s.burst.flush() // what follows may take waiting
		switch m := m.(type) {
		case Cancel:
			if s.letGo(m) {
				break
			}
			if w := s.lookup(m.ID); w != nil {
				w.ctx.Cancel(cancelCause(m.Reason))
				w.wake(false, nil)
			}
		case Credit:
			if w := s.lookup(m.ID); w != nil {
				w.grant(m.N)
			}
		case Ping:
			if !m.Answer {
				if err := send(s.t, func(e *encoder) { e.ping(Ping{ID: m.ID, Answer: true}) }); err != nil {
					return err
				}
			}
		case *Attach:
			if err := s.attach(m); err != nil {
				return err
			}
		case Detach:
			if s.cfg.Arenas != nil {
				s.cfg.Arenas.Detach(m.Region)
			}
		case *Batch:
			s.startBatch(m)
		case Kind:
			switch {
			case m == KindDrain && s.cfg.Drain != nil:
				s.cfg.Drain()
			case m == KindStop && s.cfg.Stop != nil:
				s.cfg.Stop()
			}
		}
	}
}

// cancelAll ends the contexts of all open requests with ours.
func (s *server) cancelAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.open {
		w.ctx.Cancel(s.ctx.Err())
		w.wake(false, nil)
	}
}

func (s *server) lookup(id uint64) *Responder {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[id]
}

// start gives a request to the handler.
func (s *server) start(req *Request) error {
	if req.ID == 0 {
		return s.hangUp(Errorf(InvalidArgument, "bad_message", "a request's id must be at least 1"))
	}
	if !s.cfg.Strict { // else the handler knows the arenas
		if bad := claim(s.cfg.Arenas, req); bad != nil {
			if s.lookup(req.ID) != nil {
				return s.hangUp(duplicate(req.ID))
			}
			return s.refuse(req.ID, bad)
		}
	}
	w := req.responder
	w.s, w.id, w.credit, w.held, w.arenas = s, req.ID, req.Credit, req.Held && s.batches != nil, req.Arenas
	var due time.Time
	if req.Timeout > 0 {
		due = time.Now().Add(req.Timeout)
	}
	w.ctx.Owned()
	w.ctx.Begin(s.ctx, due)
	refusal := s.room.begin(req)
	s.mu.Lock()
	_, dup := s.open[req.ID]
	full := len(s.open)-s.openHeld >= s.cfg.MaxInFlight
	if w.held {
		full = s.openHeld >= s.cfg.MaxInFlight*MaxBatch
	}
	begun := !dup && !full && refusal == nil
	if begun {
		s.open[req.ID] = w
		if w.held {
			s.openHeld++
		}
	}
	s.mu.Unlock()
	if !begun {
		w.release()
		w.arenas.Settle()
		if refusal == nil {
			s.cfg.Account.Leave()
		}
		if dup {
			return s.hangUp(duplicate(req.ID))
		}
		if full {
			refusal = Errorf(ResourceExhausted, "too_many_requests", "%d requests are open on this connection, the most it may have; wait for some to end", s.cfg.MaxInFlight)
			refusal.RetryAfter = fullPause
		}
		return s.refuse(req.ID, refusal)
	}
	if err := s.ctx.Err(); err != nil {
		w.ctx.Cancel(err) // cancelAll may not have seen it
		w.wake(false, nil)
	}
	s.room.hand(req, &w.charge)
	if w.held {
		s.hold(Member{&w.ctx, req, w})
		return nil
	}
	s.active.Add(1)
	s.handlers.Add(1)
	if s.cfg.Lead != nil && s.cfg.Lead(req) {
		return s.lead(req, w)
	}
	s.cfg.Crew.handle(job{s, req, w})
	return nil
}

func duplicate(id uint64) *Error {
	return Errorf(InvalidArgument, "duplicate_id", "request id %d is already open on this connection", id)
}

func (s *server) handle(req *Request, w *Responder) {
	defer func() {
		if !w.away {
			w.finish()
		}
	}()
	s.h.ServeRequest(&w.ctx, req, w)
}

// finish ends a request whose handler is done with it.
func (w *Responder) finish() {
	if !w.ended {
		_ = w.End(&Reply{})
	}
	w.release()
	w.arenas.Settle()
	w.charge.End()
	w.s.returned(1)
	w.s.handlers.Done()
}

// unreceived deals with an error of Recv; nil: the connection goes on.
func (s *server) unreceived(err error) error {
	var skipped *SkippedError
	switch {
	case errors.As(err, &skipped):
		return s.skipped(skipped)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return s.hangUp(Errorf(DeadlineExceeded, "deadline", "a message that had begun did not go on; send each without a pause"))
	}
	return err
}

func (s *server) malformed(m any, err *Error) error {
	if s.cfg.Strict && err.Reason != "bad_tensor" {
		return protocolErrorf("%s", err.Message)
	}
	var id uint64
	switch m := m.(type) {
	case *Request:
		id = m.ID
	case *Reply:
		id = m.ID
	}
	if id == 0 || s.lookup(id) != nil {
		return s.hangUp(err)
	}
	s.burst.flush()
	return send(s.t, func(e *encoder) { e.reply(&Reply{ID: id, End: true, Err: err}) })
}

// skipped answers a message that was not kept.
func (s *server) skipped(e *SkippedError) error {
	k, id, ok := DecodeHead(e.Head)
	if s.cfg.Strict || !ok || k != KindRequest || id == 0 || s.lookup(id) != nil {
		return s.hangUp(e.Why)
	}
	return s.refuse(id, e.Why)
}

// refuse ends a request that has not begun.
func (s *server) refuse(id uint64, e *Error) error {
	if s.cfg.Refused != nil {
		s.cfg.Refused(e)
	}
	s.burst.flush()
	return send(s.t, func(enc *encoder) { enc.reply(&Reply{ID: id, End: true, Err: e}) })
}

// hangUp tells the peer why the connection ends.
func (s *server) hangUp(e *Error) error {
	s.burst.flush()
	return Refuse(s.t, e)
}

func cancelCause(reason string) error {
	if reason == "deadline" {
		return context.DeadlineExceeded
	}
	return context.Canceled
}

// Responder answers one request. Send, End and Fail belong to one goroutine.
type Responder struct {
	s      *server
	id     uint64
	ctx    deadline.Context // the request's
	ended  bool
	held   bool // immutable: its request waited, or waits, for a batch
	away   bool // it was parked, and is not the first goroutine's any more
	parked atomic.Uint32
	charge budget.Charge // until the handler has returned
	arenas *arena.Use    // immutable: what the request names; nil: nothing

	replies Replies // of whoever answers it, where Forward is to pass them on

	mu      sync.Mutex
	credit  uint32        // guarded by mu
	granted chan struct{} // guarded by mu; capacity 1: credit was granted; nil until somebody had to wait for it
}

// Send sends a chunk, after waiting for credit if there is none. It returns an error when ctx ends, the requester has not read for the stall timeout, or the transport is gone.
func (w *Responder) Send(ctx context.Context, r *Reply) error {
	w.s.pass(w) // for this may take long
	if err := w.takeCredit(ctx); err != nil {
		return err
	}
	r.ID, r.End, r.Leased, r.Err = w.id, false, false, nil
	return send(w.s.t, func(e *encoder) { e.reply(r) })
}

// End sends the last reply. A second end does nothing.
func (w *Responder) End(r *Reply) error {
	if w.ended {
		return nil
	}
	leased := w.ending(r)
	return w.sentEnd(leased, w.send(r))
}

// send sends the last reply; while its request is led that takes no waiting, and if others have come after it, it is in company.
func (w *Responder) send(r *Reply) error {
	p, ok := w.s.t.(prompt)
	b := w.burst()
	if !ok || b == nil {
		return send(w.s.t, func(e *encoder) { e.reply(r) })
	}
	e := newEncoder()
	defer e.free()
	e.reply(r)
	parts, _ := e.message()
	_, sent, err := p.TrySend(b, parts...)
	if w.settle(); sent || err != nil {
		return err
	}
	w.s.pass(w)
	_, err = w.s.t.Send(parts...)
	return err
}

// ending prepares the last reply, and returns what tells when the arena memory that the request names is free; nil: it is, or there is none.
func (w *Responder) ending(r *Reply) (leased <-chan struct{}) {
	w.ended = true
	r.ID, r.End = w.id, true
	// The id is free before the peer can know, so that it may use it again at once.
	w.s.mu.Lock()
	delete(w.s.open, w.id)
	if w.held {
		w.s.openHeld--
	}
	w.s.mu.Unlock()
	w.s.cfg.Account.Leave() // likewise
	leased = w.arenas.Leased()
	r.Leased = leased != nil
	return leased
}

// sentEnd is what follows when the last reply has been sent, or could not be.
func (w *Responder) sentEnd(leased <-chan struct{}, err error) error {
	if err != nil {
		err = w.endShort(leased != nil, err)
	}
	if leased != nil {
		w.s.handlers.Add(1) // the request's own handler has not returned
		go w.s.awaitRelease(w.id, leased)
	}
	return err
}

// endShort ends the request whose last reply could not be sent for this reason, if it is one that the peer can be told.
func (w *Responder) endShort(leased bool, err error) error {
	var e *Error
	if !errors.As(err, &e) || e.Reason != "too_large" {
		return err
	}
	return send(w.s.t, func(enc *encoder) { enc.reply(&Reply{ID: w.id, End: true, Leased: leased, Err: e}) })
}

// Fail ends the request with an error.
func (w *Responder) Fail(err error) error {
	return w.End(&Reply{Err: AsError(err)})
}

func (w *Responder) takeCredit(ctx context.Context) error {
	var stall <-chan time.Time
	for {
		w.mu.Lock()
		if w.credit > 0 {
			w.credit--
			w.mu.Unlock()
			return nil
		}
		if w.granted == nil {
			w.granted = make(chan struct{}, 1)
		}
		wake := w.granted
		w.mu.Unlock()
		if stall == nil && w.s.cfg.StallTimeout > 0 {
			stall = time.After(w.s.cfg.StallTimeout)
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return AsError(context.Cause(ctx))
		case <-stall:
			return Errorf(ResourceExhausted, "slow_reader", "the reader took no reply for %v; read faster, or grant more credit", w.s.cfg.StallTimeout)
		}
	}
}

func (w *Responder) grant(n uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.credit += min(n, ^uint32(0)-w.credit)
	select {
	case w.granted <- struct{}{}:
	default: // nobody waits, or knows already
	}
}

// release frees what the request's context holds.
func (w *Responder) release() { w.ctx.Cancel(context.Canceled) }
