"""Connections begin, end, and come back; what a server may say that is not an answer."""

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import pytest

import ringmaster as rm
from clients import Both, happened, news
from ringmaster._codec import Hello, Reply
from ringmaster._errors import error_of
from server import PATIENCE, Server


def test_the_connection_is_lost(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        stream = c.stream("p", "chunk_then_hang")
        assert await anext(stream) == {"i": 0}
        with pytest.raises(rm.Unavailable) as caught:
            await c.call("p", "drop")
        assert caught.value.reason == "connection_lost"
        with pytest.raises(rm.Unavailable):
            await anext(stream)
        assert (await c.call("p", "echo", 1)).body == 1  # on a new connection
        assert len(server.connections) == 2

    run(test, server.path)


def test_the_connection_is_lost_while_idle(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        for i in range(3):
            assert (await c.call("p", "echo", i)).body == i
            server.connections[-1].hang_up()
            await happened(server, "gone")
            await news()

    run(test, server.path)


def test_the_server_goes_and_comes_back(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    first = Server(path)

    async def test(c: Both) -> None:
        assert (await c.call("p", "echo", 1)).body == 1
        first.__exit__()
        await news()
        for _ in range(2):
            with pytest.raises(rm.Unavailable) as caught:
                await c.call("p", "echo", 1)
            assert caught.value.reason == "no_server"
            assert "ringmaster serve" in caught.value.message
            assert str(path) in caught.value.message
        with Server(path):
            assert (await c.call("p", "echo", 2)).body == 2

    run(test, path)


def test_the_last_word(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        with pytest.raises(rm.InvalidArgument) as caught:
            await c.call("p", "last_word")
        assert caught.value.reason == "duplicate_id"
        assert (await c.call("p", "echo", 1)).body == 1

    run(test, server.path)


def test_drain(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        stream = c.stream("p", "count", 50, window=2)
        assert await anext(stream) == {"i": 0}
        assert (await c.call("p", "drain", 1)).body == 1
        assert (await c.call("p", "echo", 2)).body == 2  # on a new connection
        assert len(server.connections) == 2
        assert [chunk["i"] async for chunk in stream] == list(range(1, 50))  # on the old one
        await happened(server, "gone")  # which is then closed
        assert (await c.call("p", "echo", 3)).body == 3
        assert len(server.connections) == 2

    run(test, server.path)


def test_ping(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        await c.call("p", "ping")
        (ping,) = await happened(server, "ping")
        assert (ping.id, ping.answer) == (77, True)

    run(test, server.path)


def test_a_pong_does_not_wait_for_the_answer(run: Any, server: Server) -> None:
    async def test(c: Both) -> None:
        assert (await c.call("p", "answer_after_a_pong", 1, timeout=PATIENCE)).body == 1

    run(test, server.path)


def test_no_server(tmp_path: Path) -> None:
    path = tmp_path / "none.sock"

    def refused(reason: str, message: str) -> None:
        async def main() -> None:
            await rm.aio.connect(path)

        for attempt in (lambda: rm.connect(path), lambda: asyncio.run(main())):
            with pytest.raises(rm.Unavailable, match=message) as caught:
                attempt()
            assert caught.value.reason == reason
            assert str(path) in caught.value.message

    refused("no_server", "there is no socket")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
    refused("no_server", "nobody serves")


@pytest.mark.parametrize(
    "hello",
    [
        Reply(0, True, error=error_of("UNIMPLEMENTED", "update the older one", reason="version")),
        Hello(1, 1, "test"),
        b"\x92\x05\x00",
    ],
    ids=["refused", "no limits", "every default"],
)
def test_hellos(tmp_path: Path, hello: Any) -> None:
    async def main(path: Path) -> None:
        async with rm.aio.connect(path) as c:
            assert (await c.call("p", "echo", 1)).body == 1

    with Server(tmp_path / "s.sock", hello) as s:
        if isinstance(hello, Reply):
            with pytest.raises(rm.Unimplemented, match="update"):
                rm.connect(s.path)
            with pytest.raises(rm.Unimplemented, match="update"):
                asyncio.run(main(s.path))
        else:
            with rm.connect(s.path) as c:
                assert c.call("p", "echo", 1).body == 1
            asyncio.run(main(s.path))


def test_a_server_that_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"

    async def main() -> None:
        await rm.aio.connect(path, timeout=0.05)

    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
        s.listen(0)
        with pytest.raises(rm.DeadlineExceeded, match="hello"):
            rm.connect(path, timeout=0.05)
        with contextlib.suppress(OSError):
            s.accept()[0].close()
        with pytest.raises(rm.DeadlineExceeded, match="hello"):
            asyncio.run(main())
        s.accept()[0].close()
        waiting = []
        with contextlib.suppress(BlockingIOError):  # fill the backlog
            while True:
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                waiting[-1].connect(str(path))
        with pytest.raises(rm.Unavailable, match="does not accept"):
            rm.connect(path, timeout=0.05)
        for w in waiting:
            w.close()
