"""A worker with an action for everything a test wants to see."""

import os
import signal
import sys
import threading
import time

import numpy as np

import ringmaster as rm

closed = []


@rm.action("echo", idempotent=True)
def echo(request):
    return request.body, request.tensors


@rm.action("count", stream=True)
def count(request):
    try:
        for i in range(request.body):
            yield {"i": i}
    finally:
        closed.append(request.id)


@rm.action("frames", stream=True)
def frames(request):
    for i in range(request.body):
        yield i, {"x": np.full((2, 3), i, dtype="float32")}


@rm.action("closed")
def was_closed(request):
    return closed


@rm.action("facts")
def facts(request):
    return {
        "pool": request.pool,
        "trace_id": request.trace_id,
        "context": request.context,
        "headers": dict(request.headers),
        "deadline": request.deadline is not None,
        "left": request.time_left(),
        "cloexec": [not os.get_inheritable(fd) for fd in (3, 4)],
    }


@rm.action("remember")
def remember(request):
    if request.body is not None:
        request.context = request.body
    return "remembered"


@rm.action("remember_slowly", stream=True)
def remember_slowly(request):
    for letter in request.body:
        request.context += letter.encode()
        yield letter


@rm.action("spin_until_cancelled")
def spin_until_cancelled(request):
    while not request.cancelled:
        pass
    request.check()


@rm.action("raise")
def fail(request):
    raise KeyError("grün \udcff \ud800" + "x" * (request.body or 0))


@rm.action("refuse")
def refuse(request):
    raise rm.InvalidArgument("no such size", details={"size": "9"}, retry_after=1.5)


@rm.action("exit")
def leave(request):
    sys.exit(7)


@rm.action("blob")
def blob(request):
    return b"x" * request.body


@rm.action("unsendable")
def unsendable(request):
    return object()


@rm.action("print")
def say(request):
    print("printed after the handshake")


@rm.action("hold_the_gil")
def hold_the_gil(request):
    # One bytecode that does not come to its end: no other Python thread runs meanwhile.
    sum(range(1 << 62))


runs = []


@rm.action("embed", idempotent=True, batch=True)
def embed(batch):
    """Answer the mean of each x; a body says what is to go wrong instead."""
    runs.append([r.id for r in batch])
    if "raise" in batch.bodies:
        raise KeyError("all of you")
    if "few" in batch.bodies:
        return [None]
    if "a tuple" in batch.bodies:
        return None, {}
    if "wait" in batch.bodies:
        while not batch.cancelled:
            pass
        batch.check()
    x = batch.stack("x")
    assert x.shape == (len(batch), *batch[0].tensors["x"].shape)
    wrong = {"refuse": rm.InvalidArgument("not you"), "fail": ValueError("no"), "unsendable": object()}
    return [
        wrong.get(r.body, ({"mean": float(row.mean()), "of": len(batch)}, {"row": row}))
        for r, row in zip(batch, x, strict=True)
    ]


@rm.action("runs")
def runs_of(request):
    return runs


barrier = threading.Barrier(2)


@rm.action("meet")
def meet(request):
    barrier.wait(20)
    return threading.current_thread().name


@rm.action("where")
def where(request):
    return threading.current_thread().name


@rm.action("nap")
def nap(request):
    time.sleep(0.001)
    return threading.current_thread().name


@rm.action("term")
def term(request):
    os.kill(os.getpid(), signal.SIGTERM)
    return "still here"


@rm.action("terminate_child")
def terminate_child(request):
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(theirs, b"x")
        while True:
            signal.pause()
    os.read(ours, 1)
    os.close(ours)
    os.close(theirs)
    os.kill(pid, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def load():
    what = os.environ.get("ZOO_LOAD")
    if what == "raise":
        raise RuntimeError("no model")
    if what == "print":
        print("loading")


if __name__ == "__main__":
    rm.serve(load=load)
    print("served")
    if os.environ.get("ZOO_LINGERS"):
        threading.Event().wait()
