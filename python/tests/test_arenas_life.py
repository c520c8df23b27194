"""How long memory is whose, and that all of it is given back."""

import gc
import os
from pathlib import Path

import numpy as np

import ringmaster as rm
from clients import Both
from memfd import mappings
from placement import MIB, Run, address, block_of, in_arena
from ringmaster._arena import IDLE, MOVE
from serving import PATIENCE, arenas_of, until


def test_memory_is_used_again_when_the_last_view_has_gone(run: Run, arenas: Path) -> None:
    async def test(c: Both) -> None:
        x = await c.empty(1000, "float64")
        here, view = address(x), x[10:20]
        del x
        y = await c.empty(1000, "float64")
        assert address(y) != here
        del view
        z = await c.empty(1000, "float64")
        assert address(z) == here
        out = await c.call("w", "double", tensors={"x": z}, outputs={"y": (1000, "float64")})
        there, part = address(out.tensors["y"]), out.tensors["y"][5:6]
        del out
        for _ in range(3):
            assert address(await c.empty(1000, "float64")) != there
        del part
        assert address(await c.empty(1000, "float64")) == there

    run(test, arenas)


def test_many_calls_take_no_more_memory(run: Run, arenas: Path) -> None:
    async def test(c: Both) -> None:
        x = np.ones(MIB, "uint8")
        for _ in range(200):
            out = await c.call("w", "double", tensors={"x": x}, outputs={"y": (MIB, "uint8")})
            assert out.tensors["y"][-1] == 2
        assert arenas_of(arenas)["bytes"] <= 8 * MIB

    run(test, arenas)


def test_arenas_that_are_not_used_are_given_back(run: Run, arenas: Path) -> None:
    async def test(c: Both) -> None:
        many = [await c.empty(MIB, "uint8") for _ in range(30)]
        before = arenas_of(arenas)
        assert before["bytes"] >= 30 * MIB
        del many
        x = np.ones(MOVE, "uint8")
        for _ in range(2 * IDLE):
            await c.call("w", "facts", tensors={"x": x})
        until(lambda: arenas_of(arenas)["regions"] == 1)

    run(test, arenas)


def test_an_array_outlives_its_client(run: Run, arenas: Path) -> None:
    kept = []

    async def test(c: Both) -> None:
        x = await c.empty(1000, "int16")
        x[:] = 5
        out = await c.call("w", "double", tensors={"x": x}, outputs={"y": (1000, "int16")})
        kept.extend([x, out.tensors["y"]])

    run(test, arenas)
    gc.collect()
    assert (kept[0] * 2 == kept[1]).all()
    kept[1][:] = 0
    kept.clear()
    assert mappings() == []


def test_many_clients_leave_nothing(run: Run, arenas: Path) -> None:
    def resources() -> tuple[int, int]:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir())), len(mappings())

    async def test(c: Both) -> None:
        x = await c.empty(MIB, "uint8")
        out = await c.call("w", "double", tensors={"x": x}, outputs={"y": (MIB, "uint8")})
        assert in_arena(out.tensors["y"])

    run(test, arenas)
    before, rss = resources(), _rss()
    for _ in range(40):
        run(test, arenas)
    assert resources() == before
    assert _rss() - rss < 16 * MIB  # 40 arenas of 4 MiB went by
    until(lambda: arenas_of(arenas)["regions"] == 0)
    with rm.connect(arenas) as c:
        until(lambda: c.call("w", "resources").body["maps"] == 0)


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_fork(arenas: Path) -> None:
    with rm.connect(arenas) as c:
        x = c.empty(100_000, "uint8")
        x[:] = 1
        child = os.fork()
        if child == 0:
            status = 1
            try:
                y = c.empty(100_000, "uint8")  # of a connection of its own
                y[:] = 5
                x[:] = 2  # which is the parent's memory
                out = c.call("w", "double", tensors={"x": x}, outputs={"y": (100_000, "uint8")}, timeout=PATIENCE)
                if (out.tensors["y"] == 4).all() and block_of(y) is not block_of(x):
                    status = 0
                c.close()
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert (x == 2).all()
        facts = c.call("w", "facts", tensors={"x": x}, timeout=PATIENCE).body["x"]
        assert (facts["arena"], facts["sum"]) == (True, 200_000)
