package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/chain/trace"
	"github.com/ringmasterd/ringmaster/ipc"
)

// The headers.
const (
	header        = "session"         // of a request: its session's id
	versionHeader = "session-version" // of a request: which version it wants to continue, 0 for none; of a reply: which one there is once the answer has ended well
	degraded      = "degraded"        // of a reply: what it had to do without
)

// controlPool is the server itself, which has no sessions but tells of them.
const controlPool = "ringmaster"

// storeTimeout is how long a store may take for one thing.
const storeTimeout = 2 * time.Second

// keptFactor is how much memory what is kept of a session takes in a request of it, for each byte: as it was read, in the request's new body, and as it is stored again.
const keptFactor = 3

// storeRetry is when a request is to be tried again that found no store.
const storeRetry = time.Second

// Sessions is the link.
type Sessions struct {
	cfg   atomic.Pointer[Config] // with defaults
	store Store                  // immutable; nil: sessions are not kept
	log   *slog.Logger
	turns turns

	down      atomic.Bool // the store failed when it was last asked
	conflicts atomic.Uint64
	failures  atomic.Uint64
	degraded  atomic.Uint64
}

// New opens the store that the configuration names. An error may be a [*FieldError].
func New(cfg Config, log *slog.Logger) (*Sessions, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	store, err := open(cfg)
	if err != nil {
		return nil, fmt.Errorf("sessions: %w", err)
	}
	s := &Sessions{store: store, log: log}
	s.cfg.Store(&cfg)
	return s, nil
}

// Configure takes a new configuration over; which store there is, it does not change.
func (s *Sessions) Configure(cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	cfg = cfg.withDefaults()
	old := s.cfg.Load()
	cfg.Store, cfg.Path, cfg.URL = old.Store, old.Path, old.URL
	s.cfg.Store(&cfg)
	if s.store != nil {
		s.store.Limit(Limits{cfg.TTL, cfg.MaxSessions, cfg.MaxTotal})
	}
	return nil
}

// Close closes the store. Preconditions: no request is in the link.
func (s *Sessions) Close() error {
	if s.store == nil {
		return nil
	}
	return s.store.Close()
}

// Link is the [chain.Link].
func (s *Sessions) Link(next chain.Handler) chain.Handler {
	return func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		if req.Pool == controlPool {
			if answer := s.control(req.Action); answer != nil {
				return answer(ctx, req)
			}
			return next(ctx, req)
		}
		id, ok := req.Headers[header]
		if !ok {
			return next(ctx, req)
		}
		k, err := keyOf(ctx, req, id)
		if err != nil {
			return nil, err
		}
		req.Affinity = k.affinity()
		if s.store == nil {
			return next(ctx, req)
		}
		return s.call(ctx, req, k.String(), next)
	}
}

// call makes a request one of a session.
func (s *Sessions) call(ctx context.Context, req *ipc.Request, key string, next chain.Handler) (ipc.Replies, error) {
	req.Waits() // for the session's turn, and the store
	x := &exchange{sessions: s, cfg: s.cfg.Load(), ctx: ctx, key: key, id: req.Headers[header], release: func() {}}
	if x.cfg.OnConflict == Queue {
		if err := s.turns.take(ctx, key); err != nil {
			return nil, err
		}
		x.takes(ctx)
	}
	if err := x.load(ctx, req); err != nil {
		x.release()
		return nil, err
	}
	replies, err := next(ctx, req)
	if err != nil {
		x.release()
		return nil, err
	}
	x.replies = replies
	return x, nil
}

// load reads the session, and gives the request what is kept of it. An error is an [*ipc.Error].
func (x *exchange) load(ctx context.Context, req *ipc.Request) error {
	r, err := x.read(ctx)
	want, given := req.Headers[versionHeader]
	x.strict = given
	switch {
	case err != nil && ctx.Err() != nil:
		return ipc.AsError(context.Cause(ctx))
	case err != nil && x.mayDegrade():
		x.degrade(err)
		return nil
	case err != nil:
		return x.unavailable("read", err)
	}
	if given {
		if err := x.expect(want); err != nil {
			return err
		}
	}
	if size := r.size(); size > 0 && req.Hand(keptFactor*size, 0) != nil {
		e := ipc.Errorf(ipc.ResourceExhausted, "memory_full", "there is no room for what is kept of session %q, %d bytes: this client's requests and replies hold its share of the server's memory; have fewer open at a time, or raise `memory`", x.id, size)
		e.RetryAfter = storeRetry
		return e
	}
	x.context = r.context
	if len(req.Context) > 0 {
		x.context = req.Context
	}
	req.Context = x.context
	if member := x.cfg.messages(req.Pool, req.Action); member != "" {
		req.Body, x.said = extend(req.Body, member, r.messages)
	}
	if x.said == nil {
		x.messages = r.messages
		for _, m := range r.messages {
			x.others += len(m)
		}
	}
	if x.size() > x.cfg.MaxBytes {
		return x.full()
	}
	return nil
}

