"""The app's side, for asyncio: what client.py is for threads.

    async with rm.aio.connect() as c:
        out = await c.call("minilm", "embed", tensors={"image": frame})
        async for chunk in c.stream("smollm2", "chat", {"messages": [...]}):
            print(chunk["text"])

Cancelling a task that waits for an answer cancels the request. A client belongs to one event loop, and to the process
that made it.

With rings the event loop watches the socket, on which the server tells that there is something in them. A message for
which the ring has no space now waits in a thread for it, and those after it behind it.
"""

import asyncio
import contextlib
import copy
import functools
import os
import socket
import time
from collections import deque
from collections.abc import AsyncGenerator, Generator
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from numpy.typing import DTypeLike

from ringmaster._address import by_tcp, dial, resolve, token_to_send
from ringmaster._arena import ATTACH_TIMEOUT, Named, Outputs
from ringmaster._codec import Reply, Request
from ringmaster._connection import WRITE_TIMEOUT
from ringmaster._errors import DataLoss, DeadlineExceeded, Error, Unavailable
from ringmaster._greeting import RING, Greeting
from ringmaster._ring import Closed, ProtocolError, Segment
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
    given_by,
    introduction,
    lost_connection,
    new_request,
    silent_server,
    unframed,
)
from ringmaster._tensors import Array, Shape
from ringmaster._values import Buffer
from ringmaster.client import CONNECT_TIMEOUT

_BURST = 64  # messages that are taken out of a ring before other tasks may run

T = TypeVar("T")


def connect(
    path: str | os.PathLike[str] | None = None,
    timeout: float = CONNECT_TIMEOUT,
    ring: int = RING,
    *,
    token: str | None = None,
) -> "Client":
    """Return a client: `async with connect() as c`, or `c = await connect()` and later `await c.close()`.

    The arguments, and what can go wrong, are as for ringmaster.connect.
    """
    return Client(path, timeout, ring, token=token)


class Client:
    """Calls a server; any number of tasks of one event loop may use it at once.

    When the connection is lost the open calls raise Unavailable/connection_lost, and the next call connects again.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        timeout: float = CONNECT_TIMEOUT,
        ring: int = RING,
        *,
        token: str | None = None,
    ) -> None:
        self._path = resolve(path)
        self._timeout = timeout
        self._ring = ring
        self._token = token_to_send(token)
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
        *,
        outputs: Outputs | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Run an action and return its answer, or raise an Error. The arguments are as for ringmaster.Client.call."""
        request = new_request(pool, action, body, **options)
        deadline = _deadline(options)
        connection = await self._connected()
        call = await connection.start(request, 1, deadline, outputs)
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

    async def empty(self, shape: Shape, dtype: DTypeLike = float) -> Array:
        """Return an array that workers can see: as ringmaster.Client.empty."""
        return await (await self._connected()).empty(shape, dtype)

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
        connection = self._connection
        if connection is not None and connection.usable and not self._closed:
            return connection
        async with self._connecting:
            if self._closed:
                raise client_closed()
            if self._connection is not None and not self._connection.usable:
                self._connection.retire()
                self._connection = None
            if self._connection is None:
                self._connection = await _Connection.open(self._path, self._timeout, self._ring, self._token)
            return self._connection


def _deadline(options: Options) -> float | None:
    timeout = options.get("timeout")
    return None if timeout is None else asyncio.get_running_loop().time() + timeout


