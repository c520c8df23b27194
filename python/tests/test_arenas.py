"""Arenas between clients of either kind, the real server and real workers."""

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ringmaster as rm
from clients import Both
from memfd import mappings
from ringmaster._arena import IDLE, MOVE
from ringmaster._ring import Block
from serving import PATIENCE, arenas_of, serve, until, worker

MIB = 1 << 20

Run = Callable[[Any, Path], None]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a server with a pool of every kind of worker."""
    pools = {
        "w": worker("arenas.py"),
        "many": worker("arenas.py", concurrency=4, workers=2),
        "batch": worker("arenas.py", actions={"rows": {"batch": {"max": 4, "delay": "2ms"}}}),
        "old": worker("inline.py"),
    }
    with serve(tmp_path_factory.mktemp("arenas"), pools, arenas={"client": "64MiB", "total": "256MiB"}) as path:
        yield path


def block_of(a: Any) -> Any:
    """Return what an array's memory belongs to."""
    while isinstance(a, np.ndarray):
        a = a.base
    return a


def in_arena(a: np.ndarray) -> bool:
    return isinstance(block_of(a), Block)


def address(a: np.ndarray) -> int:
    found: int = a.__array_interface__["data"][0]
    return found


# ---- calls ----


def test_nothing_is_copied(run: Run, path: Path) -> None:
    async def test(c: Both) -> None:
        x = await c.empty((256, 256), "float32")
        assert in_arena(x)
        assert address(x) % 64 == 0
        assert x.flags.writeable
        x[:] = 2
        facts = (await c.call("w", "facts", tensors={"x": x})).body["x"]
        assert facts == {"arena": True, "writeable": False, "aligned": True, "dtype": "float32", "sum": 131072.0}
        for action in ("double", "double_by_copy"):
            out = await c.call("w", action, tensors={"x": x}, outputs={"y": (x.shape, x.dtype)})
            y = out.tensors["y"]
            assert in_arena(y)
            assert y.flags.writeable
            assert (y == 4).all()
        assert (await c.call("w", "double", tensors={"x": x})).body == {"arena": False}

    run(test, path)


def test_the_worker_sees_what_the_client_writes(run: Run, path: Path) -> None:
    async def test(c: Both) -> None:
        x = await c.empty(100, "int32")
        x[:] = 0
        call = c.begin("w", "see", tensors={"x": x}, timeout=PATIENCE)
        await asyncio.sleep(0)
        x[0] = 7
        assert (await call).body == "seen"

    run(test, path)


