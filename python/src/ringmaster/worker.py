"""The worker's side: runs actions for the requests that the supervisor sends through shared memory.

    serve ─ handshake ─ load ─ hello ─┐
                                      ▼
             ┌──────────────── receive ◀── request, cancel, credit, ping, drain, stop
             ▼
       run the action ──▶ chunk, chunk, … END

Inline (concurrency 1): one thread does it all. While an action runs the ring is looked at between chunks, by
request.cancelled, and while a chunk waits for credit. A request that is found there, sent ahead, waits for its turn,
and until then is unread to the supervisor: should this process die, it has not begun. Threaded: the main thread
receives, and runs what is quick itself; others run the rest, and one of them receives while the main thread is late.

Requests that are held wait until the supervisor says which of them are one call; that call occupies one thread. To an
action that takes batches a request that comes alone is a batch of one.

Arenas of clients, which the supervisor attaches over the lifeline, are mapped by the thread that receives, when it is
nudged or when a request names one. A request's tensors in them are views, and so is what it writes its answer to.

A request ends in exactly one END. A stream that is cancelled is closed at its yield: the generator sees
GeneratorExit, so `finally` and `with` work, and the END carries CANCELLED. An action that returns although it was
cancelled has its result sent as ever.

What ends a worker: `drain` or SIGTERM (serve returns when the open requests have ended), `stop` (status 0, at once),
end of file on the lifeline (status 1, at once, by a C thread that needs no GIL), a supervisor that breaks the
protocol (status 70), an exception that is not an Exception, such as SystemExit.

A worker that gets SIGTERM while it has a request, or does not end although it was drained, hangs or is late: first of
all it writes to standard error where each thread is (faulthandler). That is done in C and needs no GIL.

What a small request costs here is mostly Python, so what every request passes is short and does nothing that few need:
docs/decisions/0019-python-hot-path.md.
"""

import faulthandler
import os
import signal
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from ringmaster._actions import select
from ringmaster._inline import Inline
from ringmaster._launch import launch, leave
from ringmaster._pin import new_pinner
from ringmaster._regions import Regions
from ringmaster._ring import lifeline_packets, tell_on_term, tell_where
from ringmaster._serving import LOADING
from ringmaster._threaded import Threaded


def serve(
    load: Callable[[], object] | None = None,
    actions: Iterable[Callable[..., Any]] | None = None,
    *,
    pin: bool | None = None,
) -> None:
    """Serve requests until the supervisor drains this worker.

    load     called after the handshake and before the first request: the place for what takes long, importing a
             framework and loading a model. The handshake must be made within 10 seconds of the start; load has the
             pool's start_timeout. If it raises, the process ends with status 1.
    actions  the decorated functions to serve; all there are, if None.
    pin      register clients' arenas with CUDA (cudaHostRegister), once each, so that tensors in them are copied to and
             from the GPU directly, also asynchronously. Where there is no CUDA the log says so once. None: as the
             environment's RINGMASTER_PIN=1 says, which a pool's `env` can set.

    Call it from the main thread, as the program's last statement, and print nothing before. From then on standard
    output goes to the log, as standard error does.
    """
    chosen = select(actions)
    given = launch()
    given.segment.set_status(LOADING, 0)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: leave(0))  # nothing is open yet
    os.register_at_fork(after_in_child=_forget)
    if load is not None:
        try:
            load()
        except Exception:
            traceback.print_exc()
            leave(1)
    regions = Regions(lifeline_packets, new_pinner(pin))
    worker = (Inline if given.concurrency == 1 else Threaded)(given, chosen, regions)
    signal.signal(signal.SIGTERM, worker.on_term)
    tell_on_term(lambda number: faulthandler.register(number, file=2, all_threads=True, chain=False))
    worker.run()
    tell_where(True)  # whatever keeps the program from its end now


def _forget() -> None:
    """Let SIGTERM end a child that an action forked, as it ends any process: the child is no worker."""
    tell_where(False)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
