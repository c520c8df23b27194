"""A server that breaks the protocol, and bytes cut anywhere."""

from typing import Any

import msgpack
import pytest

import ringmaster as rm
from clients import Both
from ringmaster._session import Deframer
from server import Server


def test_what_is_late_or_unknown_is_ignored(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        assert (await c.call("p", "late", "x")).body == "x"

    run(test, server.path)


def test_more_than_was_granted(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        with pytest.raises(rm.DataLoss, match="granted"):
            async for _ in c.stream("p", "too_much", window=2):
                pass
        assert (await c.call("p", "echo", 1)).body == 1

    run(test, server.path)


@pytest.mark.parametrize("data", [b"\xc1", msgpack.packb([2, "x"]), msgpack.packb([2, 1 << 30, "x"])])
def test_a_malformed_message_ends_the_connection(run: Any, server: Server, data: bytes) -> None:
    async def test(c: Both) -> None:
        with pytest.raises(rm.DataLoss, match="malformed"):
            await c.call("p", "raw", data)
        assert (await c.call("p", "echo", 1)).body == 1
        assert len(server.connections) == 2

    run(test, server.path)


def test_a_malformed_answer_ends_its_call(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        for id, tensor in ((1, ["x", "float33", [1], b"1234"]), (2, ["x", "uint8", [2], b"1"])):
            with pytest.raises(rm.DataLoss) as caught:
                await c.call("p", "raw", msgpack.packb([2, id, 1, {}, None, [tensor]]))
            assert caught.value.reason == "bad_tensor"
        out = await c.call("p", "raw", msgpack.packb([2, 3, 1, {}, {(1, 2): 3}]))
        with pytest.raises(rm.DataLoss) as caught:
            assert out.body
        assert caught.value.reason == "bad_body"
        assert (await c.call("p", "echo", 1)).body == 1
        assert len(server.connections) == 1

    run(test, server.path)


def test_frames_of_impossible_length(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        for length in (0, (8 << 20) + 1, 0xFFFFFFFF):
            with pytest.raises(rm.DataLoss, match=f"frame of {length} bytes"):
                await c.call("p", "length", length)
            assert (await c.call("p", "echo", 1)).body == 1

    run(test, server.path)


def test_deframer_cuts_anywhere() -> None:
    messages = [bytes([i % 256]) * n for i, n in enumerate([1, 5, 100, 65_536, 65_537, 200_000, 3, 65_535])]
    stream = b"".join(len(m).to_bytes(4, "little") + m for m in messages)
    for step in (1, 3, 4, 5, 1000, 65_540, 1 << 20):
        d = Deframer()
        d.limit = 1 << 20
        got, at = [], 0
        while at < len(stream):
            room = d.buffer()
            n = min(step, len(room), len(stream) - at)
            assert n > 0
            room[:n] = stream[at : at + n]
            at += n
            got += [bytes(m) for m in d.received(n)]
        assert got == messages