def test_large_tensors_are_moved_and_small_ones_travel(run: Run, path: Path) -> None:
    async def test(c: Both) -> None:
        big = np.arange(MOVE // 4, dtype="float32").reshape(-1, 8)
        tensors = {
            "big": big,
            "transposed": big.T,
            "swapped": big.astype(">f4"),
            "brain": np.ones(MOVE, ml_dtypes.bfloat16),
            "small": big[:10],
            "scalar": np.float64(3),
            "none": np.zeros((0, 5)),
        }
        facts = (await c.call("w", "facts", tensors=tensors)).body
        assert {name for name, f in facts.items() if f["arena"]} == {"big", "transposed", "swapped", "brain"}
        for name in ("big", "transposed", "swapped"):
            assert facts[name]["sum"] == float(big.sum(dtype="float64"))
            assert facts[name]["dtype"] == "float32"
        assert facts["brain"]["dtype"] == "bfloat16"
        out = await c.call("w", "echo", tensors=tensors, outputs=dict.fromkeys(tensors, (MOVE, "float32")))
        for name, a in tensors.items():
            assert (out.tensors[name] == a).all()
            assert in_arena(out.tensors[name]) == (name != "none")

    run(test, path)


def test_parts_of_an_array_go_by_name_where_they_can(run: Run, path: Path) -> None:
    async def test(c: Both) -> None:
        x = await c.empty((64, 16), "float32")
        x[:] = np.arange(1024).reshape(64, 16)
        parts = {"whole": x, "rows": x[3:9], "flat": x.reshape(-1)[16:], "crooked": x[:, 1], "odd": x.reshape(-1)[1:]}
        parts["view"] = x.view("int32")
        facts = (await c.call("w", "facts", tensors=parts)).body
        assert {name for name, f in facts.items() if f["arena"]} == {"whole", "rows", "flat", "view"}
        for name, part in parts.items():
            assert facts[name]["sum"] == float(part.sum(dtype="float64"))

    run(test, path)


def test_outputs(run: Run, path: Path) -> None:
    async def test(c: Both) -> None:
        x = np.arange(50000, dtype="int32")
        for shape in (50000, (500, 100), np.int64(60000)):  # what comes has the worker's shape
            out = await c.call("w", "double", tensors={"x": x}, outputs={"y": (shape, "int32"), "unknown": (9, "int8")})
            assert out.body == {"arena": True}
            assert (out.tensors["y"] == 2 * x).all()
        for shape in (49999, 0, (0, 3)):
            out = await c.call("w", "double", tensors={"x": x}, outputs={"y": (shape, "int32")})
            assert out.body == {"arena": False}
            assert (out.tensors["y"] == 2 * x).all()
        for wrong in (("y", -1, "int32"), ("y", (3, -2), "int32")):
            with pytest.raises(ValueError, match="negative"):
                await c.call("w", "double", tensors={"x": x}, outputs={wrong[0]: wrong[1:]})
        with pytest.raises(TypeError, match="cannot be sent"):
            await c.call("w", "double", tensors={"x": x}, outputs={"y": (3, object)})

    run(test, path)


def test_a_stream_has_tensors_in_arenas(run: Run, path: Path) -> None:
    async def test(c: Both) -> None:
        x = await c.empty(1000, "int32")
        got = [chunk.tensors["y"] async for chunk in c.stream("w", "chunks", tensors={"x": x}, raw=True)]
        assert [y.sum() for y in got] == [0, 1000, 2000]

    run(test, path)


def test_batches(run: Run, path: Path) -> None:
    async def test(c: Both) -> None:
        xs = []
        for i in range(8):
            xs.append(await c.empty(1000, "int32"))
            xs[-1][:] = i
        calls = [c.begin("batch", "rows", tensors={"x": x}, outputs={"y": (1000, "int32")}) for x in xs]
        for i, out in enumerate(await asyncio.gather(*calls)):
            assert out.body is True
            assert (out.tensors["y"] == i + 1).all()
            assert in_arena(out.tensors["y"])

    run(test, path)


# ---- what an array's life is ----


def test_memory_is_used_again_when_the_last_view_has_gone(run: Run, path: Path) -> None:
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

    run(test, path)


def test_many_calls_take_no_more_memory(run: Run, path: Path) -> None:
    async def test(c: Both) -> None:
        x = np.ones(MIB, "uint8")
        for _ in range(200):
            out = await c.call("w", "double", tensors={"x": x}, outputs={"y": (MIB, "uint8")})
            assert out.tensors["y"][-1] == 2
        assert arenas_of(path)["bytes"] <= 8 * MIB

    run(test, path)


def test_arenas_that_are_not_used_are_given_back(run: Run, path: Path) -> None:
    async def test(c: Both) -> None:
        many = [await c.empty(MIB, "uint8") for _ in range(30)]
        before = arenas_of(path)
        assert before["bytes"] >= 30 * MIB
        del many
        x = np.ones(MOVE, "uint8")
        for _ in range(2 * IDLE):
            await c.call("w", "facts", tensors={"x": x})
        until(lambda: arenas_of(path)["regions"] == 1)

    run(test, path)


def test_an_array_outlives_its_client(run: Run, path: Path) -> None:
    kept = []

    async def test(c: Both) -> None:
        x = await c.empty(1000, "int16")
        x[:] = 5
        out = await c.call("w", "double", tensors={"x": x}, outputs={"y": (1000, "int16")})
        kept.extend([x, out.tensors["y"]])

    run(test, path)
    gc.collect()
    assert (kept[0] * 2 == kept[1]).all()
    kept[1][:] = 0
    kept.clear()
    assert mappings() == []


def test_many_clients_leave_nothing(run: Run, path: Path) -> None:
    def resources() -> tuple[int, int]:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir())), len(mappings())

    async def test(c: Both) -> None:
        x = await c.empty(MIB, "uint8")
        out = await c.call("w", "double", tensors={"x": x}, outputs={"y": (MIB, "uint8")})
        assert in_arena(out.tensors["y"])

    run(test, path)
    before, rss = resources(), _rss()
    for _ in range(40):
        run(test, path)
    assert resources() == before
    assert _rss() - rss < 16 * MIB  # 40 arenas of 4 MiB went by
    until(lambda: arenas_of(path)["regions"] == 0)
    with rm.connect(path) as c:
        until(lambda: c.call("w", "resources").body["maps"] == 0)


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


# ---- what goes wrong ----


def test_a_worker_dies_and_another_one_writes_the_answer(run: Run, path: Path, tmp_path: Path) -> None:
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

    run(test, path)


