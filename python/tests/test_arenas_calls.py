"""What calls do with arenas: clients of either kind, the real server and real workers."""

import asyncio
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import ringmaster as rm
from clients import Both
from placement import MIB, Run, address, in_arena
from ringmaster._arena import MOVE
from serving import PATIENCE, arenas_of


def test_nothing_is_copied(run: Run, arenas: Path) -> None:
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
            facts = (await c.call("w", "facts", tensors={"x": y[1:]})).body["x"]
            assert facts["arena"]  # one call's answer is another's input
        assert (await c.call("w", "double", tensors={"x": x})).body == {"arena": False}

    run(test, arenas)


def test_the_worker_sees_what_the_client_writes(run: Run, arenas: Path) -> None:
    async def test(c: Both) -> None:
        x = await c.empty(100, "int32")
        x[:] = 0
        call = c.begin("w", "see", tensors={"x": x}, timeout=PATIENCE)
        await asyncio.sleep(0)
        x[0] = 7
        assert (await call).body == "seen"

    run(test, arenas)


def test_large_tensors_are_moved_and_small_ones_travel(run: Run, arenas: Path) -> None:
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

    run(test, arenas)


def test_parts_of_an_array_go_by_name_where_they_can(run: Run, arenas: Path) -> None:
    async def test(c: Both) -> None:
        x = await c.empty((64, 16), "float32")
        x[:] = np.arange(1024).reshape(64, 16)
        parts = {"whole": x, "rows": x[3:9], "flat": x.reshape(-1)[16:], "crooked": x[:, 1], "odd": x.reshape(-1)[1:]}
        parts["view"] = x.view("int32")
        facts = (await c.call("w", "facts", tensors=parts)).body
        assert {name for name, f in facts.items() if f["arena"]} == {"whole", "rows", "flat", "view"}
        for name, part in parts.items():
            assert facts[name]["sum"] == float(part.sum(dtype="float64"))

    run(test, arenas)


def test_outputs(run: Run, arenas: Path) -> None:
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

    run(test, arenas)


def test_a_stream_has_tensors_in_arenas(run: Run, arenas: Path) -> None:
    async def test(c: Both) -> None:
        x = await c.empty(1000, "int32")
        got = [chunk.tensors["y"] async for chunk in c.stream("w", "chunks", tensors={"x": x}, raw=True)]
        assert [y.sum() for y in got] == [0, 1000, 2000]

    run(test, arenas)


def test_batches(run: Run, arenas: Path) -> None:
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

    run(test, arenas)


def test_many_threads(arenas: Path) -> None:
    with rm.connect(arenas) as c:
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
        assert arenas_of(arenas)["bytes"] <= 16 * MIB


def test_many_tasks(arenas: Path) -> None:
    async def main() -> None:
        async with rm.aio.connect(arenas) as c:

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


def test_dlpack(arenas: Path) -> None:
    with rm.connect(arenas) as c:
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


def test_torch(arenas: Path) -> None:
    torch = pytest.importorskip("torch")
    with rm.connect(arenas) as c:
        x = c.empty((10, 10), "float32")
        t = torch.from_dlpack(x)
        t.fill_(3)
        assert (x == 3).all()
        assert c.call("w", "facts", tensors={"x": t.numpy()}).body["x"]["arena"]
        brain = torch.from_dlpack(c.empty(100, "bfloat16").view("uint16")).view(torch.bfloat16)
        brain.fill_(1)