func (x *exchange) read(ctx context.Context) (record, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	span := trace.Begin(ctx, "session read")
	stamp, data, err := x.sessions.store.Load(ctx, x.key)
	span.End(err)
	if err != nil {
		return record{}, err
	}
	x.was, x.is = stamp, stamp.next(rand.Uint64()|1)
	return decodeRecord(data)
}

// expect compares the session with the version that the client wants to continue.
func (x *exchange) expect(want string) error {
	version, err := strconv.ParseUint(want, 10, 64)
	if err != nil {
		return ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "the header session-version is %q; it is a number, 0 for a session that does not exist yet", clip(want))
	}
	if version != x.was.Version {
		x.sessions.conflicts.Add(1)
		return ipc.Errorf(ipc.Aborted, "session_conflict", "session %q is at version %d, not %d; look at what has happened, and ask again with session-version %d or without", x.id, x.was.Version, version, x.was.Version)
	}
	return nil
}

// commit stores what has become of the session. An error is an [*ipc.Error].
func (x *exchange) commit() error {
	r := record{context: x.context, messages: x.messages, writer: rand.Uint64()}
	if x.said != nil {
		r.messages = x.said.all()
	}
	data := r.encode()
	if int64(len(data)) > x.cfg.MaxBytes {
		return x.full()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), storeTimeout) // the answer is there, and counts
	defer cancel()
	span := trace.Begin(ctx, "session write")
	err := x.sessions.store.Commit(ctx, x.key, x.was, x.is, data)
	span.End(err)
	switch {
	case errors.Is(err, errConflict):
		x.sessions.conflicts.Add(1)
		return ipc.Errorf(ipc.Aborted, "session_conflict", "session %q has changed, or gone, since this request read version %d of it, so nothing of this answer is kept; ask again, one request after the other", x.id, x.was.Version)
	case err != nil && x.mayDegrade():
		x.degrade(err)
	case err != nil:
		return x.unavailable("write", err)
	default:
		x.sessions.worked()
	}
	return nil
}

func (x *exchange) full() error {
	return ipc.Errorf(ipc.ResourceExhausted, "session_full", "session %q would have more than %d bytes, the most that one may (`sessions.max_bytes`); begin another one", x.id, x.cfg.MaxBytes)
}

func (x *exchange) unavailable(what string, err error) error {
	x.sessions.failed(err)
	e := ipc.Errorf(ipc.Unavailable, "session_store", "cannot %s session %q: %v; see whether the store (%s) is up", what, x.id, err, x.cfg.Store)
	e.RetryAfter = storeRetry
	return e
}

// mayDegrade reports whether the request may go on without its session. One that asks for a version may not.
func (x *exchange) mayDegrade() bool { return x.cfg.OnStoreFailure == Stateless && !x.strict }

func (x *exchange) degrade(err error) {
	x.sessions.failed(err)
	x.sessions.degraded.Add(1)
	x.stateless = true
}

// failed counts a failure of the store; the first one is logged, and so is that it is over.
func (s *Sessions) failed(err error) {
	s.failures.Add(1)
	if !s.down.Swap(true) {
		cfg := s.cfg.Load()
		s.log.Error("sessions cannot be read or written", "store", cfg.Store, "on_store_failure", cfg.OnStoreFailure, "error", err)
	}
}

// worked notes that the store has done what it was asked.
func (s *Sessions) worked() {
	if s.down.Load() && s.down.Swap(false) {
		s.log.Info("sessions can be read and written again", "store", s.cfg.Load().Store)
	}
}
