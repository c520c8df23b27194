// Package session keeps what belongs to a conversation between its requests: a link of the call chain.
//
// A request with the header `session: ID` is one of a session. Before it goes on it gets the session's bytes (context_blob) and, where its pool is said to hold conversations, the messages that were said
// before; when its answer has ended well, what has become of both is stored, and only then does the client hear of the end.
//
//	request ─▶ turn ─▶ load (stamp v) ─▶ context, earlier messages ─▶ next … chunks … END ─▶ commit (v → v+1) ─▶ END
//	           │        │                                              │                      └─ stale ▶ ABORTED/session_conflict
//	           │        └─ no store ▶ UNAVAILABLE/session_store        └─ error, cancel ▶ nothing is stored
//	           └─ calls of one session go one after the other, unless `on_conflict: abort`
//
// A session belongs to who began it (key.go): another client that knows its ID has another session of that name. What two calls read and write cannot mix, whatever goes wrong: a commit names the stamp
// that it was made from, and the store compares and sets. A stamp has a random part, so that a session which was removed and begun anew is not taken for the old one.
//
// Three stores keep the promise of [Store], and one suite of tests holds them to it: memory, a file (bbolt), and Redis. The first two have bounds of their own (index.go); Redis has its operator's.
//
// Read in this order: config.go, key.go, link.go (the way of a request), exchange.go (and of its answer), conversation.go and record.go (what is stored), turns.go, store.go with index.go, memory.go, bolt.go and redis.go, control.go,
// metrics.go. docs/decisions/0013-sessions.md says why.
package session
