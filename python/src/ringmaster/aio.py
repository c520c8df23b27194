"""The app's side, for asyncio: what client.py is for threads.

    async with rm.aio.connect() as c:
        out = await c.call("minilm", "embed", tensors={"image": frame})
        async for chunk in c.stream("smollm2", "chat", {"messages": [...]}):
            print(chunk["text"])

Cancelling a task that waits for an answer cancels the request. A client belongs to one event loop, and to the process
that made it.
"""

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import AsyncGenerator, Generator
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload

from ringmaster._address import dial, resolve
from ringmaster._codec import Reply, Request
from ringmaster._errors import Error, Unavailable
from ringmaster._session import (
    RESERVED_POOL,
    WINDOW,
    Call,
    Options,
    Result,
    Session,
    answer_of,
    chunk_of,
    client_closed,
    deadline_passed,
    lost_connection,
    new_request,
    silent_server,
)
from ringmaster._values import Buffer
from ringmaster.client import CONNECT_TIMEOUT


def connect(path: str | os.PathLike[str] | None = None, timeout: float = CONNECT_TIMEOUT) -> "Client":
    """Return a client: `async with connect() as c`, or `c = await connect()` and later `await c.close()`.

    The arguments, and what can go wrong, are as for ringmaster.connect.
    """
    return Client(path, timeout)


