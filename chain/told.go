package chain

import (
	"context"
	"maps"

	"github.com/ringmasterd/ringmaster/ipc"
)

// told are the headers of replies in which links tell clients something: a worker has no say in them.
var told = [...]string{"age", "attempts", "cache", "degraded", "pool", "session-version"}

// Silence is the link before whoever asks workers: it takes from their replies the headers that are the links' own, so that no worker can claim that an answer is from the cache, or of which version a session is.
func Silence(next Handler) Handler {
	return func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		replies, err := next(ctx, req)
		if err != nil {
			return nil, err
		}
		return silenced{replies}, nil
	}
}

type silenced struct{ ipc.Replies }

// Recv implements [ipc.Replies].
func (s silenced) Recv(ctx context.Context) (*ipc.Reply, error) {
	r, err := s.Replies.Recv(ctx)
	if err != nil || len(r.Headers) == 0 {
		return r, err
	}
	for _, name := range told {
		if _, claimed := r.Headers[name]; claimed {
			return silent(r), nil
		}
	}
	return r, nil
}

// Announce implements [ipc.Announcer].
func (s silenced) Announce(w *ipc.Responder) bool { return ipc.Announce(s.Replies, w) }

// silent is a reply without what is not its worker's to say. r stays as it is: it is not ours.
func silent(r *ipc.Reply) *ipc.Reply {
	mine := *r
	mine.Headers = maps.Clone(r.Headers)
	for _, name := range told {
		delete(mine.Headers, name)
	}
	return &mine
}
