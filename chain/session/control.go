package session

import (
	"context"
	"io"
	"slices"
	"strings"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// Actions of the server itself: session_list, session_show and session_rm. Each client sees its own sessions.

// Listed is what session_list answers of each session, in a list ordered by id.
type Listed struct {
	ID      string  `msgpack:"id" json:"id"`
	Version uint64  `msgpack:"version" json:"version"`
	Bytes   int64   `msgpack:"bytes" json:"bytes"`
	Idle    float64 `msgpack:"idle_s" json:"idle_s"` // seconds since it was stored; negative: not known
}

// Shown is what session_show answers.
type Shown struct {
	ID       string               `msgpack:"id" json:"id"`
	Version  uint64               `msgpack:"version" json:"version"`
	Context  int                  `msgpack:"context_bytes" json:"context_bytes"`
	Messages []msgpack.RawMessage `msgpack:"messages" json:"-"`
}

// Removed is what session_rm answers.
type Removed struct {
	Removed bool `msgpack:"removed" json:"removed"`
}

// maxListed is how many sessions a list has.
const maxListed = 10_000

// control returns what answers a control action; nil: it is not one of sessions.
func (s *Sessions) control(action string) chain.Handler {
	var answer func(ctx context.Context, req *ipc.Request) (any, error)
	switch action {
	case "session_list":
		answer = s.list
	case "session_show":
		answer = s.show
	case "session_rm":
		answer = s.remove
	default:
		return nil
	}
	return func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		if s.store == nil {
			return nil, ipc.Errorf(ipc.NotFound, "unknown_session", "this server keeps no sessions; `sessions:` in its configuration says where it is to")
		}
		req.Waits() // for the store
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		v, err := answer(ctx, req)
		if err != nil {
			return nil, err
		}
		body, err := ipc.Marshal(v)
		if err != nil {
			return nil, err
		}
		return &single{reply: &ipc.Reply{End: true, Body: body}}, nil
	}
}

func (s *Sessions) list(ctx context.Context, req *ipc.Request) (any, error) {
	who := owner(ctx, req)
	if who == "" {
		return nil, errNobody
	}
	prefix := prefixOf(who)
	listed := []Listed{}
	err := s.store.List(ctx, prefix, func(i Info) bool {
		listed = append(listed, Listed{strings.TrimPrefix(i.Key, prefix), i.Version, i.Bytes, i.Idle.Seconds()})
		return len(listed) < maxListed
	})
	if err != nil {
		return nil, s.noStore(err)
	}
	slices.SortFunc(listed, func(a, b Listed) int { return strings.Compare(a.ID, b.ID) })
	return listed, nil
}

func (s *Sessions) show(ctx context.Context, req *ipc.Request) (any, error) {
	k, err := named(ctx, req)
	if err != nil {
		return nil, err
	}
	stamp, data, err := s.store.Load(ctx, k.String())
	var r record
	if err == nil {
		r, err = decodeRecord(data)
	}
	switch {
	case err != nil:
		return nil, s.noStore(err)
	case stamp == (Stamp{}):
		return nil, ipc.Errorf(ipc.NotFound, "unknown_session", "you have no session %q; it may have expired", k.id)
	}
	shown := Shown{ID: k.id, Version: stamp.Version, Context: len(r.context), Messages: []msgpack.RawMessage{}}
	for _, m := range r.messages {
		shown.Messages = append(shown.Messages, msgpack.RawMessage(m))
	}
	return shown, nil
}

func (s *Sessions) remove(ctx context.Context, req *ipc.Request) (any, error) {
	k, err := named(ctx, req)
	if err != nil {
		return nil, err
	}
	removed, err := s.store.Remove(ctx, k.String())
	if err != nil {
		return nil, s.noStore(err)
	}
	return Removed{removed}, nil
}

// named reads which session a control action is about: {"session": id}.
func named(ctx context.Context, req *ipc.Request) (key, error) {
	var body struct {
		Session string `msgpack:"session"`
	}
	if err := req.Body.Decode(&body); err != nil {
		return key{}, err
	}
	return keyOf(ctx, req, body.Session)
}

func (s *Sessions) noStore(err error) error {
	e := ipc.Errorf(ipc.Unavailable, "session_store", "cannot reach the sessions: %v; see whether the store (%s) is up", err, s.cfg.Load().Store)
	e.RetryAfter = storeRetry
	return e
}

// single is an answer of one reply.
type single struct{ reply *ipc.Reply }

// Recv implements [ipc.Replies].
func (s *single) Recv(context.Context) (*ipc.Reply, error) {
	if s.reply == nil {
		return nil, io.EOF
	}
	r := s.reply
	s.reply = nil
	return r, nil
}

// Cancel implements [ipc.Replies].
func (s *single) Cancel(string) { s.reply = nil }
