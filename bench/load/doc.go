// Package load asks for something again and again, and says how long the answers took.
//
//	             ┌ requester ─ stamp ─ call ─ check ─ histogram ┐
//	closed loop: ├ requester …                                  ├─▶ Result      as many requests under way as there are requesters
//	             └ requester …                                  ┘
//
//	open loop:   pacer ──due at──▶ requesters                       a request is due every 1/rate, whether or not the last one has been answered
//
// In an open loop a request's time begins when it was due. One that had to wait because those before it were slow is as slow for its user, and counts so; a loop that only starts its clock when it gets round to sending
// omits just the waits that matter ("coordinated omission").
//
// Every request differs from every other, and every answer is checked, in the warm-up to the last byte. A failed request has no place in the histogram: it is counted under its code and reason, and its requester pauses
// before the next, so that a server that refuses is not drowned in what it refuses.
//
// A [Result] belongs to whoever gets it; nothing of a run goes on after [Run] returns.
//
// Read in this order: run.go (the two loops), requester.go, pace_linux.go, payload.go, result.go.
package load
