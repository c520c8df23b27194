"""A worker for tests of arenas: it tells where its tensors lie, writes answers in place, hangs and dies."""

import os
import pathlib
import signal
import time

import numpy as np

import ringmaster as rm


def arena_maps():
    """Return the ranges of addresses at which arenas are mapped."""
    ranges = []
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        if "memfd:ringmaster-arena" in line:
            start, end = line.split(maxsplit=1)[0].split("-")
            ranges.append((int(start, 16), int(end, 16)))
    return ranges


def in_arena(a):
    address = a.__array_interface__["data"][0]
    return any(start <= address < end for start, end in arena_maps())


def facts_of(a):
    return {
        "arena": in_arena(a),
        "writeable": a.flags.writeable,
        "aligned": a.__array_interface__["data"][0] % 64 == 0,
        "dtype": a.dtype.name,
        "sum": float(np.sum(a, dtype="float64")),
    }


@rm.action("facts", idempotent=True)
def facts(request):
    return {name: facts_of(a) for name, a in request.tensors.items()}


@rm.action("resources")
def resources(request):
    return {"maps": len(arena_maps()), "fds": len(list(pathlib.Path("/proc/self/fd").iterdir()))}


@rm.action("double")
def double(request):
    """Write the answer in place."""
    x = request.tensors["x"]
    y = request.output("y", x.shape, x.dtype)
    np.multiply(x, 2, out=y)
    return {"arena": in_arena(y)}, {"y": y}


@rm.action("double_by_copy")
def double_by_copy(request):
    return None, {"y": request.tensors["x"] * 2}


@rm.action("echo", idempotent=True)
def echo(request):
    return request.body, request.tensors


@rm.action("see")
def see(request):
    """Wait until the client has written 7."""
    while request.tensors["x"][0] != 7:
        request.check()
    return "seen"


@rm.action("hold")
def hold(request):
    """Hear no cancel, write the answer when the file is there."""
    y = request.output("y", 1 << 20, "uint8")
    pathlib.Path(request.body + ".began").touch()
    while not pathlib.Path(request.body).exists():
        time.sleep(0.001)
    y[:] = 9
    return None, {"y": y}


@rm.action("die_once", idempotent=True)
def die_once(request):
    """Die with half of the answer written, the first time."""
    x = request.tensors["x"]
    y = request.output("y", x.shape, x.dtype)
    marker = pathlib.Path(request.body)
    if not marker.exists():
        marker.touch()
        y[: len(y) // 2] = 1
        os.kill(os.getpid(), signal.SIGKILL)
    y[:] = x + 1
    return in_arena(y), {"y": y}


@rm.action("chunks", stream=True)
def chunks(request):
    for i in range(3):
        yield i, {"y": np.full(1000, i, "int32")}


@rm.action("twice", stream=True)
def twice(request):
    y = request.output("y", 1000, "int32")
    y[:] = 1
    yield 1, {"y": y}
    yield 2, {"y": y}


@rm.action("hold_the_gil")
def hold_the_gil(request):
    # One bytecode that does not come to its end: no other Python thread runs meanwhile.
    sum(range(1 << 62))


@rm.action("rows", idempotent=True, batch=True)
def rows(batch):
    return [(in_arena(r.tensors["x"]), {"y": r.tensors["x"] + 1}) for r in batch]


if __name__ == "__main__":
    rm.serve()
