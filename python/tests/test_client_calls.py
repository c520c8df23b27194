"""Calls and streams, by threads and by asyncio, against a server that a test scripts."""

import queue
from typing import Any

import numpy as np
import pytest

import ringmaster as rm
from clients import Both, happened
from ringmaster._errors import error_of
from server import PATIENCE, Server


def test_a_call(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        image = np.arange(12, dtype="uint8").reshape(3, 4)
        body = {"text": "ü", "n": [1, None, 2.5]}
        out = await c.call(
            "p", "echo", body, tensors={"image": image}, timeout=5, headers={"k": "v"}, trace_id="00-1", context=b"ctx"
        )
        assert out.body == body
        assert (out.tensors["image"] == image).all()
        assert out.tensors["image"].flags.writeable
        assert out.headers["k"] == "v"
        assert (out.headers["pool"], out.headers["trace"], out.headers["context"]) == ("p", "00-1", "ctx")
        assert 0 < int(out.headers["timeout"]) <= 5_000_000
        out = await c.call("p", "echo")
        assert (out.body, dict(out.tensors), out.headers["timeout"]) == (None, {}, "0")

    run(test, server.path)
    (hello,) = server.happened("hello")
    assert (hello.version_min, hello.version_max) == (1, 1)


@pytest.mark.parametrize("size", [1, 65_000, 65_535, 65_536, 65_537, 70_000, 3 << 20])
def test_sizes(run: Any, server: Server, size: int) -> None:
    async def test(c: Both) -> None:
        data = np.random.default_rng(0).integers(0, 256, size, dtype="uint8")
        for _ in range(2):
            assert ((await c.call("p", "echo", tensors={"x": data})).tensors["x"] == data).all()

    run(test, server.path)


def test_a_stream(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        assert [chunk["i"] async for chunk in c.stream("p", "count", 100)] == list(range(100))
        assert [chunk async for chunk in c.stream("p", "count", 0)] == []
        assert [chunk async for chunk in c.stream("p", "echo", "once")] == ["once"]  # one answer is one chunk

    run(test, server.path)


def test_a_stream_with_tensors(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        stream = c.stream("p", "stream_with_tensors", tensors={"x": [1.0, 2.0]}, raw=True)
        first, last = [chunk async for chunk in stream]
        assert (first.body, first.headers, first.tensors["x"].tolist()) == ("a", {"n": "0"}, [1.0, 2.0])
        assert (last.body, dict(last.tensors)) == ("b", {})

    run(test, server.path)


def test_credit(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        stream = c.stream("p", "count", 100, window=8)
        assert await anext(stream) == {"i": 0}
        for i in range(8):
            assert await happened(server, "chunk") == (i,)
        with pytest.raises(queue.Empty):  # nothing more without credit
            server.events.get(timeout=0.02)
        for i in range(1, 4):
            assert await anext(stream) == {"i": i}
        assert await happened(server, "credit") == (4,)  # half a window at a time
        assert await happened(server, "chunk") == (8,)
        await stream.aclose()

    run(test, server.path)


def test_leaving_a_stream_cancels_it(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        stream = c.stream("p", "count", 1 << 40)
        assert await anext(stream) == {"i": 0}
        await stream.aclose()
        assert await happened(server, "cancel") == ("cancelled",)
        assert (await c.call("p", "echo", 1)).body == 1  # what still came was dropped

    run(test, server.path)


def test_errors(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        for code, cls in rm.Error.by_code.items():
            with pytest.raises(cls) as caught:
                await c.call("p", "fail", [code, "r"])
            e = caught.value
            assert type(e) is cls
            assert (e.code, e.reason, e.message, e.retry_after, e.details) == (code, "r", "why", 0.25, {"k": "v"})
            assert str(e) == f"why ({code}/r)"
        with pytest.raises(rm.Error) as plain:
            await c.call("p", "fail", ["OF_THE_FUTURE", "r"])
        assert (type(plain.value), plain.value.code) == (rm.Error, "OF_THE_FUTURE")
        with pytest.raises(rm.NotFound):
            async for _ in c.stream("p", "fail", ["NOT_FOUND", "unknown_pool"]):
                pass

    run(test, server.path)


@pytest.mark.parametrize("action", ["hang", "chunk_then_hang"])
def test_the_deadline(run: Any, server: Server, action: str) -> None:
    async def test(c: Both) -> None:
        with pytest.raises(rm.DeadlineExceeded) as caught:
            async for _ in c.stream("p", action, timeout=0.05):
                pass
        assert caught.value.reason == "deadline"
        assert await happened(server, "cancel") == ("deadline",)
        if action == "hang":
            with pytest.raises(rm.DeadlineExceeded):
                await c.call("p", action, timeout=0.05)
            assert await happened(server, "cancel") == ("deadline",)
        assert (await c.call("p", "echo", 1, timeout=PATIENCE)).body == 1

    run(test, server.path)


def test_a_stream_is_no_answer(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        with pytest.raises(rm.Unimplemented, match=r"stream\(\)"):
            await c.call("p", "count", 5)
        assert await happened(server, "cancel") == ("cancelled",)

    run(test, server.path)


def test_too_large_is_refused_before_it_is_sent(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        with pytest.raises(rm.ResourceExhausted) as caught:
            await c.call("p", "echo", bytes(8 << 20))
        assert caught.value.reason == "too_large"
        with pytest.raises(TypeError, match="tensors"):
            await c.call("p", "echo", np.zeros(3))
        with pytest.raises(TypeError, match="unexpected keyword"):
            await c.call("p", "echo", timeot=3)
        assert (await c.call("p", "echo", bytes(7 << 20))).body == bytes(7 << 20)

    run(test, server.path)


def test_status_and_health(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        assert await c.status() == {"pools": [], "asked": "ringmaster"}
        assert await c.health() == {"pool": None}
        assert await c.health("p") == {"pool": "p"}

    run(test, server.path)


def test_errors_can_be_copied_and_extended() -> None:
    class TooBig(rm.InvalidArgument):
        default_reason = "too_big"

    e = TooBig("no", details={"a": "b"})
    assert (e.code, e.reason, rm.Error.by_code["INVALID_ARGUMENT"]) == (
        "INVALID_ARGUMENT",
        "too_big",
        rm.InvalidArgument,
    )
    assert isinstance(error_of("INVALID_ARGUMENT", "", reason=""), rm.InvalidArgument)