def held_by(c: Both) -> int:
    """Return how many requests keep memory."""
    return len(c.client._connection._session._named)


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_memory_is_left_alone_until_the_worker_has_done(how: str, run: Run, path: Path, tmp_path: Path) -> None:
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

    run(test, path)


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


def test_a_client_is_killed(path: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    before = arenas_of(path)["regions"]
    with subprocess.Popen([sys.executable, "-c", CLIENT, path, go], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"running\n"
        assert arenas_of(path)["regions"] == before + 1
        client.send_signal(signal.SIGKILL)
    go.touch()  # the request that runs ends in the worker, then the memory goes
    until(lambda: arenas_of(path)["regions"] == before)
    with rm.connect(path) as c:
        until(lambda: c.call("w", "resources").body["maps"] == 0)


# ---- where there are no arenas ----


def test_a_worker_that_knows_nothing_of_arenas(run: Run, path: Path) -> None:
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

    run(test, path)


@pytest.mark.parametrize("connect", [rm.connect, rm.aio.connect])
def test_without_rings(connect: Any, path: Path) -> None:
    async def test(c: Both) -> None:
        x = await c.empty((10, 100_000), "float32")
        assert not in_arena(x)
        x[:] = 1
        out = await c.call("w", "double", tensors={"x": x}, outputs={"y": (x.shape, x.dtype)})
        assert (out.tensors["y"] == 2).all()

    async def main() -> None:
        client = connect(path, ring=0)
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
        # what one process has, another connection of it cannot have
        with rm.connect(path) as c, rm.connect(path) as d:
            x = c.empty(7 * MIB, "uint8")
            assert in_arena(x)
            assert not in_arena(d.empty(MIB, "uint8"))
            assert d.call("w", "facts", tensors={"x": x}).body["x"]["arena"] is False


# ---- threads, tasks, forks ----


def test_many_threads(path: Path) -> None:
    with rm.connect(path) as c:
        failures: list[BaseException] = []

        def work(n: int) -> None:
            try:
                for i in range(30):
                    x = c.empty(20_000 + 1000 * n, "int32")
                    x[:] = 100 * n + i
                    out = c.call(
                        "many", "double", tensors={"x": x}, outputs={"y": (x.shape, "int32")}, timeout=PATIENCE
                    )
                    assert out.body == {"arena": True}
                    assert (out.tensors["y"] == 2 * (100 * n + i)).all()
            except BaseException as e:
                failures.append(e)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert failures == []
        assert arenas_of(path)["bytes"] <= 16 * MIB


def test_many_tasks(path: Path) -> None:
    async def main() -> None:
        async with rm.aio.connect(path) as c:

            async def work(n: int) -> None:
                for i in range(20):
                    x = await c.empty(20_000, "int32")
                    x[:] = 100 * n + i
                    out = await c.call("many", "double", tensors={"x": x}, outputs={"y": (20_000, "int32")})
                    assert (out.tensors["y"] == 2 * (100 * n + i)).all()

            async with asyncio.TaskGroup() as group:
                for n in range(16):
                    group.create_task(work(n))

    asyncio.run(main())


def test_a_fork(path: Path) -> None:
    with rm.connect(path) as c:
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


# ---- DLPack ----


def test_dlpack(path: Path) -> None:
    with rm.connect(path) as c:
        x = c.empty((100, 100), "float32")
        y = np.from_dlpack(x)
        here = address(x)
        x[3, 4] = 7
        assert y[3, 4] == 7
        del x
        assert address(c.empty((100, 100), "float32")) != here  # y has it
        del y
        assert address(c.empty((100, 100), "float32")) == here
        brain = c.empty(1000, "bfloat16")
        assert brain.dtype == ml_dtypes.bfloat16
        with pytest.raises((BufferError, TypeError)):
            brain.__dlpack__()
        bits = np.from_dlpack(brain.view("uint16"))  # the way around
        bits[0] = 0x3F80
        assert brain[0] == 1


def test_torch(path: Path) -> None:
    torch = pytest.importorskip("torch")
    with rm.connect(path) as c:
        x = c.empty((10, 10), "float32")
        t = torch.from_dlpack(x)
        t.fill_(3)
        assert (x == 3).all()
        assert c.call("w", "facts", tensors={"x": t.numpy()}).body["x"]["arena"]
        brain = torch.from_dlpack(c.empty(100, "bfloat16").view("uint16")).view(torch.bfloat16)
        brain.fill_(1)
