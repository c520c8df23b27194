"""The clients, for threads and for asyncio, against a server that a test scripts. Most tests are run on both."""

import asyncio
import contextlib
import gc
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

import ringmaster as rm
from ringmaster import _address, _codec
from ringmaster._codec import Hello, Reply
from ringmaster._errors import error_of
from ringmaster._session import Deframer
from server import PATIENCE, Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "s.sock") as s:
        yield s


@pytest.fixture(params=["threads", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Give a test that is written for asyncio a client of either kind."""
    return in_threads if request.param == "threads" else in_asyncio


class Both:
    """The asyncio client's methods, over either client."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def call(self, *args: Any, **options: Any) -> rm.Result:
        result = self.client.call(*args, **options)
        return await result if isinstance(result, Coroutine) else result

    async def stream(self, *args: Any, **options: Any) -> Any:
        chunks = self.client.stream(*args, **options)
        try:
            if hasattr(chunks, "__aiter__"):
                async for chunk in chunks:
                    yield chunk
            else:
                for chunk in chunks:
                    yield chunk
        finally:
            await chunks.aclose() if hasattr(chunks, "aclose") else chunks.close()

    async def status(self) -> Any:
        result = self.client.status()
        return await result if isinstance(result, Coroutine) else result

    async def health(self, pool: str | None = None) -> Any:
        result = self.client.health(pool)
        return await result if isinstance(result, Coroutine) else result


async def happened(server: Server, name: str) -> tuple[Any, ...]:
    return await asyncio.to_thread(server.happened, name)


async def news() -> None:
    """Let an event loop see what has arrived."""
    for _ in range(3):
        await asyncio.sleep(0)


def in_threads(test: Callable[[Any], Any], path: Path) -> None:
    with rm.connect(path) as c:
        asyncio.run(test(Both(c)))


def in_asyncio(test: Callable[[Any], Any], path: Path) -> None:
    async def main() -> None:
        async with rm.aio.connect(path) as c:
            await test(Both(c))

    asyncio.run(main())


# ---- what both must do ----


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


# ---- threads ----


def test_many_threads(server: Server) -> None:
    with rm.connect(server.path) as c:
        failures: list[BaseException] = []

        def work(n: int) -> None:
            try:
                for i in range(30):
                    assert c.call("p", "echo", [n, i], timeout=PATIENCE).body == [n, i]
                    assert [x["i"] for x in c.stream("p", "count", 10, window=3, timeout=PATIENCE)] == list(range(10))
            except BaseException as e:
                failures.append(e)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert failures == []
        assert len(server.connections) == 1


def test_the_lead_is_handed_over(server: Server) -> None:
    """The leader's deadline passes while others follow; one of them takes over."""
    with rm.connect(server.path) as c:
        got: list[Any] = []

        def lead() -> None:
            with pytest.raises(rm.DeadlineExceeded):
                c.call("p", "hang", timeout=0.1)

        def follow() -> None:
            with pytest.raises(rm.Cancelled):
                c.call("p", "hang")
            got.append(1)

        leader = threading.Thread(target=lead)
        leader.start()
        server.happened("hanging")
        followers = [threading.Thread(target=follow) for _ in range(3)]
        for t in followers:
            t.start()
        ids = [server.happened("hanging")[0] for _ in followers]
        leader.join()
        for id in ids:  # what a server does that cancels by itself
            server.connections[0].take_in(_codec.Cancel(id, "drained"))
        for t in followers:
            t.join()
        assert got == [1, 1, 1]


def test_closing_the_client_ends_its_calls(server: Server) -> None:
    c = rm.connect(server.path)
    caught: list[rm.Error] = []

    def call() -> None:
        try:
            c.call("p", "hang")
        except rm.Error as e:
            caught.append(e)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for t in threads:
        t.start()
    for _ in threads:
        server.happened("hanging")
    c.close()
    c.close()
    for t in threads:
        t.join()
    assert [(e.code, e.reason) for e in caught] == [("CANCELLED", "client_closed")] * 3
    assert len({id(e) for e in caught}) == 3
    with pytest.raises(rm.Cancelled):
        c.call("p", "echo")


def test_a_dropped_stream_is_cancelled(server: Server) -> None:
    with rm.connect(server.path) as c:
        for _ in c.stream("p", "count", 1 << 40):
            break
        assert server.happened("cancel") == ("cancelled",)
        stream = c.stream("p", "count", 1 << 40)
        cycle: list[Any] = [stream]
        cycle.append(cycle)
        del stream, cycle
        gc.collect()
        assert server.happened("cancel") == ("cancelled",)


def test_a_stream_is_sent_at_once_and_closed_by_with(server: Server) -> None:
    with rm.connect(server.path) as c:
        with c.stream("p", "hang") as stream:
            server.happened("hanging")
        assert server.happened("cancel") == ("cancelled",)
        assert list(stream) == []


def test_closing_a_stream_another_thread_waits_for(server: Server) -> None:
    with rm.connect(server.path) as c:
        stream = c.stream("p", "hang")
        caught = []

        def wait() -> None:
            with pytest.raises(rm.Cancelled):
                next(stream)
            caught.append(1)

        t = threading.Thread(target=wait)
        t.start()
        server.happened("hanging")
        stream.close()
        t.join()
        assert caught == [1]


def test_a_fork_gets_a_connection_of_its_own(server: Server) -> None:
    with rm.connect(server.path) as c:
        stream = c.stream("p", "count", 30, window=2)
        assert next(stream) == {"i": 0}
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with pytest.raises(rm.Unavailable):
                    list(stream)  # what had come before the fork is still there
                if c.call("p", "echo", "child").body == "child":
                    status = 0
                c.close()
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert [x["i"] for x in stream] == list(range(1, 30))
        assert c.call("p", "echo", 1).body == 1
        assert len(server.connections) == 2


def test_a_fork_while_other_threads_call(server: Server) -> None:
    with rm.connect(server.path) as c:
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                c.call("p", "echo", 1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for t in threads:
            t.start()
        for _ in range(5):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    status = 0 if c.call("p", "echo", 2, timeout=PATIENCE).body == 2 else 1
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
        over.set()
        for t in threads:
            t.join()


def test_a_server_that_does_not_read(tmp_path: Path) -> None:
    """A request that cannot be written by its deadline ends the connection if half of it is out."""
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def greet(accepted: list[socket.socket]) -> None:
            s, _ = listener.accept()
            s.recv(1000)
            hello = b"".join(map(bytes, _codec.encode(Hello(1, 1, "deaf"))))
            s.sendall(len(hello).to_bytes(4, "little") + hello)
            accepted.append(s)

        accepted: list[socket.socket] = []
        t = threading.Thread(target=greet, args=(accepted,))
        t.start()
        with rm.connect(path) as c:
            t.join()
            with pytest.raises(rm.DeadlineExceeded):
                c.call("p", "echo", bytes(32 << 20), timeout=0.1)
            t = threading.Thread(target=greet, args=(accepted,))
            t.start()
            with pytest.raises(rm.DeadlineExceeded):
                c.call("p", "echo", 1, timeout=0.1)
            t.join()
        for s in accepted:
            s.close()


# ---- asyncio ----


def test_cancelling_a_task_cancels_its_request(server: Server) -> None:
    async def main() -> None:
        async with rm.aio.connect(server.path) as c:
            task = asyncio.create_task(c.call("p", "hang"))
            await happened(server, "hanging")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await happened(server, "cancel") == ("cancelled",)

    asyncio.run(main())


def test_many_tasks(server: Server) -> None:
    async def main() -> None:
        async with rm.aio.connect(server.path) as c:

            async def work(n: int) -> None:
                for i in range(20):
                    assert (await c.call("p", "echo", [n, i])).body == [n, i]
                    assert [x["i"] async for x in c.stream("p", "count", 9, window=2)] == list(range(9))

            async with asyncio.TaskGroup() as group:
                for n in range(20):
                    group.create_task(work(n))
        assert len(server.connections) == 1

    asyncio.run(main())


def test_closing_the_aio_client(server: Server) -> None:
    async def main() -> None:
        c = await rm.aio.connect(server.path)
        task = asyncio.create_task(c.call("p", "hang"))
        await happened(server, "hanging")
        await c.close()
        await c.close()
        with pytest.raises(rm.Cancelled) as caught:
            await task
        assert caught.value.reason == "client_closed"
        with pytest.raises(rm.Cancelled):
            await c.call("p", "echo")

    asyncio.run(main())


def test_an_abandoned_aio_stream_is_cancelled(server: Server) -> None:
    async def main() -> None:
        async with rm.aio.connect(server.path) as c:
            async for _ in c.stream("p", "count", 1 << 40):
                break
            gc.collect()
            assert await happened(server, "cancel") == ("cancelled",)

    asyncio.run(main())


def test_a_fork_cannot_use_an_aio_client(server: Server) -> None:
    async def main() -> None:
        async with rm.aio.connect(server.path) as c:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    c.call("p", "echo").send(None)
                except rm.Unavailable:
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
            assert (await c.call("p", "echo", 1)).body == 1

    asyncio.run(main())


# ---- pieces ----


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


@pytest.mark.parametrize(
    ("argument", "environment", "path"),
    [
        ("/a", {"RINGMASTER_SOCKET": "/b"}, "/a"),
        ("unix:///a/b", {}, "/a/b"),
        (Path("/a"), {}, "/a"),
        ("relative", {}, "relative"),
        (None, {"RINGMASTER_SOCKET": "unix:///b", "RUNTIME_DIRECTORY": "/r"}, "/b"),
        (None, {"RUNTIME_DIRECTORY": "/r:/s", "XDG_RUNTIME_DIR": "/x"}, "/r/ringmaster.sock"),
        (None, {"XDG_RUNTIME_DIR": "/x"}, "/x/ringmaster/ringmaster.sock"),
        (None, {}, "/run/ringmaster/ringmaster.sock"),
    ],
)
def test_addresses(argument: Any, environment: dict[str, str], path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RINGMASTER_SOCKET", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _address.resolve(argument) == path


@pytest.mark.parametrize("address", ["unix://a", "http://x", "unix:///a://b", "@abstract", "/" + "x" * 107, "unix://"])
def test_wrong_addresses(address: str) -> None:
    with pytest.raises(rm.InvalidArgument):
        rm.connect(address)


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


def test_time_is_not_wasted(server: Server) -> None:
    """A call by the only thread needs no other thread of this process."""
    with rm.connect(server.path) as c:
        c.call("p", "echo")
        before = threading.active_count()
        begin = time.monotonic()
        c.call("p", "echo")
        assert time.monotonic() - begin < PATIENCE
        assert threading.active_count() <= before + 1  # the server's
