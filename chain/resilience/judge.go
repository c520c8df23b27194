package resilience

import "github.com/ringmasterd/ringmaster/ipc"

// outcome is what the end of an attempt says about its pool.
type outcome int

const (
	neither outcome = iota // nothing: it was the request, its client or the load that ended it
	good                   // it works
	bad                    // it does not
)

// judge says what an error tells about the pool. own: the deadline was the pool's, not one that the client chose, for a client must not be able to open a circuit for others with deadlines that nobody can meet.
//
// INTERNAL counts, as it is what a worker answers whose GPU is gone: an action that finds its input wrong says INVALID_ARGUMENT.
func judge(e *ipc.Error, own bool) outcome {
	switch e.Code {
	case ipc.Unavailable:
		if e.Reason == "draining" { // somebody wants that
			return neither
		}
		return bad
	case ipc.Internal, ipc.DataLoss:
		return bad
	case ipc.Aborted:
		if e.Reason == "worker_lost" {
			return bad
		}
		return neither // poison_request is about the request
	case ipc.DeadlineExceeded:
		if own || e.Reason == "hang_timeout" {
			return bad
		}
		return neither
	case ipc.ResourceExhausted, ipc.Cancelled, ipc.PermissionDenied:
		return neither
	default: // the worker has answered: that the request is wrong
		return good
	}
}

// passing reports whether an error is one that may be gone at the next attempt.
func passing(e *ipc.Error) bool {
	switch e.Code {
	case ipc.Unavailable:
		return e.Reason != "circuit_open" && e.Reason != "draining"
	case ipc.Aborted:
		return e.Reason == "worker_lost"
	case ipc.ResourceExhausted:
		// would_expire: there is less time at the next attempt. The others are about what the client holds, and go on doing so while it waits.
		return e.RetryAfter > 0 && e.Reason != "would_expire" && !theClients(e)
	}
	return false
}

// replaceable reports whether something else may take the place of the answer: not where the request itself is at fault.
func replaceable(e *ipc.Error) bool {
	switch e.Code {
	case ipc.Unavailable, ipc.Internal, ipc.DataLoss, ipc.DeadlineExceeded:
		return true
	case ipc.Aborted:
		return e.Reason == "worker_lost"
	case ipc.ResourceExhausted:
		return !theClients(e)
	}
	return false
}

// theClients reports whether what is exhausted is what the client may have.
func theClients(e *ipc.Error) bool {
	switch e.Reason {
	case "memory_full", "too_many_requests", "too_many_connections", "too_large", "slow_reader":
		return true
	}
	return false
}
