"""The app's side, for threads.

A client has one connection, and no thread of its own. Of the threads that wait for replies one, the leader, reads the
socket and hands out what comes for the others; when it has its own reply another takes over. A program with one thread
thus reads its own replies, with no handoff, and a client that nobody uses costs nothing. Before each request what has
come meanwhile is read: pings, and news of the connection's end.

    call ─▶ _Connection.start ─▶ write          read ─▶ Session.receive ─▶ replies of all calls
         ◀─ _Connection.next  ◀─ lead or follow ◀──────────────────────────┘

What is written and read goes through rings in shared memory where the server gives them, and through the socket
otherwise. With rings the socket only tells that there is something in them, and that the server is gone.
"""

import contextlib
import copy
import os
import select
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, Unpack, overload

from numpy.typing import DTypeLike

from ringmaster._address import by_tcp, dial, resolve
from ringmaster._arena import ATTACH_TIMEOUT, Arenas, Outputs
from ringmaster._codec import Reply, Request
from ringmaster._errors import DataLoss, Error
from ringmaster._greeting import RING, greet
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

CONNECT_TIMEOUT = 10.0  # seconds
WRITE_TIMEOUT = 30.0  # seconds; a server that takes no request for so long is lost

_BURST = 64  # messages that are taken out of a ring at a time
_IOV_MAX = 1024  # buffers that one sendmsg takes
_SEND_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)  # an enum's | takes longer than the system call

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
    token is sent with each request, which the server then takes for who asks.

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
        self._token = token
        self._lock = threading.Lock()
        self._connection: _Connection | None = None  # guarded by _lock
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

    def _connected(self) -> "_Connection":
        """Return a connection that is fit for a new call, after connecting if there is none."""
        with self._lock:
            if self._closed:
                raise client_closed()
            if self._connection is not None and not self._connection.usable():
                self._connection.retire()
                self._connection = None
            if self._connection is None:
                self._connection = _Connection(self._path, self._timeout, self._ring, self._token)
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

    def __init__(
        self,
        connection: "_Connection",
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


class _Connection:
    """A socket, perhaps with rings beside it, and its session.

    _lock guards everything else but the deframer, which is the leader's, and is not held over a system call that may
    wait. _writing is held while a frame is written. Where both are needed, they are taken one after the other. _growing
    is held by the one thread that asks for an arena, before either of them.
    """

    def __init__(self, path: str, timeout: float, ring: int, token: str | None) -> None:
        self._path = path
        self._session = Session(token)
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._growing = threading.Lock()
        self._leading = False
        self._following: dict[Call, threading.Condition] = {}
        self._unsent: deque[list[Buffer]] = deque()  # frames to be written by whoever comes by
        self._dropped: deque[tuple[Call, str]] = deque()  # calls to be cancelled, likewise, and the reasons
        self._users = 0  # threads that use the socket or the rings; the last one closes both when it is over
        self._over: Error | None = None  # why
        self._retired = False  # no new calls; over after the last
        deadline = time.monotonic() + timeout
        self._socket = dial(path, deadline)
        self._ring: Segment | None = None
        _forkable.add(self)
        try:
            self._ring, answers = greet(self._socket, self._session, 0 if by_tcp(path) else ring, deadline)
            if self._ring is not None:
                self._session.use_rings(self._ring.file)
            self._unsent.extend(answers)
            if by_tcp(path) and token:
                self.next(self.start(introduction(), 1, deadline), deadline)  # if it is no good, requests are told
        except TimeoutError:
            self.end(silent_server(path))
        except OSError as e:
            self.end(lost_connection(path, str(e)))
        except Error as e:
            self.end(e)
        except BaseException:
            self.end(client_closed())
            raise
        if self._over is not None:
            raise self._over

    # ---- for a client ----

    def usable(self) -> bool:
        """Take in what has come, if nobody is at it, and say whether the connection takes new calls."""
        with self._lock:
            if not self._leading:
                with contextlib.suppress(TimeoutError):
                    while self._over is None:
                        self._lead(0)
                self._hand_over()
            usable = self._over is None and not self._session.draining
        self._tidy()
        return usable

    def retire(self) -> None:
        """End the connection as soon as the open calls have ended."""
        with self._lock:
            self._retired = True
            self._settle()

    def end(self, why: Error) -> None:
        """End the open calls with this error, and hang up."""
        with self._lock:
            self._end(why)

    def after_fork(self) -> None:
        """In a fork's child: leave the connection to the parent. Its threads, and what they held, are not here."""
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._leading = False
        self._following.clear()
        for call in self._session.calls.values():
            call.wake = _nobody  # who waits for it is not here, nor is the lock of its condition
        self._ring = None  # it is not mapped here
        self._socket.close()  # this process's descriptor
        self._session.arenas = Arenas()  # nobody knows who held their lock
        self._over = lost_connection(self._path, "this process is a fork of the one that called")
        self._session.lose(self._over)

    # ---- for a call ----

    def start(self, request: Request, window: int, deadline: float | None, outputs: Outputs | None = None) -> Call:
        """Open a call and send its request."""
        named = None
        if request.tensors or outputs:
            try:
                named = self._with_room(self._session.arenas.place(request, outputs), deadline)
            except TimeoutError:
                raise deadline_passed() from None
        with self._lock:
            if self._over is not None:
                raise copy.copy(self._over)
            call, frame = self._session.open(request, window, named)
            if named is not None:
                self._unsent.extend(self._session.return_idle())
        try:
            self._write(frame, deadline)
        except TimeoutError:
            self.cancel(call, "deadline")
            raise deadline_passed() from None
        except OSError:
            pass  # who reads learns why, perhaps from the server's last word
        return call

    def next(self, call: Call, deadline: float | None) -> Reply:
        """Return the call's next reply. TimeoutError after deadline."""
        with self._lock:
            try:
                while not call.replies:
                    if self._leading:
                        self._follow(call, deadline)
                    else:
                        self._lead(deadline)
                        self._answer_at_once()
                reply, frame = self._session.take(call)
            finally:
                self._hand_over()
            if frame:
                self._unsent.append(frame)
            self._settle()
        self._tidy()
        return reply

    def cancel(self, call: Call, reason: str) -> None:
        """Cancel a call. The garbage collector may do this, in the midst of anything: so it waits for no lock."""
        self._dropped.append((call, reason))
        self._tidy()

    # ---- arenas ----

    def empty(self, shape: Shape, dtype: DTypeLike) -> Array:
        """Make an array in an arena, if there is room for it."""
        return self._with_room(self._session.arenas.empty(shape, dtype), None)

    def _with_room(self, steps: Generator[int, bool, T], deadline: float | None) -> T:
        """Do what may need more arenas. TimeoutError after deadline."""
        try:
            n = next(steps)
            while True:
                n = steps.send(self._grow(n, deadline))
        except StopIteration as e:
            result: T = e.value
            return result

    def _grow(self, n: int, deadline: float | None) -> bool:
        """Get an arena with room for n bytes; False if the server gives none. TimeoutError after deadline."""
        limit = time.monotonic() + ATTACH_TIMEOUT
        arenas = self._session.arenas
        try:
            if not self._growing.acquire(timeout=max(0.0, _earlier(limit, deadline) - time.monotonic())):
                raise TimeoutError
            try:
                if arenas.fits(n):
                    return True  # another thread has seen to it meanwhile
                for size in arenas.sizes(n, time.monotonic()):
                    if self._add_arena(size, _earlier(limit, deadline)):
                        return True
                    arenas.refuse(size, time.monotonic())
            finally:
                self._growing.release()
        except TimeoutError:
            if deadline is not None and time.monotonic() >= deadline:
                raise
        return False

    def _add_arena(self, size: int, deadline: float) -> bool:
        with self._lock:
            if self._over is not None:
                raise copy.copy(self._over)
            call, frame = self._session.ask_for_arena(size)
        given, used = None, False
        try:
            with contextlib.suppress(ConnectionError):  # who reads learns why
                self._write(frame, deadline)
            given = given_by(self.next(call, deadline))
            if given is not None:
                self._session.arenas.add(given.region, given.map())
                used = True
        except MemoryError:
            pass
        finally:
            if not used:
                with self._lock:
                    self._unsent.extend(self._session.abandon(call, given))
                self._tidy()
        return used

    # ---- reading; _lock is held ----

    def _lead(self, deadline: float | None) -> None:
        """Read once, and take in what came. TimeoutError after deadline."""
        self._leading = True
        self._users += 1
        self._lock.release()
        failure: Error | None = None
        messages: Sequence[Buffer] = ()
        try:
            messages = self._read(deadline)
        except TimeoutError:
            raise
        except OSError as e:
            failure = lost_connection(self._path, str(e))
        except Error as e:
            failure = e
        finally:
            self._lock.acquire()
            self._leading = False
            self._leave()
        if self._over is not None:
            return
        if failure is not None:
            self._end(failure)
            return
        try:
            for data in messages:
                frame = self._session.receive(data)
                if frame:
                    self._unsent.append(frame)
        except Error as e:
            self._end(e)

    def _answer_at_once(self) -> None:
        """Write what is to be said to what came: the server may wait for it, and a call for what it says then."""
        if self._unsent:
            self._hand_over()
            self._lock.release()
            try:
                self._tidy()
            finally:
                self._lock.acquire()

    def _read(self, deadline: float | None) -> list[Buffer]:
        """Return what came, after waiting for it. TimeoutError after deadline; OSError at the end; DataLoss."""
        if self._ring is not None:
            return self._read_ring(self._ring, deadline)
        n = self._recv(deadline)
        if n == 0:
            raise ConnectionError("it hung up")
        return self._session.deframer.received(n)

    def _read_ring(self, ring: Segment, deadline: float | None) -> list[Buffer]:
        messages = list[Buffer]()
        try:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if left == 0:
                ring.hear()  # who does not wait would not notice the end
            message = ring.recv(left)
            while message is not None and len(messages) < _BURST:
                messages.append(message)
                message = ring.try_recv() if len(messages) < _BURST else None
        except Closed:
            if not messages:
                raise ConnectionError("it hung up") from None
        except ProtocolError as e:
            if not messages:
                raise DataLoss(f"the server broke the protocol: {e}") from e
        if not messages:
            raise TimeoutError
        return messages

    def _recv(self, deadline: float | None) -> int:
        buffer = self._session.deframer.buffer()
        if deadline is None:
            return self._socket.recv_into(buffer)
        while True:
            try:
                return self._socket.recv_into(buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                _await(self._socket, select.POLLIN, deadline)

    def _follow(self, call: Call, deadline: float | None) -> None:
        """Wait until this call has a reply, or there is no leader. TimeoutError after deadline."""
        condition = threading.Condition(self._lock)
        self._following[call] = condition
        call.wake = condition.notify
        try:
            left = None if deadline is None else deadline - time.monotonic()
            if not condition.wait(left) and not call.replies:
                raise TimeoutError
        finally:
            del self._following[call]
            call.wake = _nobody

    def _hand_over(self) -> None:
        if not self._leading and self._following:
            next(iter(self._following.values())).notify()

    # ---- writing ----

    def _write(self, frame: list[Buffer], deadline: float | None) -> None:
        """Write a frame. TimeoutError if the server takes none of it by deadline; OSError if it has gone."""
        deadline = _earlier(time.monotonic() + WRITE_TIMEOUT, deadline)
        if not self._writing.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        try:
            self._write_all(frame, deadline)
        finally:
            self._writing.release()
            self._tidy()

    def _write_all(self, frame: list[Buffer], deadline: float) -> None:
        with self._lock:
            if self._over is not None:
                return
            self._users += 1
        begun = False
        try:
            if self._ring is not None:
                self._write_ring(self._ring, frame, deadline)
                return
            parts = [memoryview(part) for part in frame]
            while parts:
                try:
                    n = self._socket.sendmsg(parts[:_IOV_MAX], (), _SEND_FLAGS)
                except BlockingIOError:
                    _await(self._socket, select.POLLOUT, deadline)
                    continue
                begun = True
                parts = _rest(parts, n)
        except BaseException as e:
            if begun:  # half a frame is out: nothing sensible can follow
                self.end(lost_connection(self._path, f"writing a request: {type(e).__name__} {e}"))
            raise
        finally:
            with self._lock:
                self._leave()

    def _write_ring(self, ring: Segment, frame: list[Buffer], deadline: float) -> None:
        try:
            if not ring.send_within(max(0.0, deadline - time.monotonic()), *unframed(frame)):
                raise TimeoutError
        except Closed:
            raise ConnectionError("it hung up") from None
        except ProtocolError as e:
            self.end(DataLoss(f"the server broke the protocol: {e}"))

    def _tidy(self) -> None:
        """Do what was left to do, where no lock is in the way.

        Whoever holds a lock that is in the way comes here after releasing it, so nothing is left for long.
        """
        while self._dropped and self._lock.acquire(blocking=False):
            try:
                self._settle()
            finally:
                self._lock.release()
        while self._unsent and self._writing.acquire(blocking=False):
            try:
                with contextlib.suppress(IndexError, OSError):
                    self._write_all(self._unsent.popleft(), time.monotonic() + WRITE_TIMEOUT)
            finally:
                self._writing.release()

    # ---- ending; _lock is held ----

    def _settle(self) -> None:
        """Cancel what was dropped; end a retired connection that has nothing left to do."""
        while self._dropped:
            frame = self._session.cancel(*self._dropped.popleft())
            if frame:
                self._unsent.append(frame)
        if self._retired and not self._session.calls:
            self._end(client_closed())

    def _end(self, why: Error) -> None:
        if self._over is not None:
            return
        self._over = why
        self._session.lose(why)
        if self._ring is not None:
            self._ring.shutdown()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # whoever waits in a system call comes back
        self._users += 1
        self._leave()

    def _leave(self) -> None:
        self._users -= 1
        if self._users == 0 and self._over is not None:
            if self._ring is not None:
                self._ring.close()
            self._socket.close()


def _earlier(a: float, b: float | None) -> float:
    return a if b is None else min(a, b)


def _nobody() -> None:
    pass


def _await(s: socket.socket, event: int, deadline: float) -> None:
    """Wait until the socket is ready. TimeoutError after deadline."""
    left = deadline - time.monotonic()
    if left > 0:
        poll = select.poll()
        poll.register(s, event)
        if poll.poll(left * 1000):
            return
    raise TimeoutError


def _rest(parts: list[memoryview], n: int) -> list[memoryview]:
    """Return what remains of the parts after their first n bytes."""
    for i, part in enumerate(parts):
        if n < len(part):
            return [part[n:], *parts[i + 1 :]]
        n -= len(part)
    return []


_forkable: "weakref.WeakSet[Client | _Connection]" = weakref.WeakSet()


def _after_fork() -> None:
    for thing in list(_forkable):
        thing.after_fork()


os.register_at_fork(after_in_child=_after_fork)
