// Package gateway is the front door: it lets the programs of this host in through a Unix socket and hands what they ask to a [Backend].
//
//	Listen ─▶ Serve ─accept─▶ conn ─hello─▶ native ─▶ Handler ─▶ … ─▶ Backend.Call
//	                           │                         └ the call chain: small wrappers
//	                           └ who is it? (SO_PEERCRED)
//
// Read in this order: listen.go (one server per path), inherit.go (or a socket that systemd made), peer.go (who may come in), serve.go (accept, drain), conn.go (one client), native.go (frames ⇄ the chain),
// handler.go (the chain), logged.go (its first link).
//
// # Who may connect
//
// The socket file has mode 0660, so the kernel lets in the server's own user, root, and the members of the socket's group. The same three are checked once more by the credentials that
// the kernel recorded at connect, which also covers a socket whose mode was widened later. Anyone else gets PERMISSION_DENIED/peer.
//
// # Goroutines
//
//	goroutine        wakes on            ends on                         joined by
//	Serve itself     accept              ctx, a broken listener          its caller
//	conn.run         frames              hang-up, drain, write timeout   Serve
//	ipc.Serve's      a request           its END                         ipc.Serve, in conn.run
//	conn.drain       once, at drain      its one frame is written        Serve
//
// # What a client can do to us
//
// It holds at most MaxInFlight requests of at most MaxMessage bytes. It may read slowly: its replies wait in its own requests
// and end with RESOURCE_EXHAUSTED/slow_reader after StallTimeout; a connection whose writes do not move for WriteTimeout is closed. When it dies its requests are cancelled.
package gateway
