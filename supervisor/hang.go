package supervisor

import (
	"fmt"
	"slices"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// hangWatch tells a worker that hangs from one that is busy, by what its requests do: a request makes progress when it yields a reply or ends. A heartbeat would say nothing, since the thread that sends it may be
// the only one that still runs. It is a pure function of what it has seen and the time.
//
//	a request is cancelled or past its deadline ──grace──▶ overdue
//	no reply for hang_timeout although there is credit ──▶ recalled: the worker is told to cancel it ──grace──▶ overdue
//	nothing in hand, and a request is not read ──grace──▶ overdue
//
// A request that was sent ahead and waits in line is none of this, whatever its caller wants, until its turn has come.
type hangWatch struct {
	marks map[uint64]sight // by the request's id
	taken uint64           // the ring's position up to which the worker had read
	moved time.Time        // when that changed
}

// sight is what a request looked like, and since when.
type sight struct {
	replies uint64
	since   time.Time // of the last change
	turn    time.Time // when it was last in line; zero: it never was
	warned  bool      // that it is late has been logged
}

// hangLimits are a pool's.
type hangLimits struct {
	grace   time.Duration // from a request's cancellation to its end
	timeout time.Duration // without a reply, though there is credit; 0: for ever
	line    bool          // it is sent requests ahead: one that it has not read waits in line while it has another in hand
}

// lookEvery is how often to look, at least every so often, so that what is found is not found much later than the limits say.
func (l hangLimits) lookEvery(most time.Duration) time.Duration {
	every := min(most, l.grace/4)
	if l.timeout > 0 {
		every = min(every, l.timeout/4)
	}
	return max(every, min(most, 10*time.Millisecond))
}

// finding is what there is to do about one request.
type finding struct {
	call   ipc.OpenCall
	late   bool   // it has just become late: cancelled or past its deadline
	recall bool   // it has made no progress: it is to be cancelled
	hangs  string // "": not; else what the worker fails to do
}

// look compares the open calls with what they were before. taken is the position up to which the worker has read.
func (h *hangWatch) look(now time.Time, lim hangLimits, open []ipc.OpenCall, taken uint64) []finding {
	var findings []finding
	if taken != h.taken || h.moved.IsZero() {
		h.taken, h.moved = taken, now
	}
	read := func(c ipc.OpenCall) bool { return c.Sent && c.End <= taken }
	busy := slices.ContainsFunc(open, read)
	marks := make(map[uint64]sight, len(open))
	batches := h.owed(open)
	for _, c := range open {
		m, seen := h.marks[c.ID]
		if !seen || !recalled(c) && (m.replies != c.Replies || c.Held) {
			m = sight{replies: c.Replies, since: now, turn: m.turn}
		}
		if lim.line && busy && c.Sent && !read(c) {
			m.since, m.turn = now, now
		}
		f := finding{call: c}
		quiet := now.Sub(m.since)
		owed := owedSince(c, m)
		if c.Batch != 0 {
			owed = batches[c.Batch]
		}
		if !owed.IsZero() && owed.Before(m.turn) {
			owed = m.turn
		}
		switch {
		case !owed.IsZero() && now.After(owed):
			f.late, m.warned = !m.warned, true
			if late := now.Sub(owed); late > lim.grace {
				f.hangs = fmt.Sprintf("a request was cancelled or past its deadline %v ago (%s) and has not ended", late.Round(time.Millisecond), reasonOf(c))
			}
		case !busy && min(quiet, now.Sub(h.moved)) > lim.grace:
			f.hangs = fmt.Sprintf("it has nothing in hand and has not read a request that was sent to it %v ago", quiet.Round(time.Millisecond))
		case lim.timeout > 0 && quiet > lim.timeout && read(c):
			f.recall = true
			m = sight{replies: m.replies, since: now, turn: m.turn, warned: true}
		}
		marks[c.ID] = m
		if f.late || f.recall || f.hangs != "" {
			findings = append(findings, f)
		}
	}
	h.marks = marks
	return findings
}

// owed is since when the worker owes the end of each batch, whose requests it may only be able to end together: since the last that somebody waited for was cancelled. Zero: somebody still waits.
func (h *hangWatch) owed(open []ipc.OpenCall) map[uint64]time.Time {
	var batches map[uint64]time.Time
	for _, c := range open {
		if c.Batch == 0 {
			continue
		}
		owed := owedSince(c, h.marks[c.ID])
		last, known := batches[c.Batch]
		switch {
		case batches == nil:
			batches = map[uint64]time.Time{c.Batch: owed}
		case !known, owed.IsZero(), !last.IsZero() && owed.After(last):
			batches[c.Batch] = owed
		}
	}
	return batches
}

// owedSince is since when the worker owes the end of a call; zero if it does not.
func owedSince(c ipc.OpenCall, m sight) time.Time {
	switch {
	case !c.Abandoned.IsZero():
		return c.Abandoned
	case recalled(c):
		return m.since
	case !c.Sent: // it cannot be sent, since the worker does not read
		return c.Due
	}
	return time.Time{}
}

func reasonOf(c ipc.OpenCall) string {
	if c.Reason == "" {
		return "deadline"
	}
	return c.Reason
}