def _arrive(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class _Connection(asyncio.BufferedProtocol):
    """A transport, or rings, and a session. Everything happens in the event loop's thread."""

    def __init__(self, path: str, session: Session) -> None:
        self.path = path
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | _Rings
        self._over: Error | None = None  # why
        self._retired = False  # no new calls; over after the last
        self._writable = asyncio.Event()
        self._writable.set()
        self._growing = asyncio.Lock()  # held by the one task that asks for an arena
        self.hung_up = self._loop.create_future()

    @classmethod
    async def open(cls, path: str, timeout: float, ring: int, token: str | None) -> "_Connection":
        """Connect and exchange hellos, within timeout seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        session = Session(token)
        connection = cls(path, session)
        s = await loop.run_in_executor(None, dial, path, time.monotonic() + timeout)
        s.setblocking(False)
        try:
            async with asyncio.timeout(timeout):
                segment, answers = await _greet(s, session, 0 if by_tcp(path) else ring)
            if segment is None:
                await loop.create_connection(lambda: connection, sock=s)
            else:
                session.use_rings(segment.file)
                connection.connection_made(_Rings(s, segment, connection))
        except BaseException as e:
            s.close()
            if isinstance(e, TimeoutError):
                raise silent_server(path) from None
            if isinstance(e, OSError):
                raise lost_connection(path, str(e)) from e
            raise
        for frame in answers:
            connection._write(frame)
        if by_tcp(path) and token:
            await connection._introduce(deadline)
        return connection

    async def _introduce(self, deadline: float) -> None:
        """Show the token; if it is no good, requests are told."""
        try:
            await self.next(await self.start(introduction(), 1, deadline), deadline)
        except DeadlineExceeded:
            self.end(silent_server(self.path))
        except BaseException:
            self.end(client_closed())
            raise
        if self._over is not None:
            raise copy.copy(self._over)

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
            self._transport.abort()

    # ---- for a call ----

    async def start(
        self, request: Request, window: int, deadline: float | None, outputs: Outputs | None = None
    ) -> Call:
        """Open a call and send its request; DeadlineExceeded if the server has not taken earlier ones by then."""
        named = None
        if outputs or self._session.arenas.concern(request.tensors) or not self._writable.is_set():
            named = await self._ready(request, deadline, outputs)
        call, frame = self._session.open(request, window, named)
        self._write(frame)
        if named is not None:
            for returned in self._session.return_idle():
                self._write(returned)
        if self._over is not None:
            self._session.lose(self._over)
        return call

    async def _ready(self, request: Request, deadline: float | None, outputs: Outputs | None) -> Named | None:
        """Place in arenas what belongs there, and wait until the server takes requests; DeadlineExceeded."""
        try:
            async with asyncio.timeout_at(deadline):
                named = await self._with_room(self._session.arenas.place(request, outputs))
                await self._writable.wait()
        except TimeoutError:
            raise deadline_passed() from None
        return named

    async def next(self, call: Call, deadline: float | None) -> Reply:
        """Return the call's next reply; DeadlineExceeded after deadline, which is on the event loop's clock."""
        try:
            return await self._answer(call, deadline)
        except TimeoutError:
            self.cancel(call, "deadline")
            raise deadline_passed() from None

    async def _answer(self, call: Call, deadline: float | None) -> Reply:
        """Return the call's next reply. TimeoutError after deadline."""
        if deadline is None:  # a timeout takes longer than all else here
            await self._arrival(call)
        else:
            async with asyncio.timeout_at(deadline):
                await self._arrival(call)
        reply, frame = self._session.take(call)
        self._write(frame)
        self._settle()
        return reply

    async def _arrival(self, call: Call) -> None:
        while not call.replies:
            arrived: asyncio.Future[None] = self._loop.create_future()
            call.wake = functools.partial(_arrive, arrived)
            await arrived

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

    # ---- arenas ----

    async def empty(self, shape: Shape, dtype: DTypeLike) -> Array:
        """Make an array in an arena, if there is room for it."""
        return await self._with_room(self._session.arenas.empty(shape, dtype))

    async def _with_room(self, steps: Generator[int, bool, T]) -> T:
        """Do what may need more arenas."""
        try:
            n = next(steps)
            while True:
                n = steps.send(await self._grow(n))
        except StopIteration as e:
            result: T = e.value
            return result

    async def _grow(self, n: int) -> bool:
        """Get an arena with room for n bytes; False if the server gives none."""
        arenas = self._session.arenas
        async with self._growing:
            if arenas.fits(n):
                return True  # another task has seen to it meanwhile
            for size in arenas.sizes(n, time.monotonic()):
                if await self._add_arena(size):
                    return True
                arenas.refuse(size, time.monotonic())
        return False

    async def _add_arena(self, size: int) -> bool:
        call, frame = self._session.ask_for_arena(size)
        given, used = None, False
        try:
            self._write(frame)
            if self._over is not None:
                self._session.lose(self._over)
            given = given_by(await self._answer(call, self._loop.time() + ATTACH_TIMEOUT))
            if given is not None:
                memory = await self._loop.run_in_executor(None, given.map)  # it may take milliseconds
                self._session.arenas.add(given.region, memory)
                used = True
        except (TimeoutError, MemoryError):
            pass
        finally:
            if not used:
                for returned in self._session.abandon(call, given):
                    self._write(returned)
        return used

    # ---- for the transport ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.BaseProtocol."""
        assert isinstance(transport, asyncio.Transport | _Rings)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """See asyncio.BufferedProtocol."""
        return self._session.deframer.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio.BufferedProtocol."""
        try:
            for data in self._session.deframer.received(nbytes):
                self.message_received(data)
        except Error as e:
            self.end(e)

    def message_received(self, data: Buffer) -> None:
        """Take in a whole message. An Error is to end the connection."""
        self._write(self._session.receive(data))

    def eof_received(self) -> None:
        """See asyncio.BufferedProtocol."""
        self.end(lost_connection(self.path, "it hung up"))

    def pause_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.BaseProtocol."""
        self.end(lost_connection(self.path, str(exc or "it hung up")))
        with contextlib.suppress(asyncio.InvalidStateError):
            self.hung_up.set_result(None)


class _Rings(asyncio.BaseTransport):
    """A pair of rings in the place of a transport: what a connection asks of one, and no more."""

    def __init__(self, s: socket.socket, segment: Segment, connection: _Connection) -> None:
        self._socket = s
        self._segment = segment
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[list[Buffer]] = deque()  # frames that found no space
        self._sender: asyncio.Future[None] | None = None  # sends the first of them
        self._aborted = False
        self._loop.add_reader(s, self._heard)
        self._loop.call_soon(self._take)

    def abort(self) -> None:
        """End everything; connection_lost comes when nobody uses the rings any more."""
        if not self._aborted:
            self._aborted = True
            self._loop.remove_reader(self._socket)
            self._segment.shutdown()
            self._waiting.clear()
            if self._sender is None:
                self._loop.call_soon(self._close)

    def _close(self) -> None:
        self._segment.close()
        self._socket.close()
        self._connection.connection_lost(None)

    # ---- receiving ----

    def _heard(self) -> None:
        self._segment.hear()
        self._take()

    def _take(self) -> None:
        """Take what there is, and have the bell rung for what comes next."""
        try:
            for _ in range(_BURST):
                if self._aborted:
                    return
                message = self._segment.try_recv()
                if message is not None:
                    self._connection.message_received(message)
                elif not self._segment.arm():
                    return
            self._loop.call_soon(self._take)
        except Closed:
            self._connection.eof_received()
        except ProtocolError as e:
            self._connection.end(DataLoss(f"the server broke the protocol: {e}"))
        except Error as e:
            self._connection.end(e)

    # ---- sending ----

    def writelines(self, frame: list[Buffer]) -> None:
        """Send a frame, now or when there is space for all of it."""
        if self._aborted:
            return
        if self._sender is None and self._segment.send_now(*unframed(frame)):
            return
        self._waiting.append([bytes(part) for part in frame])  # the caller may go on to change it
        self._connection.pause_writing()
        if self._sender is None:
            self._send_next()

    def _send_next(self) -> None:
        frame = self._waiting.popleft()
        self._sender = self._loop.run_in_executor(None, self._send, frame)
        self._sender.add_done_callback(self._sent)

    def _send(self, frame: list[Buffer]) -> None:
        """In a thread: wait for space."""
        if not self._segment.send_within(WRITE_TIMEOUT, *unframed(frame)):
            raise TimeoutError("it takes no request")

    def _sent(self, sender: "asyncio.Future[None]") -> None:
        self._sender = None
        failure = None if sender.cancelled() else sender.exception()
        if self._aborted:
            self._close()
        elif failure is not None:
            why = "it hung up" if isinstance(failure, Closed) else str(failure)
            self._connection.end(lost_connection(self._connection.path, why))
        elif self._waiting:
            self._send_next()
        else:
            self._connection.resume_writing()


async def _greet(s: socket.socket, session: Session, ring: int) -> tuple[Segment | None, list[list[Buffer]]]:
    """Exchange hellos. As _greeting.greet."""
    loop = asyncio.get_running_loop()
    greeting = Greeting(session, ring)
    try:
        await loop.sock_sendall(s, greeting.hello)
        while not session.greeted:
            try:
                greeting.receive(s)
            except BlockingIOError:
                await _readable(s)
        return greeting.segment(s), greeting.answers
    finally:
        greeting.close()


async def _readable(s: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[None] = loop.create_future()
    loop.add_reader(s, _arrive, arrived)
    try:
        await arrived
    finally:
        loop.remove_reader(s)
