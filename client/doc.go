// Package client calls the models that a Ringmaster server on this host runs.
//
//	c, err := client.Dial(ctx)
//	reply, err := c.Call(ctx, "minilm", "embed", map[string]any{"text": "hello"})
//	for chunk, err := range c.Stream(ctx, "smollm2", "chat", messages) { … }
//
// A [Client] is one connection, shared by any number of goroutines, each of whose calls is independent of the others. When the connection is lost its open calls end with
// UNAVAILABLE/connection_lost and the next call connects again; a server that announces its end (drain) still answers what it has, and the next call goes to whoever serves the
// socket then.
//
// Messages travel through a pair of rings in shared memory that the server gives the connection, and through its socket where the server has none to give or [WithRing] says so.
//
// A context's deadline travels with the request, and its cancellation reaches the worker. Every error is an [*Error], whose Code and Reason are stable.
//
// Large tensors go through shared memory that client and worker both map, where they are copied once, or not at all if the program writes them there: see [Arena] and [WithArena].
//
// Read in this order: client.go (one connection at a time), call.go (Call, Stream), options.go, conn.go (one connection's life), arena.go with ranges.go (shared memory and who has which piece), place.go (what a call uses of it).
package client
