"""The app's side, for threads.

A client has one connection (_connection.py), and no thread of its own.

    Client.call ─▶ Connection.start
                ◀─ Connection.next
"""

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, Unpack, overload

from numpy.typing import DTypeLike

from ringmaster._address import resolve, token_to_send
from ringmaster._arena import Outputs
from ringmaster._codec import Reply, Request
from ringmaster._connection import Connection
from ringmaster._greeting import RING
from ringmaster._session import (
    RESERVED_POOL,
    WINDOW,
    Options,
    Result,
    answer_of,
    chunk_of,
    client_closed,
    deadline_passed,
    new_request,
)
from ringmaster._tensors import Array, Shape

CONNECT_TIMEOUT = 10.0  # seconds

T = TypeVar("T")


def connect(
    path: str | os.PathLike[str] | None = None,
    timeout: float = CONNECT_TIMEOUT,
    ring: int = RING,
    *,
    token: str | None = None,
) -> "Client":
    """Connect to the server, within timeout seconds.

    ring is how large each of the two rings in shared memory should be, in bytes; 0: everything goes through the socket.
    token is sent with each request, which the server then takes for who asks; without it, $RINGMASTER_TOKEN is, if that
    is set. "" sends none.

    path may be unix:///path, or tcp://127.0.0.1:8080 for a server's port, which needs a token. Without it the address
    is $RINGMASTER_SOCKET, $RUNTIME_DIRECTORY/ringmaster.sock, $XDG_RUNTIME_DIR/ringmaster/ringmaster.sock or
    /run/ringmaster/ringmaster.sock, whichever is set first.
    Raises Unavailable/no_server if nobody is there.
    """
    return Client(path, timeout, ring, token=token)


class Client:
    """Calls a server. Any number of threads may use it at once; a fork's child gets a connection of its own.

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
        self._lock = threading.Lock()
        self._connection: Connection | None = None  # guarded by _lock
        self._closed = False  # guarded by _lock
        self._connected()
        _forkable.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End every open call with Cancelled/client_closed, and hang up."""
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.end(client_closed())

    def call(
        self,
        pool: str,
        action: str,
        body: object = None,
        *,
        outputs: Outputs | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Run an action and return its answer, or raise an Error. body is anything MessagePack can say.

        tensors=   NumPy arrays, or what becomes one, by name. One that `empty` made is not copied: do not change it
                   before the answer has come, or, after a timeout, while the worker may still run. Others are copied
        outputs=   a shape and a dtype for tensors of the answer, by name: so much memory is set aside for each, and
                   what the worker writes there is not copied. A tensor that needs more arrives as ever
        timeout=   seconds until DeadlineExceeded; without it the pool's default holds
        headers=   strings by name
        session=   id of the session that the request is part of, where the server keeps sessions
        trace_id=  W3C traceparent
        context=   the session's opaque bytes
        """
        request = new_request(pool, action, body, **options)
        pending = _Pending(self._connected(), request, 1, options.get("timeout"), outputs)
        try:
            return answer_of(pending.next())
        finally:
            pending.close()

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
    ) -> "Stream[Result]": ...
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
    ) -> "Stream[Any]": ...
    def stream(
        self,
        pool: str,
        action: str,
        body: object = None,
        *,
        raw: bool = False,
        window: int = WINDOW,
        **options: Unpack[Options],
    ) -> "Stream[Any]":
        """Run an action that answers in chunks, and return an iterator over their bodies.

        With raw it is over Results, which have tensors too. window is how many chunks may be under way before the first
        is taken. The rest is as for call; timeout is for the whole stream. Errors are raised by the iterator.
        """
        request = new_request(pool, action, body, **options)
        pending = _Pending(self._connected(), request, max(1, window), options.get("timeout"))
        return Stream(pending, _itself if raw else _body)

    def empty(self, shape: Shape, dtype: DTypeLike = float) -> Array:
        """Return an array of that shape and dtype in memory that workers see. What it holds at first is undefined.

        As a tensor of a call it is not copied: the worker has a read-only view of it. So has it of a part of it that is
        C-contiguous and begins at a multiple of 64 bytes. The memory is this array's and its views'; when the last of
        them has gone it is used again.

        If the server has no arenas, or no room for it, or the client has no rings, it is an ordinary array, and copied
        when it is sent; so is every other one after the connection was lost. dtype may be "bfloat16" (ml_dtypes).
        """
        return self._connected().empty(shape, dtype)

    def status(self, timeout: float | None = None) -> Any:
        """Return what `ringmaster status --json` prints."""
        return self.call(RESERVED_POOL, "status", timeout=timeout).body

    def health(self, pool: str | None = None, timeout: float | None = None) -> Any:
        """Return the health of a pool, or of all."""
        return self.call(RESERVED_POOL, "health", {"pool": pool}, timeout=timeout).body

    def _connected(self) -> Connection:
        """Return a connection that is fit for a new call, after connecting if there is none."""
        connection = self._connection
        if connection is not None and connection.in_use():
            return connection
        with self._lock:
            if self._closed:
                raise client_closed()
            if self._connection is not None and not self._connection.usable():
                self._connection.retire()
                self._connection = None
            if self._connection is None:
                self._connection = Connection(self._path, self._timeout, self._ring, self._token)
            return self._connection

    def after_fork(self) -> None:
        """Forget the parent's connection."""
        self._lock = threading.Lock()
        self._connection = None


class Stream(Iterator[T], Generic[T]):
    """The chunks of one answer, as they come. Closing it, or dropping it before its end, cancels the request."""

    def __init__(self, pending: "_Pending", convert: Callable[[Result], T]) -> None:
        self._pending = pending
        self._convert = convert

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if self._pending.ended:
            raise StopIteration
        try:
            chunk = chunk_of(self._pending.next())
        except BaseException:
            self.close()
            raise
        if chunk is None:
            raise StopIteration
        return self._convert(chunk)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self._pending.close()

    def close(self) -> None:
        """Cancel the request if it has not ended."""
        self._pending.close()


def _itself(chunk: Result) -> Result:
    return chunk


def _body(chunk: Result) -> Any:
    return chunk.body


class _Pending:
    """One call on its connection, with its deadline."""

    __slots__ = ("_call", "_connection", "_deadline", "ended")

    def __init__(
        self,
        connection: Connection,
        request: Request,
        window: int,
        timeout: float | None,
        outputs: Outputs | None = None,
    ) -> None:
        self.ended = False
        self._connection = connection
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._call = connection.start(request, window, self._deadline, outputs)

    def next(self) -> Reply:
        """Return the next reply; DeadlineExceeded when the time is over."""
        try:
            reply = self._connection.next(self._call, self._deadline)
        except TimeoutError:
            self.close("deadline")
            raise deadline_passed() from None
        self.ended = reply.end
        return reply

    def close(self, reason: str = "cancelled") -> None:
        """Cancel it if it has not ended."""
        if not self.ended:
            self.ended = True
            self._connection.cancel(self._call, reason)


_forkable: "weakref.WeakSet[Client]" = weakref.WeakSet()


def _after_fork() -> None:
    for client in list(_forkable):
        client.after_fork()


os.register_at_fork(after_in_child=_after_fork)
