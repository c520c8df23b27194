// Package supervisor keeps pools of worker processes alive and gives them requests.
//
//	           ┌─ pool ────────────────────────────────┐
//	           │                      ┌─ slot 0 ──────┐│        ┌─ process group ─┐
//	Call ─────▶│ acquire ─▶ lease ───▶│ incarnation   ││ ═s2w══▶│ worker          │
//	 ▲         │    └▶ queue ─┘       │  segment, ring││ ◀═w2s══│  (its children) │
//	 │         │                      │  caller       ││        └─────────────────┘
//	 └─replies─┼──────────────────────┤  process      ││
//	           │                      └───────────────┘│
//	           │                      ┌─ slot 1 …      │
//	           └───────────────────────────────────────┘
//
// Read in this order: config.go (what is asked for), supervisor.go (wiring), call.go (one request's way), suspects.go (requests that workers died of), pool.go and acquire.go with queue.go, gather.go and admission.go (who may wait, and
// whose turn it is), lease.go with balance.go and affinity.go (who gets it), batch.go (several in one call) and ahead.go (one that is sent before there is a place), slot.go with backoff.go (one place and its processes, one after the other), life.go with hang.go, limits.go and rest.go (one process watched), roll.go and
// reload.go (other processes in the places), incarnation.go (one process with its memory) with arena.go (what it is told of arenas), process_linux.go (the process alone) with confine.go and shim_linux.go
// (what it may do), environ.go, family_linux.go and cgroup_linux.go (what it starts), oom_linux.go and exit.go (why it ended); guard.go (what outlives us). control.go answers requests about the supervisor itself, alive.go a watchdog.
//
// # Who owns what
//
// A slot's goroutine owns its process from spawn to burial and is the single writer of the slot's state. The pool's mutex guards what both look at: states, counts and the queue. Requests in flight are in
// the incarnation's [ipc.Caller]; a lease says that one place in a worker is taken, from before a request is sent until the worker has ended it. Slots come and go in a pool's places: whoever replaces one
// holds pool.rolling.
//
// # What happens when a worker dies
//
// The pidfd fires; the process group is killed, the process reaped, and whatever else it had started killed, in whatever session that is; the ring is closed; replies that were committed are delivered; requests the worker had not read go to another worker; of the others
// those that may run twice and have said nothing yet are tried once more, alone in their worker, and the rest end with ABORTED/worker_lost; one that was in hand at two deaths is refused from then on;
// goroutines are joined; the memory is unmapped; after a backoff the slot starts the next process. Nothing of the dead process is repaired.
//
// When processes keep dying before they have answered anything, their slot has failed; when all of a pool's have, its circuit is open: requests are refused at once until a process that is tried now and then
// is ready. That one gets a single request until it has answered.
//
// # What happens when the supervisor dies
//
// Workers are killed by PDEATHSIG, and see end of file on their lifeline; their own children, in whatever session, are killed by the guard. The segments vanish with their last user.
//
// # What a worker may do
//
// confine.go has the list. For a program that embeds this package: before each spawn every descriptor of the process is marked close-on-exec, and a worker inherits of the environment what environ.go names.
//
// # Goroutines
//
//	goroutine                  woken by                                    ended by                     joined by
//	slot.run, one per slot     kick, its process's events, a tick (rest.go)      its being wanted no more, Run's end   Supervisor.Run
//	pool.recycle, rarely       the next process's events                   the swap, Run's end          Supervisor.Run
//	vramMeter.measure, rarely  nvidia-smi's end                            the same, or 10 s            Supervisor.Run
//	spawner.run                start                                       stop                         spawner.stop
//	guard.watch                the guard's end                             stop                         guard.stop
//	process.wait, per process  pidfd                                       the process's death          incarnation.bury
//	receive, per process       frames in w2s                               the ring's closing           incarnation.bury
//	stdout and stderr readers  output                                      end of file, or 500 ms after the death   incarnation.bury
//	go-plugin's Start          the handshake                               handshake, death or 10 s     incarnation.bury
//	tell, Recall, rarely       space in s2w                                the ring's closing           incarnation.bury
//	awaitRoom, post, rarely    space in s2w                                the ring's closing           incarnation.bury (Caller.Close)
//	Ping, per health check     the answer                                  the check's end, or the ring's closing   incarnation.bury, where it is sending
//	pool.wake, for a moment    the time at which requests that wait for company, or for their own worker, go   itself   nobody
//	Answer's look              a pool's lock                               itself, unless it is stuck   nobody: that is what it finds out
package supervisor
