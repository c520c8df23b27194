"""Workers, clients and servers that die while they have arenas, and requests that nobody waits for."""

import asyncio
import contextlib
import gc
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ringmaster as rm
from clients import Both
from placement import MIB, Run, address, block_of, held_by, in_arena
from serving import PATIENCE, arenas_of, serve, until, worker


def test_a_worker_dies_and_another_one_writes_the_answer(run: Run, arenas: Path, tmp_path: Path) -> None:
    async def test(c: Both) -> None:
        x = await c.empty(100_000, "int64")
        x[:] = np.arange(100_000)
        out = await c.call(
            "w",
            "die_once",
            str(tmp_path / "died"),
            tensors={"x": x},
            outputs={"y": (x.shape, x.dtype)},
            timeout=PATIENCE,
        )
        assert out.body is True
        assert (out.tensors["y"] == x + 1).all()
        assert (tmp_path / "died").exists()

    run(test, arenas)


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_memory_is_left_alone_until_the_worker_has_done(how: str, run: Run, arenas: Path, tmp_path: Path) -> None:
    async def test(c: Both) -> None:
        go = tmp_path / "go"
        x = await c.empty(MIB, "uint8")
        x[:] = 1
        if isinstance(c.client, rm.Client) or how == "timeout":
            with pytest.raises(rm.DeadlineExceeded):
                await c.call("w", "hold", str(go), tensors={"x": x}, outputs={"y": (MIB, "uint8")}, timeout=0.3)
        else:
            call = c.begin("w", "hold", str(go), tensors={"x": x}, outputs={"y": (MIB, "uint8")})
            while not Path(f"{go}.began").exists():
                await asyncio.sleep(0.001)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
        there = address(x)
        del x
        for _ in range(5):
            assert held_by(c) == 1
            await c.status()
            y = await c.empty(MIB, "uint8")
            assert address(y) != there
            y[:] = 3
        fresh = [await c.empty(MIB, "uint8") for _ in range(4)]
        for y in fresh:
            y[:] = 3
        go.touch()  # now it writes the answer that nobody waits for
        while held_by(c) > 0:
            await c.status()
        assert all((y == 3).all() for y in fresh)
        del y, fresh
        gc.collect()  # exceptions and their frames
        again = [await c.empty(MIB, "uint8") for _ in range(6)]
        assert there in map(address, again)

    run(test, arenas)


def test_the_connection_is_lost(run: Run, tmp_path: Path) -> None:
    async def test(c: Both) -> None:
        kept = await c.empty(100_000, "uint8")
        kept[:] = 3
        out = await c.call("w", "double", tensors={"x": kept}, outputs={"y": (100_000, "uint8")})
        for server in servers:
            server.close()
        with contextlib.suppress(rm.Unavailable):
            await c.status()
        with serve(tmp_path, {"w": worker("arenas.py")}):
            assert (out.tensors["y"] == 6).all()
            facts = (await c.call("w", "facts", tensors={"x": kept})).body["x"]
            assert facts["arena"]  # in one of the new connection
            assert facts["sum"] == 300_000
            again = await c.empty(100_000, "uint8")
            assert in_arena(again)
            assert block_of(again) is not block_of(kept)

    servers = [contextlib.ExitStack()]
    path = servers[0].enter_context(serve(tmp_path, {"w": worker("arenas.py")}))
    try:
        run(test, path)
    finally:
        servers[0].close()


CLIENT = """
import os, sys, threading
import numpy as np, ringmaster as rm
c = rm.connect(sys.argv[1])
x = c.empty(1 << 20, "uint8")
more = {"tensors": {"x": x}, "outputs": {"y": (1 << 20, "uint8")}}
threading.Thread(target=c.call, args=("w", "hold", sys.argv[2]), kwargs=more).start()
while not os.path.exists(sys.argv[2] + ".began"):
    pass
print("running", flush=True)
"""


def test_a_client_is_killed(arenas: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    before = arenas_of(arenas)["regions"]
    with subprocess.Popen([sys.executable, "-c", CLIENT, arenas, go], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"running\n"
        assert arenas_of(arenas)["regions"] == before + 1
        client.send_signal(signal.SIGKILL)
    go.touch()  # the request that runs ends in the worker, then the memory goes
    until(lambda: arenas_of(arenas)["regions"] == before)
    with rm.connect(arenas) as c:
        until(lambda: c.call("w", "resources").body["maps"] == 0)
