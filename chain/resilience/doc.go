// Package resilience is the link of the call chain that stands between a request and a pool that cannot answer it now.
//
// For a pool that is configured for it, and for no other, it may try again, ask a second worker where the first is slow, refuse at once while the pool is known to fail, and put something else in the
// place of an answer:
//
//	request ─▶ breaker ─▶ attempt ──────────── first reply ─▶ caller
//	             │ open      │ slow ─▶ hedge: a second one beside it; the first answer counts
//	             │           │ failed, before any reply
//	             │           ▼
//	             │        again? an error that passes · nothing has run, or it may run twice · the budget · the deadline
//	             │           │ yes ─▶ pause ─▶ breaker
//	             ▼           ▼ no
//	          fallback: another pool ─▶ a stale answer ─▶ a fixed one ─▶ the error
//
// Retries and hedges are paid from one budget, a share of the pool's requests, so that an outage is met with at most that much more work. Once a reply has been handed out a request is never begun again. What
// took the place of an answer is said in the reply's headers (degraded, pool, attempts) and counted: nothing is degraded silently.
//
// What is decided is decided by functions of state and time: judge.go (what an error says about whom), backoff.go, budget.go, pace.go. The state of a circuit is failsafe-go's (breaker.go). answer.go is a
// request's way through all that, hedge.go the race, fallback.go the end of the line. docs/decisions/0015-resilience.md says why so.
//
// Nothing survives the process. A supervisor's own second try of a request whose worker died (docs/decisions/0005-second-try.md) lies behind this link and is no attempt of its own here.
package resilience
