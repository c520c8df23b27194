"""A client of either kind, for tests that are written once: `run` in conftest.py."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np

import ringmaster as rm
from server import Server


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

    async def empty(self, *args: Any) -> np.ndarray:
        result = self.client.empty(*args)
        return await result if isinstance(result, Coroutine) else result

    def begin(self, *args: Any, **options: Any) -> "asyncio.Task[rm.Result]":
        """Begin a call, which goes on while the test does."""
        if isinstance(self.client, rm.Client):
            return asyncio.ensure_future(asyncio.to_thread(self.client.call, *args, **options))
        return asyncio.ensure_future(self.client.call(*args, **options))

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


def in_threads(test: Callable[[Any], Any], path: Path | str, **options: Any) -> None:
    with rm.connect(path, **options) as c:
        asyncio.run(test(Both(c)))


def in_asyncio(test: Callable[[Any], Any], path: Path | str, **options: Any) -> None:
    async def main() -> None:
        async with rm.aio.connect(path, **options) as c:
            await test(Both(c))

    asyncio.run(main())
