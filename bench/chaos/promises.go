package chaos

import "github.com/ringmasterd/ringmaster/ipc"

// class is what a request is about; it decides which outcomes it may have.
type class uint8

const (
	transform class = iota // idempotent, one answer
	stream                 // idempotent, an answer in chunks
	once                   // not idempotent
	hang                   // these do harm, and are not idempotent
	crash
	lie
	leak
	raise  // panics in the action
	poison // idempotent, and kills whoever runs it
	flood  // a transform of a client that asks for far too much
	deaf   // a stream of a client that does not read
	hasty  // a transform of a client that does not wait for its end
	classes
)

func (c class) String() string {
	return [...]string{"transform", "stream", "once", "hang", "crash", "lie", "leak", "raise", "poison", "flood", "deaf", "hasty"}[c]
}

// action is the worker's.
func (c class) action() string {
	switch c {
	case flood, hasty:
		return transform.String()
	case deaf:
		return stream.String()
	}
	return c.String()
}

// maxRuns is how often an action may run for one request.
func (c class) maxRuns() int {
	switch c {
	case transform, stream, poison, flood, deaf, hasty:
		return 2 // it says of itself that it is idempotent
	}
	return 1
}

// Promises are what the server under test is held to. Everything that is expected of it is decided here.
type Promises struct {
	Retry       bool // an idempotent request survives the death of the worker that had read it
	HangTimeout bool // a worker that makes no progress is noticed although its request has a long deadline
	Fairness    bool // a client that floods does not have others refused
}

// promised is what this version keeps, if its configuration has the keys.
var promised = Promises{Retry: true, HangTimeout: true, Fairness: true}

// allowed reports whether a request may end in e, nil for success. chunks is how many came before.
func (p Promises) allowed(c class, e *ipc.Error, chunks int) bool {
	if e == nil {
		return c != hang && c != crash && c != lie && c != poison && c != raise
	}
	switch (kind{e.Code, e.Reason}) {
	case kind{ipc.Aborted, "worker_lost"}:
		switch c {
		case transform, flood, hasty:
			return !p.Retry
		case stream, deaf:
			return !p.Retry || chunks > 0 // half an answer cannot begin again
		}
		return true
	case kind{ipc.Aborted, "poison_request"}:
		return c == hang || c == crash || c == lie || c == poison
	case kind{ipc.DeadlineExceeded, "deadline"}:
		return c == hang || c == hasty || !p.HangTimeout
	case kind{ipc.DeadlineExceeded, "hang_timeout"}:
		return c == hang
	case kind{ipc.ResourceExhausted, "slow_reader"}:
		return c == deaf
	case kind{ipc.Internal, "handler"}:
		return c == raise
	}
	if e.Code != ipc.ResourceExhausted || e.RetryAfter <= 0 {
		return false
	}
	hurried := (c == hang || c == hasty) && e.Reason == "would_expire" // their deadlines are short
	return c == flood || hurried || !p.Fairness
}

// kind is an error's code and reason.
type kind struct {
	code   ipc.Code
	reason string
}

// refused reports whether an error says that the action was not run at all.
func refused(e *ipc.Error) bool {
	return e != nil && (e.Code == ipc.ResourceExhausted && e.Reason != "slow_reader" || e.Code == ipc.NotFound || e.Reason == "no_ready_worker" || e.Reason == "crash_loop" || e.Reason == "draining")
}
