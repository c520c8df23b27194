"""A client's connection: calls of any number of threads, over a pair of rings or a socket.

    start ─▶ write              read ─▶ Session.receive ─▶ replies of all calls
    next  ◀─ lead or follow ◀──────────────────────────────┘

Of the threads that wait for replies one, the leader, waits for the server and hands out what comes for the others; when
it has its own reply another takes over, the one that began to wait last, since it is likely to wait longest. A program
with one thread thus reads its own replies, with no handoff, and a client that nobody uses costs nothing.

Threads whose replies have come are not all woken at once: they would only queue for the interpreter's lock. They take
turns: one is woken, and when it comes back to wait for its next reply, it wakes the next one just before it sleeps. Who
finds that none is left reads what has come meanwhile, so that a busy client hardly needs a leader:

    leader reads B's, C's and D's replies ─▶ wakes B ── B calls again, sleeps ─▶ wakes C ── … ─▶ D reads more
       └─ sleeps on, as the watch: if a turn takes longer than TURN, it wakes them all

A thread need not come back, or only much later; then turns are a delay. So after one that was too long there are none
for a while: HURRY.

What is written and read goes through rings in shared memory where the server gives them, and through the socket
otherwise. With rings the socket only tells that there is something in them, and that the server is gone.
"""

import contextlib
import copy
import math
import os
import select
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import ParamSpec, TypeVar

from numpy.typing import DTypeLike

from ringmaster._address import by_tcp, dial
from ringmaster._arena import ATTACH_TIMEOUT, Arenas, Outputs
from ringmaster._codec import Reply, Request
from ringmaster._errors import DataLoss, Error
from ringmaster._greeting import greet
from ringmaster._ring import Closed, ProtocolError, Segment, Sleeper
from ringmaster._session import (
    Call,
    Session,
    client_closed,
    deadline_passed,
    given_by,
    introduction,
    lost_connection,
    silent_server,
    unframed,
)
from ringmaster._tensors import Array, Shape
from ringmaster._values import Buffer

WRITE_TIMEOUT = 30.0  # seconds; a server that takes no request for so long is lost
TURN = 250e-6  # seconds that a thread which was woken is given to come back, from when it runs
START = 10e-3  # seconds that it is given to run
HURRY = 256  # times that all are woken at once, after one that did not

_BURST = 64  # messages that are taken out of a ring at a time
_SHORT = 32 << 10  # bytes of a message that is copied into the ring without letting other threads run
_IOV_MAX = 1024  # buffers that one sendmsg takes
_SEND_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)  # an enum's | takes longer than the system call

T = TypeVar("T")
P = ParamSpec("P")
_Received = tuple[Sequence[Buffer], Error | None]  # messages, or what ends the connection


