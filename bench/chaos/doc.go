// Package chaos shows that nothing is lost: it runs a real server, loads it from several clients, breaks its workers in every way it knows, and checks every single answer.
//
//	                                     ┌───────────── ringmaster serve ─────────────┐
//	clients: lib, wire, processes ══════▶│ wide (4 × 8)   narrow (2 × 1)   python (2 × 4) │──▶ ledger: one line each time an action runs
//	      │    ▲                         └───────▲────────────────▲────────────▲──────┘
//	 tally of outcomes                           │                │            │
//	                                     kill, stop, pause, hang, crash, exit, leak, lie, poison, raise: one injector per pool
//	                                     restart, reload: one for the server        kill, flood, deafness: one for the clients
//
// What it promises is in promises.go, in one place: which outcome each class of request may have. Every answer is a function of its request (package proof), so that a wrong byte is seen; every run
// of an action leaves a line in the ledger, so that one run too many is seen; every request has a number, so that one without an outcome is seen; and what the server holds of its
// system is compared before and after, and looked for once more when it has ended. Much of the load lies in arenas: no byte beside an answer's slot may change, none of what is released, and every lease must be.
//
// Read in this order: promises.go (what is allowed), request.go (what is asked, and whether the answer is right), line.go and yard.go (the two kinds of connection, and the arena of one of them), tally.go and ledger.go (what came of it),
// load.go and process.go (clients, in this process and in others), server.go (the server under test), faults.go and flights.go (what is done to its workers, and when), unrest.go (what is done to the rest), recovery.go,
// proc_linux.go and leaks.go (what is left), run.go (all of it), result.go and print.go.
//
// # Who owns what
//
// [Run] owns a directory, a server, and the clients; it returns when all of them have ended. Each goroutine is joined by whoever started it.
package chaos
