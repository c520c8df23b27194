package ipc

import (
	"time"

	"github.com/ringmasterd/ringmaster/internal/arena"
	"github.com/ringmasterd/ringmaster/internal/budget"
)

// Kind is the first element of every message.
type Kind uint8

// The kinds of message. Unknown kinds are ignored by whoever receives them.
const (
	KindRequest Kind = 1
	KindReply   Kind = 2
	KindCancel  Kind = 3
	KindCredit  Kind = 4
	KindHello   Kind = 5
	KindDrain   Kind = 6
	KindStop    Kind = 7
	KindPing    Kind = 8
	KindAttach  Kind = 9
	KindDetach  Kind = 10
	KindBatch   Kind = 12 // 11 is reserved
	KindRelease Kind = 13
)

// Protocol versions this package speaks.
const (
	MinVersion = 1
	MaxVersion = 1
)

// DefaultMaxMessage is the largest message, in bytes, unless a server is configured otherwise.
const DefaultMaxMessage = 64 << 20

// MaxBatch is the most requests that one call may have.
const MaxBatch = 1024

// Request asks a pool's worker to run an action.
type Request struct {
	ID         uint64 // set by the [Caller]
	Pool       string
	Action     string
	TraceID    string            // W3C traceparent, or ""
	Context    []byte            // the session's opaque bytes
	Timeout    time.Duration     // left at the time of sending, whole microseconds on the wire; 0: none given
	Credit     uint32            // replies without END the requester will take before it grants more; 0 is read as 1
	Held       bool              // it is not to be run before a [Batch] names it; towards workers that can
	Background bool              // nobody waits for it: it is admitted only if a worker is idle and nobody queues, else refused at once with RESOURCE_EXHAUSTED/busy, which is no reason to try again; does not travel
	Headers    map[string]string // never nil-checked: nil is empty
	Body       Body
	Tensors    []Tensor
	Outputs    []Output // where the requester would like tensors of the reply
	Batch      uint64   // of which call it is one, if it is held; told by [Caller.AppendOpen], does not travel
	Client     Client   // set by whoever accepted the request; does not travel

	Arenas *arena.Use // the arenas that it names, held; set by Serve. nil: none. Does not travel

	// Principal is who asks, such as "user 1000" or "token robot", where chain/auth has looked; "": the Client's user is all that is known. It stays the same for as long as somebody has a role, and does not travel.
	Principal string
	Yield     func() bool // of background work: whether it may be given up for somebody who waits for its place, asked once, when that is so; nil: yes. It must not block, nor call into what asks. Does not travel

	Affinity uint64 // of requests with the same number it is good that the same worker gets them (`balance: hash`); 0: the client's. Does not travel

	Protocol string // by which it came, such as native; set by whoever accepted it, does not travel
	Times    *Times // where its way is noted; does not travel

	responder *Responder     // of the Serve that received it; nil: it came otherwise. Does not travel
	charge    *budget.Charge // what the request holds of its client's memory, set by Serve for the Caller that passes it on; nil: nobody is charged. Does not travel
}

// Client is a process that asks, as the kernel tells (SO_PEERCRED): the unit of fairness and of limits. The zero value is the supervisor's own process.
type Client struct {
	UID uint32
	PID int32 // of the process that connected; negative, and another for each connection, where the kernel cannot tell because it lives in a PID namespace that cannot be seen from here
}

// Tensor returns the request's tensor of this name, or nil.
func (r *Request) Tensor(name string) *Tensor {
	for i := range r.Tensors {
		if r.Tensors[i].Name == name {
			return &r.Tensors[i]
		}
	}
	return nil
}

// Reply is one frame of an answer: a chunk, or, with End set, the last word.
type Reply struct {
	ID      uint64
	End     bool
	Leased  bool // only with End, and from a server: the arena memory that the request named is still in use; a [Release] follows
	Headers map[string]string
	Body    Body
	Tensors []Tensor
	Err     *Error // only with End
	Context []byte // what the session's opaque bytes are from now on; empty: what they were
}

// Empty reports whether the reply carries neither body nor tensors, as a stream's END does.
func (r *Reply) Empty() bool { return len(r.Body) == 0 && len(r.Tensors) == 0 }

// Cancel ends the interest in a request.
type Cancel struct {
	ID     uint64
	Reason string
}

// Credit allows N more replies without END.
type Credit struct {
	ID uint64
	N  uint32
}

// Batch says that held requests are one call, and to be run now. Ids that are not those of held requests are ignored.
type Batch struct {
	IDs []uint64 // at most [MaxBatch]
}

// Action is what a worker says of one of its actions.
type Action struct {
	Name       string
	Stream     bool // answers in chunks
	Idempotent bool // may be run a second time when a worker dies in mid-request
	Batchable  bool // one call may answer several requests

	Signature *Signature // nil: it is not declared
}

// Hello opens a connection: a worker says that it is ready, a client which versions it speaks, a server which one it chose.
type Hello struct {
	MinVersion, MaxVersion uint32
	SDK                    string
	Actions                []Action
	MaxMessage             uint64 // bytes; 0: not said
	MaxInFlight            uint64 // open requests on this connection; 0: not said
	Arena                  uint64 // from a server: bytes of arenas that the client may have; from a worker: 1 if it can do arenas; 0: none
	Ahead                  uint64 // from a worker: how many requests it may be sent beyond its concurrency; it has read each of them no earlier than it begins it; 0: none
	Doors                  uint64 // from a client that asks for rings: what it can do with that may come with them; see [DoorEventfd]
	Ring                   uint64 // bytes: from a client, how large it would like each of a pair of rings; from a server, how large those are that come with it; 0: none
}

// Ping asks for (or, with Answer, is) a sign of life that travelled the whole way.
type Ping struct {
	ID     uint64
	Answer bool
}

// PoolList is the answer to the control action pools.
type PoolList struct {
	Pools []PoolEntry `json:"pools" msgpack:"pools"`
}

// PoolNamed returns which pool a request to the server itself is about, by its body, {pool}; "": it names none. Who decides about such a request and who does it must read it alike.
func PoolNamed(body Body) (string, error) {
	var args struct {
		Pool string `msgpack:"pool"`
	}
	err := body.Decode(&args)
	return args.Pool, err
}

// PoolEntry is a pool that its reader may use, and what of it.
type PoolEntry struct {
	Name    string   `json:"name" msgpack:"name"`
	State   string   `json:"state" msgpack:"state"`
	Actions []string `json:"actions" msgpack:"actions"`

	Signatures map[string]Signature `json:"signatures,omitempty" msgpack:"signatures,omitempty"` // of the actions whose workers declare them
}

// Attach asks for an arena of so many bytes; with a region it is the answer, or tells a worker of one. The arena's memory comes beside it, as a descriptor.
type Attach struct {
	ID     uint64 // as a request's; 0 towards a worker
	Bytes  uint64
	Region uint64 // 0: it is asked for
}

// Detach says that a region will not be named again.
type Detach struct {
	Region uint64
}

// Release says that the arena memory is free that a request named whose END was Leased.
type Release struct {
	ID uint64 // the request's
}
