"""Where there are no arenas, or not enough, everything travels as ever."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

import ringmaster as rm
from clients import Both
from placement import MIB, Run, in_arena
from serving import PATIENCE, arenas_of, serve, until, worker


def test_a_worker_that_knows_nothing_of_arenas(run: Run, arenas: Path) -> None:
    async def test(c: Both) -> None:
        x = await c.empty(MIB, "uint8")
        x[:] = 1
        for _ in range(3):
            out = await c.call("old", "double", tensors={"x": x}, outputs={"y": (MIB, "uint8")}, timeout=PATIENCE)
            assert out.body == {"arena": False}
            assert (out.tensors["y"] == 2).all()
        assert (await c.call("w", "double", tensors={"x": x}, outputs={"y": (MIB, "uint8")})).body == {"arena": True}
        # the first time over a stream
        c.client._connection._session.arenas.inline.clear()
        assert [i async for i in c.stream("old", "chunks", tensors={"x": x})] == [0, 1, 2]

    run(test, arenas)


@pytest.mark.parametrize("connect", [rm.connect, rm.aio.connect])
def test_without_rings(connect: Any, arenas: Path) -> None:
    async def test(c: Both) -> None:
        x = await c.empty((10, 100_000), "float32")
        assert not in_arena(x)
        x[:] = 1
        out = await c.call("w", "double", tensors={"x": x}, outputs={"y": (x.shape, x.dtype)})
        assert (out.tensors["y"] == 2).all()

    async def main() -> None:
        client = connect(arenas, ring=0)
        if isinstance(client, rm.Client):
            with client:
                await test(Both(client))
        else:
            async with client:
                await test(Both(client))

    asyncio.run(main())


def test_a_server_without_arenas(run: Run, tmp_path: Path) -> None:
    async def test(c: Both) -> None:
        x = await c.empty(MIB, "uint8")
        assert not in_arena(x)
        x[:] = 1
        out = await c.call("w", "double", tensors={"x": x}, outputs={"y": (x.shape, x.dtype)})
        assert (out.tensors["y"] == 2).all()

    with serve(tmp_path, {"w": worker("arenas.py")}, arenas={"client": 0}) as path:
        run(test, path)


def test_more_than_the_quota_travels(run: Run, tmp_path: Path) -> None:
    async def test(c: Both) -> None:
        inside = [await c.empty(3 * MIB, "uint8") for _ in range(4)]
        assert [in_arena(x) for x in inside] == [True, True, False, False]
        for x in inside:
            x[:] = 1
            out = await c.call("w", "double", tensors={"x": x}, outputs={"y": (x.shape, x.dtype)})
            assert (out.tensors["y"] == 2).all()
        assert not in_arena(await c.empty(100 * MIB, "uint8"))
        del inside, x, out
        assert in_arena(await c.empty(3 * MIB, "uint8"))

    with serve(tmp_path, {"w": worker("arenas.py")}, arenas={"client": "8MiB"}) as path:
        run(test, path)
        gc.collect()  # what is mapped still is charged still
        until(lambda: arenas_of(path)["regions"] == 0)
        # what one process has, another connection of it cannot have
        with rm.connect(path) as c, rm.connect(path) as d:
            x = c.empty(7 * MIB, "uint8")
            assert in_arena(x)
            assert not in_arena(d.empty(MIB, "uint8"))
            assert d.call("w", "facts", tensors={"x": x}).body["x"]["arena"] is False