class Connection:
    """A socket, perhaps with rings beside it, and its session.

    _lock guards everything else but the deframer, which is the leader's, and is not held over a system call that may
    wait. Whoever lets go of it while threads are asleep has seen to it that one leads or watches, or is woken to do so.
    _writing is held while a frame is written, unless that is _write_now's. Where both are needed, they are taken one
    after the other. _growing is held by the one thread that asks for an arena, before either of them.
    """

    def __init__(self, path: str, timeout: float, ring: int, token: str | None) -> None:
        self._path = path
        self._session = Session(token)
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._growing = threading.Lock()
        self._leading = False
        self._heir: Call | None = None  # whose thread was woken to lead or watch, and has not come yet
        self._watch: Call | None = None  # whose thread follows, and looks after the turns
        self._asleep: dict[Call, Sleeper] = {}  # who follows, in the order in which they came
        self._arrived: deque[Call] = deque()  # those of them that have a reply now, and perhaps others
        # When the thread whose turn it is is late, on time.monotonic's clock. It is not while it waits for the
        # interpreter's lock, so it gets more time until it has begun. 0: it is nobody's turn.
        self._late = 0.0
        self._hurry = 0
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

    def in_use(self) -> bool:
        """Whether threads wait for replies: then one of them reads, and the connection takes new calls."""
        return (self._leading or bool(self._asleep)) and self._over is None and not self._session.draining

    def usable(self) -> bool:
        """Take in what has come, if nobody is at it, and say whether the connection takes new calls."""
        with self._lock:
            if not self._leading and not self._asleep:
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
        self._heir = self._watch = None
        self._asleep.clear()
        self._arrived.clear()
        for call in self._session.calls.values():
            call.wake = _nobody  # who waits for it is not here
        self._ring = None  # it is not mapped here
        self._socket.close()  # this process's descriptor
        self._session.arenas = Arenas()  # nobody knows who held their lock
        self._over = lost_connection(self._path, "this process is a fork of the one that called")
        self._session.lose(self._over)

    # ---- for a call ----

    def start(self, request: Request, window: int, deadline: float | None, outputs: Outputs | None = None) -> Call:
        """Open a call and send its request."""
        named = None
        if outputs or self._session.arenas.concern(request.tensors):
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
        if self._write_now(frame):
            if self._unsent or self._dropped:
                self._tidy()
            return call
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
                awake = True
                while not call.replies:
                    self._wait(call, deadline, awake)
                    awake = False
                reply, frame = self._session.take(call)
            finally:
                self._hand_over()
            if frame:
                self._unsent.append(frame)
            if self._dropped or self._retired:
                self._settle()
        if self._unsent or self._dropped:
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

    # ---- waiting; _lock is held ----

    def _wait(self, call: Call, deadline: float | None, awake: bool) -> None:
        """Wait for a reply once, in one way or another. TimeoutError after deadline.

        awake says that this thread comes from elsewhere: if it had its turn, that is over.
        """
        other = None
        if self._asleep:
            if awake and not self._leading and not self._arrived and self._over is None:
                self._look()
            if self._hurry > 0 and self._arrived:
                self._hurry -= 1
                self._wake_all()
            elif awake or self._late <= time.monotonic():
                other = self._next_arrived()
        else:
            self._arrived.clear()
        try:
            if call.replies:
                if other is not None:
                    other.wake()
            elif self._leading or self._arrived or other is not None:
                self._follow(call, deadline, other)
            else:
                self._lead(deadline)
        except BaseException:
            if other is not None:
                other.wake()  # perhaps once more, which does no harm
            raise
        self._answer_at_once()

    def _follow(self, call: Call, deadline: float | None, other: Sleeper | None) -> None:
        """Wake the other thread, and sleep until this call has a reply, or is to lead. TimeoutError after deadline."""
        mine = self._asleep[call] = Sleeper()
        call.wake = partial(self._arrived.append, call)
        watches = not self._leading and self._watch is None
        if watches:
            self._watch = call
        self._lock.release()
        try:
            if watches:
                woken = mine.sleep(_left(deadline, TURN), other)
            else:
                woken = mine.sleep(None if deadline is None else _left(deadline), other)
        finally:
            self._lock.acquire()
            if self._late > 0 and call.replies:
                self._late = time.monotonic() + TURN
            call.wake = _nobody
            self._asleep.pop(call, None)
            if watches:
                self._watch = None
            if self._heir is call:
                self._heir = None
        if woken or call.replies:
            return
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError
        if watches and self._late <= time.monotonic():
            if not self._leading and not self._arrived and self._over is None:
                self._look()
            if self._arrived or call.replies:
                self._hurry = HURRY

    def _next_arrived(self) -> Sleeper | None:
        """Return what wakes the next thread that has a reply, whose turn it is now; None if there is none."""
        while self._arrived:
            call = self._arrived.popleft()
            if call.replies and call in self._asleep:  # or it was woken otherwise, and perhaps sleeps again
                self._late = time.monotonic() + START
                return self._asleep.pop(call)
        self._late = 0.0
        return None

    def _wake_all(self) -> None:
        """Wake every thread that has a reply."""
        while (sleeper := self._next_arrived()) is not None:
            sleeper.wake()

    def _hand_over(self) -> None:
        """See to it that somebody leads or watches, as long as anybody waits."""
        if self._leading or self._watch is not None or self._heir is not None:
            return
        for call in reversed(self._asleep):
            if not call.replies:
                self._heir = call
                self._asleep.pop(call).wake()
                return
        if self._asleep:
            self._wake_all()

    def _answer_at_once(self) -> None:
        """Write what is to be said to what came: the server may wait for it, and a call for what it says then."""
        if self._unsent:
            self._hand_over()
            self._lock.release()
            try:
                self._tidy()
            finally:
                self._lock.acquire()

    # ---- reading; _lock is held, but not over what waits ----

    def _lead(self, deadline: float | None) -> None:
        """Wait for the server, and take in what came. TimeoutError after deadline."""
        self._leading = True
        self._users += 1
        self._lock.release()
        try:
            messages, failure = self._received(self._read, deadline)
        finally:
            self._lock.acquire()
            self._leading = False
            self._leave()
        self._take_in(messages, failure)

    def _look(self) -> None:
        """Take in what has come by now."""
        with contextlib.suppress(TimeoutError):
            self._take_in(*self._received(self._read_now))

    def _received(self, read: Callable[P, Sequence[Buffer]], *args: P.args, **kwargs: P.kwargs) -> _Received:
        """Return what was read, or the error that ends the connection. TimeoutError if nothing was."""
        try:
            return read(*args, **kwargs), None
        except TimeoutError:
            raise
        except OSError as e:
            return (), lost_connection(self._path, str(e))
        except Error as e:
            return (), e

    def _take_in(self, messages: Sequence[Buffer], failure: Error | None) -> None:
        if self._over is not None:
            return
        try:
            if failure is not None:
                raise failure
            for data in messages:
                frame = self._session.receive(data)
                if frame:
                    self._unsent.append(frame)
        except Error as e:
            self._end(e)

    def _read(self, deadline: float | None) -> Sequence[Buffer]:
        """Return what came, after waiting for it. TimeoutError after deadline; OSError at the end; DataLoss."""
        if self._ring is None:
            return self._deframed(self._recv(deadline))
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if left == 0:
            self._ring.hear()  # who does not wait would not notice the end
        return self._read_ring(self._ring, left)

    def _read_now(self) -> Sequence[Buffer]:
        """Return what has come, as _read. The end of a connection with rings may go unnoticed."""
        if self._ring is not None:
            return self._read_ring(self._ring, 0)
        try:
            return self._deframed(self._socket.recv_into(self._session.deframer.buffer(), 0, socket.MSG_DONTWAIT))
        except BlockingIOError:
            raise TimeoutError from None

    def _deframed(self, n: int) -> list[Buffer]:
        if n == 0:
            raise ConnectionError("it hung up")
        return self._session.deframer.received(n)

    def _read_ring(self, ring: Segment, timeout: float | None) -> list[bytearray]:
        try:
            messages = ring.recv_many(timeout, _BURST, bool(self._asleep))  # who sleeps may have a use for this CPU
        except Closed:
            raise ConnectionError("it hung up") from None
        except ProtocolError as e:
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

    # ---- writing ----

    def _write_now(self, frame: list[Buffer]) -> bool:
        """Write a frame if it is short, there are rings, and there is space in them.

        The interpreter's lock is held all the time, so that nobody closes them meanwhile.
        """
        if self._ring is None or self._over is not None or len(frame) != 2 or len(frame[1]) > _SHORT:
            return False
        try:
            return self._ring.send_now(frame[1])
        except (Closed, ProtocolError):
            return False  # the other way says what that means

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
            self._wake_all()
        if self._retired and not self._session.calls:
            self._end(client_closed())

    def _end(self, why: Error) -> None:
        if self._over is not None:
            return
        self._over = why
        self._session.lose(why)
        self._wake_all()
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


def _left(deadline: float | None, most: float = math.inf) -> float:
    """Return the seconds until the deadline, from 0 to most."""
    return most if deadline is None else min(most, max(0.0, deadline - time.monotonic()))


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


_forkable: "weakref.WeakSet[Connection]" = weakref.WeakSet()


def _after_fork() -> None:
    for connection in list(_forkable):
        connection.after_fork()


os.register_at_fork(after_in_child=_after_fork)
