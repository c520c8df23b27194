"""The client for asyncio: tasks, and how they end."""

import asyncio
import gc
import os

import pytest

import ringmaster as rm
from clients import happened
from server import Server


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
