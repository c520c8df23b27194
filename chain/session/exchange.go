package session

import (
	"context"
	"maps"
	"strconv"
	"sync"

	"github.com/ringmasterd/ringmaster/ipc"
)

// exchange is one request of a session and its answer: the [ipc.Replies] of the link.
type exchange struct {
	sessions *Sessions
	cfg      *Config // as it was when the request came
	ctx      context.Context
	key, id  string
	release  func() // passes the turn on; the first call counts

	was, is   Stamp
	context   []byte     // the session's bytes: those the worker got, and then those that it sent
	messages  []ipc.Body // of the conversation, if this request is no part of it
	others    int        // bytes of these
	said      *said      // what this request adds to it; nil: nothing
	strict    bool       // the client asked for a version
	stateless bool       // the session could not be read or written, and the request goes on all the same

	replies ipc.Replies
	begun   bool // a reply has been handed out
	ended   bool
}

// takes notes that the turn is the request's. It passes at the end of the answer, and of ctx should nobody come for that.
func (x *exchange) takes(ctx context.Context) {
	pass := sync.OnceFunc(func() { x.sessions.turns.pass(x.key) })
	stop := context.AfterFunc(ctx, pass)
	x.release = func() {
		stop()
		pass()
	}
}

// size is about what the session takes as it is now.
func (x *exchange) size() int64 {
	n := len(x.context) + x.others
	if x.said != nil {
		n += x.said.size
	}
	return int64(n)
}

// Recv implements [ipc.Replies]. The last reply comes when the session is stored.
func (x *exchange) Recv(ctx context.Context) (*ipc.Reply, error) {
	r, err := x.replies.Recv(ctx)
	if err == nil && r.Err != nil {
		err = r.Err
	}
	if err != nil {
		x.end()
		return nil, err
	}
	if x.ended {
		return r, nil
	}
	if len(r.Context) > 0 {
		x.context = r.Context
	}
	if x.said != nil {
		x.said.hear(r.Body)
	}
	if r.End {
		err = x.last()
	} else if !x.stateless && x.size() > x.cfg.MaxBytes {
		x.replies.Cancel("session_full")
		err = x.full()
	}
	if err != nil {
		x.end()
		return nil, err
	}
	return x.told(r), nil
}

// last ends the exchange with its answer.
func (x *exchange) last() error {
	defer x.end()
	if x.stateless {
		return nil
	}
	return x.commit()
}

// told is a reply with what the link has to say: the first one and the last one have headers. The session's bytes stay here.
func (x *exchange) told(r *ipc.Reply) *ipc.Reply {
	mine := *r
	if !x.stateless {
		mine.Context = nil
	}
	if !x.begun || r.End {
		mine.Headers = maps.Clone(r.Headers)
		if mine.Headers == nil {
			mine.Headers = map[string]string{}
		}
		if x.stateless {
			mine.Headers[degraded] = joined(mine.Headers[degraded], header)
		} else {
			mine.Headers[versionHeader] = strconv.FormatUint(x.is.Version, 10)
		}
	}
	x.begun = true
	return &mine
}

// joined puts one more reason after those that there are.
func joined(others, reason string) string {
	if others == "" {
		return reason
	}
	return others + ", " + reason
}

func (x *exchange) end() {
	x.ended = true
	x.release()
}

// Cancel implements [ipc.Replies].
func (x *exchange) Cancel(reason string) {
	x.end()
	x.replies.Cancel(reason)
}
