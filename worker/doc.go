// Package worker is the runtime inside a worker process: it turns functions into actions that a ringmaster supervisor can call through shared memory.
//
//	              ┌──────────────────────── worker process ────────────────────────┐
//	supervisor ══▶│ s2w ring ─▶ ipc.Serve ─▶ one goroutine per request ─▶ your func │
//	           ◀══│ w2s ring ◀─────────────────────────── reply, chunks ◀─┘         │
//	    fd 5  ◀───│ eventfd: wakes the supervisor                                   │
//	    fd 4  ───▶│ lifeline: end of file ends the process at once                  │
//	              └────────────────────────────────────────────────────────────────┘
//
// A worker in full:
//
//	func main() {
//		err := worker.Serve(context.Background(), worker.Actions{
//			"upper": {Unary: upper, Idempotent: true},
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//	}
//
// [Serve] follows docs/protocol.md, sections 1 and 6. Read in this order: action.go (what an action is), serve.go (a worker's life), start.go (what
// the supervisor hands over, and the handshake), lifeline.go and arena.go (what comes over it), handler.go (one request) and batch.go (several), status.go (what the worker says about itself), builtin.go
// and its neighbours (the actions every ringmaster binary can serve).
//
// # Who owns what
//
// A request belongs to its action until the action returns, and so do its tensors, which may be views of shared memory that is unmapped afterwards; a reply may be reused when send, or the action, has returned. The segment and the lifeline
// belong to the process: they are given back by its exit.
//
// # What a crash leaves behind
//
// Nothing that anybody has to clean up. An action that panics fails its own request; a process that dies takes its ring with it, and the supervisor settles what
// was open. A supervisor that dies takes its workers with it: the lifeline's end of file ends the process whatever its actions are doing.
package worker
