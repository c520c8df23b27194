// Package cache answers requests from memory: actions of which the configuration says that equal requests have equal answers.
//
//	request ─▶ key ─▶ store ──fresh──▶ reply                                        hit, prefetched
//	                    └─▶ flights ──one like it is under way──▶ wait for its answer   coalesced
//	                          └─▶ a flight of its own ─▶ next link ─▶ … ─▶ store, reply   miss
//
// # What is equal
//
// A [Key] is a digest of all that an answer may depend on: pool, version, action, body, tensors, the session's bytes, headers, and whose request it is. Bodies that are encodings of the same value are the same (canonical.go has the
// rules). Whoever is not the same user does not get the answer, unless the action is shared.
//
// # Who owns what
//
// An entry is a copy that nobody changes: bodies and tensors are handed out as they are, and whoever gets a reply must not write into them; the reply itself and its headers are its receiver's. All bytes kept or gathered are taken from one
// bound first (store.go), so that a flood does not make the store larger than it may be, not even for a while. Errors are not kept, and neither are answers that another link has made up (header `degraded`, `pool` or `cache`).
//
// # Flights
//
// A flight has a goroutine that asks the next link and gathers the answer; whoever asked, the first one included, reads it at his own pace, and leaves when his context ends. The flight is cancelled when the last one has left. What is too large to
// be kept is handed through: then the slowest reader sets the pace, as there is no room for what he has not read, until others have waited for him for too long.
//
// # Prefetch
//
// What will probably be asked next (named in the configuration, or learned) is asked in advance, as background work that a pool takes only if a worker is idle; prefetch.go.
//
// Files, in reading order: config.go, cache.go, canonical.go, key.go, identity.go, plain.go, answer.go, entry.go, store.go, flight.go, waiter.go, stale.go, prefetch.go, template.go, learn.go, metrics.go.
package cache
