"""An app that uses both SDK clients against a server with the pools `py` (worker.py) and `echo` (builtin).

`app.py orphan` and `app.py orphan-aio` wait for an answer that will not come, and say how that ended.
"""

import asyncio
import sys
import threading
import time

import numpy as np

import ringmaster as rm

frame = np.arange(2 * 1080 * 1920 * 3, dtype=np.uint8).reshape(2, 1080, 1920, 3)


def sync(ring: int) -> None:
    with rm.connect(ring=ring) as c:
        assert (c._connection._ring is not None) == (ring > 0)
        for pool in "py", "echo":
            out = c.call(pool, "echo", {"a": [1, 2.5, None, "ü", b"\0"]}, tensors={"frame": frame})
            assert out.body == {"a": [1, 2.5, None, "ü", b"\0"]}, out.body
            assert out.tensors["frame"].shape == frame.shape and (out.tensors["frame"] == frame).all()
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        assert c.call("py", "total", tensors={"x": x}).body == {"sum": 15.0, "shape": [2, 3], "dtype": "float32"}
        assert c.call("echo", "sum", tensors={"x": x}).body == {"sum": 15.0}
        assert [chunk["i"] for chunk in c.stream("py", "count", {"n": 100})] == list(range(100))
        assert [chunk["i"] for chunk in c.stream("echo", "count", {"n": 100})] == list(range(100))
        rows = [r.tensors["row"] for r in c.stream("py", "count", {"n": 3}, tensors={"x": x}, raw=True) if r.tensors]
        assert (np.array(rows) == x[[0, 1, 0]]).all()
        try:
            c.call("py", "fail")
            raise AssertionError("fail did not")
        except rm.Internal as e:
            assert e.reason == "handler" and e.details["type"] == "ZeroDivisionError" and "1 // 0" in e.details["traceback"]
        for pool, action, kind in ("nope", "x", "unknown_pool"), ("py", "nope", "unknown_action"):
            try:
                c.call(pool, action)
                raise AssertionError("found")
            except rm.NotFound as e:
                assert e.reason == kind, e
        try:
            c.call("echo", "sleep", {"seconds": 60}, timeout=0.1)
            raise AssertionError("slept")
        except rm.DeadlineExceeded:
            pass
        assert {p["name"] for p in c.status()["pools"]} == {"py", "echo"}
        assert all(p["ok"] for p in c.health()["pools"])


def threads(ring: int) -> None:
    with rm.connect(ring=ring) as c:
        done = []

        def work(n: int) -> None:
            data = np.full(n * 10_000, n, np.uint8)
            for i in range(50):
                out = c.call("echo", "echo", [n, i], tensors={"x": data})
                assert out.body == [n, i] and (out.tensors["x"] == n).all()
            done.append(n)

        workers = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for w in workers:
            w.start()
        for w in workers:
            w.join()
        assert len(done) == 16


async def asynchronous(ring: int) -> None:
    async with rm.aio.connect(ring=ring) as c:
        large = await asyncio.gather(*(c.call("echo", "echo", tensors={"frame": frame}) for _ in range(4)))
        assert all((out.tensors["frame"] == frame).all() for out in large)
        outs = await asyncio.gather(*(c.call(pool, "echo", i) for i in range(100) for pool in ("py", "echo")))
        assert [o.body for o in outs] == [i for i in range(100) for _ in range(2)]
        got = [chunk["i"] async for chunk in c.stream("py", "count", {"n": 50})]
        assert got == list(range(50))
        try:
            async with asyncio.timeout(0.1):
                await c.call("echo", "sleep", {"seconds": 60})
            raise AssertionError("slept")
        except TimeoutError:
            pass


def orphan() -> None:
    with rm.connect() as c:
        print("waiting", flush=True)
        try:
            c.call("echo", "sleep", {"seconds": 60})
        except rm.Unavailable as e:
            print(e.reason, time.time())


async def orphan_aio() -> None:
    async with rm.aio.connect() as c:
        print("waiting", flush=True)
        try:
            await c.call("echo", "sleep", {"seconds": 60})
        except rm.Unavailable as e:
            print(e.reason, time.time())


match sys.argv[1:]:
    case ["orphan"]:
        orphan()
    case ["orphan-aio"]:
        asyncio.run(orphan_aio())
    case _:
        for ring in 1 << 20, 64 << 10, 0:
            sync(ring)
            threads(ring)
            asyncio.run(asynchronous(ring))
        print("all good")
