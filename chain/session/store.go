package session

import (
	"context"
	"encoding/binary"
	"errors"
	"time"
)

// Store keeps sessions' records by key. It is safe for use by any number of goroutines. Whatever happens, a commit is done wholly or not at all, and one that was acknowledged is there until it
// expires, is removed, or has to make room.
type Store interface {
	// Load returns the record and its stamp; the zero stamp and no error: there is none. The record is not to be changed.
	Load(ctx context.Context, key string) (Stamp, []byte, error)
	// Commit puts a record in the place of the one whose stamp is was (zero: of none), or returns errConflict if there is another. If that other one is this very record, with this stamp, the commit has been done before, and succeeds: it may be tried again when
	// its acknowledgement was lost, so what different commits store has to differ. The store keeps data. After any other error it may have been stored.
	Commit(ctx context.Context, key string, was, is Stamp, data []byte) error
	// Remove reports whether there was one.
	Remove(ctx context.Context, key string) (bool, error)
	// List calls visit for those whose keys begin with prefix, in no order, until it returns false.
	List(ctx context.Context, prefix string, visit func(Info) bool) error
	// Limit changes how much is kept, and how long.
	Limit(Limits)
	// Count says what is kept and what had to go.
	Count() Count
	Close() error
}

// Stamp tells the states of a session apart. The zero stamp is that of a session that there is not.
type Stamp struct {
	Birth   uint64 // random, not 0: another after the session was gone
	Version uint64 // from 1 on
}

// next is the stamp after s; birth is for a session that begins.
func (s Stamp) next(birth uint64) Stamp {
	if s == (Stamp{}) {
		s.Birth = birth
	}
	return Stamp{s.Birth, s.Version + 1}
}

// Info is what is known of a session without reading it.
type Info struct {
	Key     string
	Version uint64
	Bytes   int64
	Idle    time.Duration // since it was stored; negative: not known
}

// Limits are what a store keeps at most.
type Limits struct {
	TTL      time.Duration
	Sessions int
	Bytes    int64
}

// Count counts a store's sessions. Known is false where only the store's operator can tell.
type Count struct {
	Known            bool
	Sessions         int
	Bytes            int64
	Expired, Evicted uint64 // so far
}

// errConflict says that there is another record than the one that was to be replaced.
var errConflict = errors.New("the session has changed meanwhile")

// stampSize is how many bytes a stamp has before a record.
const stampSize = 16

func (s Stamp) append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, s.Birth), s.Version)
}

// cutStamp splits a stored value into its stamp and the rest.
func cutStamp(b []byte) (Stamp, []byte, bool) {
	if len(b) < stampSize {
		return Stamp{}, nil, false
	}
	return Stamp{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}, b[stampSize:], true
}

// open opens the store that the configuration names; nil: none.
func open(c Config) (Store, error) {
	limits := Limits{c.TTL, c.MaxSessions, c.MaxTotal}
	switch c.Store {
	case Memory:
		return newMemory(limits), nil
	case Bbolt:
		return openBolt(c.Path, limits)
	case Redis:
		return openRedis(c.URL, limits)
	}
	return nil, nil
}
