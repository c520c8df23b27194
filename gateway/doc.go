// Package gateway is the front door: it lets the programs of this host in through a Unix socket and hands what they ask to a [Backend].
//
//	Listen ─▶ Serve ─accept─▶ conn ─hello─▶ native ────────────────────▶ chain.Handler ─▶ … ─▶ Backend.Call
//	                           │  └─capitals─▶ web ─▶ adapter ─▶ exchange ──▲ └ the call chain: small wrappers
//	                           ├ who is it? (SO_PEERCRED, or a token: Gate)
//	                           └ rings of its own come with the hello, if it asks (SCM_RIGHTS)
//
// Read in this order: config.go, listen.go (one server per path), inherit.go (or a socket that systemd made), listentcp.go (or a port), peer.go (who may come in; cgroup_linux.go), prove.go and page.go (who must show a token, and which pages may ask), clients.go (and how much of everything), serve.go (accept, drain), conn.go (one connection),
// detect.go (what it speaks), rings.go (the rings it may get), native.go (frames ⇄ the chain), http.go (connections of HTTP), routes.go (its paths), exchange.go (what its adapters share), multiplex.go (many requests on one stream) and compress.go, then the adapters, each of which translates one protocol and decides
// nothing: health.go, statuspage.go, jsonrpc.go and rpclines.go, openai.go, oip.go (with oipdata.go, oiprest.go, oipgrpc.go), and grpc.go (with grpccall.go, which reads its frames, grpcmany.go, many requests in one call, and grpcweight.go, what a message will take), grpcringmaster.go, grpchealth.go; handler.go (the chain), metered.go (its first link; metrics.go tells what it counted), refusals.go (what of all this is logged).
//
// # Who may connect
//
// The socket file has mode 0660, so the kernel lets in the server's own user, root, and the members of the socket's group. The same three are checked once more by the credentials that
// the kernel recorded at connect, which also covers a socket whose mode was widened later. Anyone else gets PERMISSION_DENIED/peer.
//
// That is so as long as nobody says otherwise. A [Gate] (chain/auth) decides by roles instead, and may let in clients who are not sure: each of their requests needs a token, and who has shown none within helloTimeout is hung
// up on. All who come by TCP are of that kind. What a request may do the call chain decides, not the door.
//
// # Goroutines
//
//	goroutine        wakes on            ends on                         joined by
//	Serve itself     accept              ctx, a broken listener          its caller
//	conn.run         its reader's end    hang-up, drain, write timeout   Serve
//	a Crew's         frames of a client; 1 to 2 s without; Serve         Serve
//	                 a request that waits
//	a Ring's         its client's line   hang-up                         conn.endRing, in conn.run
//	a release        a worker's end      hang-up                         ipc.Serve, in conn.run; one for each request that is leased
//	conn.drain       once, at drain      its one frame is written        Serve
//	turnAway         a refused client    its hello, or refuseTimeout     Serve
//	http.Server's    a request by HTTP   its connection's end            web.serve, in conn.run; the server's own by web.stop
//	a multiplex's    a request of many   its END                         multiplex.finish, in the request's handler
//	untilLeaving's   drain               the end of its stream           the stream's handler
//
// # What a client can do to us
//
// A client is a process: all connections that the kernel says it made. What it can hold has a bound, and the bound leaves room for others; docs/decisions/0008-memory-of-clients.md says how.
//
//	it                                          meets                                      and is told
//	opens connections                           Limits.Connections; as many as are free    RESOURCE_EXHAUSTED/too_many_connections
//	connects and leaves, as fast as it can      maxParting: the rest is shown the door     nothing
//	says half a hello, half a frame             helloTimeout, ReadTimeout                  DEADLINE_EXCEEDED/deadline, hung up on
//	sends requests                              MaxInFlight, Limits.InFlight               RESOURCE_EXHAUSTED/too_many_requests
//	sends large ones                            its share of Memory, before their bytes    RESOURCE_EXHAUSTED/memory_full
//	                                            are read
//	takes its replies slowly                    credit; its share of Memory; StallTimeout  RESOURCE_EXHAUSTED/slow_reader
//	does not read its socket, or its ring       WriteTimeout                               nothing, hung up on
//	writes anything into its ring, or rings     each word is read once and checked; its    nothing, hung up on
//	like mad                                    own connection's goroutine
//	asks for arenas                             Arenas, a number of regions; what it keeps     RESOURCE_EXHAUSTED/arena_quota
//	                                            after a detach is emptied
//	names what is not its own, or overlaps      its connection's set; Request.ValidateArenas   INVALID_ARGUMENT/bad_region
//	asks for large rings                        ringCapacity, its share of Memory          nothing: it gets smaller ones, or none
//	sends pings, cancels, credits without end   its own connection's reader: one           nothing
//	                                            goroutine, which waits for it to read
//	dies                                                                                   its requests are cancelled
//
// Whatever it meets, its requests that end so are cancelled where they run. A write blocks nobody but those who write to the same client. The last connections (a sixteenth, at most 16) are for root
// and the server's own user. A refusal is logged once in refusalPause for each reason.
//
// By HTTP it meets the same; docs/protocols.md says with which status it is told.
//
// Beside Memory, a connection takes two buffers of 16 KiB and two goroutines (three with rings), one of HTTP its headers (64 KiB) or, by HTTP/2, what was sent ahead (256 KiB), and each worker's reader may hold one reply that nobody has been charged for yet.
package gateway