class Client:
    """Calls a server; any number of tasks of one event loop may use it at once.

    When the connection is lost the open calls raise Unavailable/connection_lost, and the next call connects again.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, timeout: float = CONNECT_TIMEOUT) -> None:
        self._path = resolve(path)
        self._timeout = timeout
        self._pid = os.getpid()
        self._connecting = asyncio.Lock()
        self._connection: _Connection | None = None
        self._closed = False

    def __await__(self) -> Generator[Any, None, Self]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        await self._connected()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every open call with Cancelled/client_closed, and hang up."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.end(client_closed())
            await connection.hung_up

    async def call(
        self,
        pool: str,
        action: str,
        body: object = None,
        **options: Unpack[Options],
    ) -> Result:
        """Run an action and return its answer, or raise an Error. The arguments are as for ringmaster.Client.call."""
        request = new_request(pool, action, body, **options)
        deadline = _deadline(options)
        connection = await self._connected()
        call = await connection.start(request, 1, deadline)
        try:
            return answer_of(await connection.next(call, deadline))
        finally:
            connection.cancel(call, "cancelled")

    @overload
    def stream(
        self,
        pool: str,
        action: str,
        body: object = None,
        *,
        raw: Literal[True],
        window: int = ...,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Result, None]: ...
    @overload
    def stream(
        self,
        pool: str,
        action: str,
        body: object = None,
        *,
        raw: Literal[False] = False,
        window: int = ...,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Any, None]: ...
    async def stream(
        self,
        pool: str,
        action: str,
        body: object = None,
        *,
        raw: bool = False,
        window: int = WINDOW,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Any, None]:
        """Run an action that answers in chunks, and iterate over their bodies.

        The arguments are as for ringmaster.Client.stream. The request is sent when the first chunk is asked for, and
        cancelled when the iterator is closed before its end; `contextlib.aclosing` closes it at once.
        """
        request = new_request(pool, action, body, **options)
        deadline = _deadline(options)
        connection = await self._connected()
        call = await connection.start(request, max(1, window), deadline)
        try:
            while True:
                reply = await connection.next(call, deadline)
                chunk = chunk_of(reply)
                if chunk is None:
                    return
                yield chunk if raw else chunk.body
                if reply.end:
                    return
        finally:
            connection.cancel(call, "cancelled")

    async def status(self, timeout: float | None = None) -> Any:
        """Return what `ringmaster status --json` prints."""
        return (await self.call(RESERVED_POOL, "status", timeout=timeout)).body

    async def health(self, pool: str | None = None, timeout: float | None = None) -> Any:
        """Return the health of a pool, or of all."""
        return (await self.call(RESERVED_POOL, "health", {"pool": pool}, timeout=timeout)).body

    async def _connected(self) -> "_Connection":
        """Return a connection that is fit for a new call, after connecting if there is none."""
        if os.getpid() != self._pid:
            raise Unavailable("this client belongs to the process that forked this one; connect again")
        async with self._connecting:
            if self._closed:
                raise client_closed()
            if self._connection is not None and not self._connection.usable:
                self._connection.retire()
                self._connection = None
            if self._connection is None:
                self._connection = await _Connection.open(self._path, self._timeout)
            return self._connection


def _deadline(options: Options) -> float | None:
    timeout = options.get("timeout")
    return None if timeout is None else asyncio.get_running_loop().time() + timeout


def _arrive(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class _Connection(asyncio.BufferedProtocol):
    """A transport and its session. Everything happens in the event loop's thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._session = Session()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._over: Error | None = None  # why
        self._retired = False  # no new calls; over after the last
        self._greeted = self._loop.create_future()
        self._writable = asyncio.Event()
        self._writable.set()
        self.hung_up = self._loop.create_future()

    @classmethod
    async def open(cls, path: str, timeout: float) -> "_Connection":
        """Connect and exchange hellos, within timeout seconds."""
        loop = asyncio.get_running_loop()
        socket = await loop.run_in_executor(None, dial, path, time.monotonic() + timeout)
        socket.setblocking(False)
        _, connection = await loop.create_unix_connection(lambda: cls(path), sock=socket)
        try:
            async with asyncio.timeout(timeout):
                await connection._greeted
        except BaseException as e:
            connection.end(silent_server(path) if isinstance(e, TimeoutError) else client_closed())
            await connection.hung_up
            if isinstance(e, TimeoutError):
                raise silent_server(path) from None
            raise
        return connection

    # ---- for a client ----

    @property
    def usable(self) -> bool:
        """Whether the connection takes new calls."""
        return self._over is None and not self._session.draining

    def retire(self) -> None:
        """End the connection as soon as the open calls have ended."""
        self._retired = True
        self._settle()

    def end(self, why: Error) -> None:
        """End the open calls with this error, and hang up."""
        if self._over is None:
            self._over = why
            self._session.lose(why)
            self._writable.set()
            if not self._greeted.done():
                self._greeted.set_exception(why)
            self._transport.abort()

    # ---- for a call ----

    async def start(self, request: Request, window: int, deadline: float | None) -> Call:
        """Open a call and send its request; DeadlineExceeded if the server has not taken earlier ones by then."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._writable.wait()
        except TimeoutError:
            raise deadline_passed() from None
        call, frame = self._session.open(request, window)
        self._write(frame)
        if self._over is not None:
            self._session.lose(self._over)
        return call

    async def next(self, call: Call, deadline: float | None) -> Reply:
        """Return the call's next reply; DeadlineExceeded after deadline, which is on the event loop's clock."""
        try:
            async with asyncio.timeout_at(deadline):
                while not call.replies:
                    arrived: asyncio.Future[None] = self._loop.create_future()
                    call.wake = functools.partial(_arrive, arrived)
                    await arrived
        except TimeoutError:
            self.cancel(call, "deadline")
            raise deadline_passed() from None
        reply, frame = self._session.take(call)
        self._write(frame)
        self._settle()
        return reply

    def cancel(self, call: Call, reason: str) -> None:
        """Cancel a call if it has not ended."""
        self._write(self._session.cancel(call, reason))
        self._settle()

    def _settle(self) -> None:
        if self._retired and not self._session.calls:
            self.end(client_closed())

    def _write(self, frame: list[Buffer]) -> None:
        if frame and self._over is None:
            self._transport.writelines(frame)

    # ---- for the transport ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.BaseProtocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._write(self._session.hello())

    def get_buffer(self, sizehint: int) -> memoryview:
        """See asyncio.BufferedProtocol."""
        return self._session.deframer.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio.BufferedProtocol."""
        try:
            for data in self._session.deframer.received(nbytes):
                self._write(self._session.receive(data))
        except Error as e:
            self.end(e)
        if self._session.greeted and not self._greeted.done():
            self._greeted.set_result(None)

    def eof_received(self) -> None:
        """See asyncio.BufferedProtocol."""
        self.end(lost_connection(self._path, "it hung up"))

    def pause_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.BaseProtocol."""
        self.end(lost_connection(self._path, str(exc or "it hung up")))
        with contextlib.suppress(asyncio.InvalidStateError):
            self.hung_up.set_result(None)
