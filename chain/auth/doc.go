// Package auth is the link that says who asks, and whether they may: authentication and authorization.
//
//	connect ─▶ Admit ─▶ … a request ─▶ Authenticate (HTTP, before its body) ─▶ Link: identity ─▶ decision ─▶ limits ─▶ next
//
// An identity is a user of this machine as the kernel names it (uid, groups, control group), or the bearer of a token. A [Config] gives identities roles, and roles say which actions of which
// pools are theirs, and how much of that. Who has several roles may do what any of them allows, and is refused for want of room only when each role that allows it has none.
//
// Everything that a request needs is compiled once, into a policy that never changes: a reload makes a new one and swaps them, so requests under way are not touched, and the next request of a connection is
// judged by the new one. What the old one counted (rates, requests in flight) goes on. A connection's identity is found at its first request and kept in the [chain.Peer]'s Memo; a
// decision then compares a few strings, and allocates nothing.
//
// Without a configuration the link lets everything through: the door has let in only those who may do all of it.
//
// # Tokens
//
// A token is 256 random bits, so its SHA-256 is kept, and no slow hash: those make guessing dear where what is guessed is likely (a password), and 2²⁵⁶ guesses are out of reach at any price; a slow hash
// would cost each request milliseconds instead. It is found by the first 8 bytes of the hash, whose timing tells nothing about a token, and then compared in constant time.
//
// Read in this order: config.go, token.go, pattern.go, policy.go (who has which roles), decide.go (who may do what), limits.go, auth.go (the link), control.go (whoami, pools), explain.go.
package auth
