"""The app's half of the protocol, without input or output: client.py adds threads to it, aio.py asyncio.

    request ─▶ Session.open ─▶ bytes to send           bytes received ─▶ Deframer ─▶ Session.receive ─▶ Call.replies
    ─▶ Session.take

Nothing here locks, waits or knows the time. A method that has something to say to the server returns it as a list of
buffers, framed, for its driver to send.

A request that names memory in arenas keeps it until the server says that it is free, whatever becomes of the call: see
_named.

Credit: a call may have `window` chunks under way. Each one that is taken makes room, and half a window at a time is
granted anew, so nobody has to hold more than that for us.
"""

import copy
import itertools
import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from ringmaster import _codec
from ringmaster._arena import Arenas, Named, names_arenas, wants_inline
from ringmaster._codec import (
    Attach,
    BadMessage,
    Cancel,
    Credit,
    Detach,
    Hello,
    Message,
    Ping,
    Release,
    Reply,
    Request,
    decode,
    encode,
    size_of,
)
from ringmaster._errors import (
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    Error,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from ringmaster._ring import ProtocolError, Region
from ringmaster._tensors import Array
from ringmaster._values import Buffer, Encoded

WINDOW = 16  # chunks of a stream under way
MAX_HELLO = 64 << 10  # bytes of the first frame
RESERVED_POOL = "ringmaster"  # its actions are the server's own
DOOR_EVENTFD = 2  # of a hello's doors: this client wakes the server by an eventfd

_STAGE = 64 << 10  # bytes; a longer message is received into memory of its own
_LENGTH = 4


class Result:
    """What an action answered: its return value, or one chunk of its stream.

    tensors  NumPy arrays by name, writable: views of the message, without a copy (where alignment to their item size
             matters, np.require(a, requirements="A") copies if it must), or, for what was asked for as outputs=, of
             memory that the worker wrote to, aligned to 64 bytes. That memory is the array's, and its views': when the
             last of them goes it is used again
    headers  strings by name
    context  the session's opaque bytes from now on, if the action made others and no server keeps them
    """

    __slots__ = ("_body", "context", "headers", "tensors")

    def __init__(self, reply: Reply) -> None:
        self._body = reply.body
        self.tensors: Mapping[str, Array] = reply.tensors  # type: ignore[assignment]  # decoded ones are arrays
        self.headers: Mapping[str, str] = reply.headers
        self.context = reply.context

    def __repr__(self) -> str:
        return f"<Result {self._body!r}, tensors {list(self.tensors)}>"

    @property
    def body(self) -> Any:
        """The body, decoded when it is first asked for. DataLoss/bad_body if it cannot be."""
        if type(self._body) is Encoded:
            try:
                self._body = self._body.decode()
            except ValueError as e:
                raise DataLoss(f"the answer's body cannot be decoded: {e}", reason="bad_body") from e
        return self._body


class Call:
    """One open request. `wake` is its driver's: called when there is a reply where there was none."""

    __slots__ = ("allowed", "consumed", "id", "named", "replies", "request", "wake", "window")

    def __init__(self, id: int, window: int) -> None:
        self.id = id
        self.named: Named | None = None  # what the request names in arenas; the request is kept as long as that
        self.request: Request | None = None
        self.window = window
        self.allowed = window  # chunks the server may still send
        self.consumed = 0  # chunks taken since credit was last granted
        self.replies: deque[Reply] = deque()
        self.wake: Callable[[], object] = lambda: None


class Deframer:
    """Cuts a stream of bytes into messages: fill buffer(), say how much came to received()."""

    def __init__(self) -> None:
        self.limit = MAX_HELLO  # bytes of a message
        self._stage = memoryview(bytearray(_STAGE + _LENGTH))
        self._filled = 0  # bytes of the stage
        self._long = memoryview(b"")  # a message that is too long for the stage, while one is under way
        self._have = 0  # bytes of it

    def buffer(self) -> memoryview:
        """Return where the next bytes belong; never empty."""
        return self._long[self._have :] if self._long else self._stage[self._filled :]

    def received(self, n: int) -> list[Buffer]:
        """Return the messages that n more bytes in buffer() complete. DataLoss if the stream cannot be right."""
        if self._long:
            self._have += n
            if self._have < len(self._long):
                return []
            message, self._long = self._long, memoryview(b"")
            return [message]
        self._filled += n
        stage, at, messages = self._stage, 0, list[Buffer]()
        while self._filled - at >= _LENGTH:
            size = int.from_bytes(stage[at : at + _LENGTH], "little")
            if not 1 <= size <= self.limit:
                raise DataLoss(f"the server sent a frame of {size} bytes; the limit is {self.limit}")
            start, end = at + _LENGTH, at + _LENGTH + size
            if end > self._filled:
                if size > _STAGE:
                    self._begin_long(stage[start : self._filled], size)
                    at = self._filled
                break
            messages.append(bytearray(stage[start:end]))
            at = end
        rest = self._filled - at
        stage[:rest] = stage[at : self._filled]
        self._filled = rest
        return messages

    def _begin_long(self, beginning: memoryview, size: int) -> None:
        self._long = np.empty(size, np.uint8).data  # unlike a bytearray it is not zeroed first
        self._have = len(beginning)
        self._long[: self._have] = beginning


class Given:
    """An arena that the server has made, not yet mapped. It has the descriptor."""

    __slots__ = ("bytes", "fd", "region")

    def __init__(self, region: int, bytes: int, fd: int) -> None:
        self.region = region
        self.bytes = bytes
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)

    def map(self) -> Region:
        """Map it. DataLoss if it is not what was announced; MemoryError if the kernel cannot."""
        try:
            return Region(self.fd, self.bytes)
        except OSError as e:
            raise MemoryError(f"mapping an arena of {self.bytes} bytes: {e}") from e
        except ProtocolError as e:
            raise DataLoss(f"the arena that the server gave cannot be used: {e}") from e


class Session:
    """One connection: the open calls, by id."""

    def __init__(self, token: str | None = None) -> None:
        self.deframer = Deframer()
        self.calls: dict[int, Call] = {}
        self._authorization = f"Bearer {token}" if token else ""  # goes with each request; "": none
        self.greeted = False  # the server has said hello
        self.draining = False  # the server is about to go
        self._ids = itertools.count(1)
        self.max_message = _codec.MAX_MESSAGE
        self.ring = 0  # bytes of each of the rings that come with the server's hello; 0: none do
        self.arenas = Arenas()
        self._next_file: Callable[[], int | None] = lambda: None  # the descriptors beside the rings, in order
        self._arena_limit = 0
        self._named: dict[int, list[object]] = {}  # what requests keep in arenas, until the server says that it is free

    def hello(self, ring: int = 0) -> list[Buffer]:
        """Return what a connection begins with. ring is how large rings should be, in bytes; 0: none are wanted."""
        limits = {"doors": DOOR_EVENTFD, "ring": ring} if ring > 0 else {}
        return _framed(Hello(_codec.VERSION, _codec.VERSION, _codec.SDK, limits=limits))

    def use_rings(self, next_file: Callable[[], int | None]) -> None:
        """Say that the messages go through rings, beside which descriptors come: the connection may have arenas."""
        self._next_file = next_file
        self.arenas.limit = self._arena_limit

    def open(self, request: Request, window: int, named: Named | None = None) -> tuple[Call, list[Buffer]]:
        """Open a call for the request, whose id and credit are set here; named is what it names in arenas.

        TypeError, ValueError or OverflowError: it cannot be encoded; ResourceExhausted/too_large.
        """
        call = Call(next(self._ids), window)
        frame = self._framed_request(call, request)
        if named is not None:
            call.named, call.request = named, request
            self._named[call.id] = named.keeps
        self.calls[call.id] = call
        return call, frame

    def _framed_request(self, call: Call, request: Request) -> list[Buffer]:
        request.id = call.id
        request.credit = call.window
        if self._authorization and "authorization" not in request.headers:
            request.headers = {**request.headers, "authorization": self._authorization}  # theirs are the caller's
        frame = _framed(request)
        size = size_of(frame) - _LENGTH
        if size > self.max_message:
            raise ResourceExhausted(
                f"the request is {size} bytes, the limit is {self.max_message} bytes; "
                "send less at a time or raise max_message",
                reason="too_large",
            )
        return frame

    def ask_for_arena(self, size: int) -> tuple[Call, list[Buffer]]:
        """Ask for an arena. The call's only reply has it as its body, a Given, or says why there is none."""
        call = Call(next(self._ids), 1)
        self.calls[call.id] = call
        return call, _framed(Attach(call.id, size))

    def abandon(self, call: Call, given: Given | None) -> list[list[Buffer]]:
        """Make no use of what ask_for_arena asked for; given is what was taken of its answer."""
        self.calls.pop(call.id, None)
        for reply in call.replies:
            given = reply.body if isinstance(reply.body, Given) else given
        return [] if given is None else [_framed(Detach(given.region))]

    def return_idle(self) -> list[list[Buffer]]:
        """Give arenas back that have not been used for long."""
        return [_framed(Detach(region)) for region in self.arenas.remove_idle()]

    def receive(self, data: Buffer) -> list[Buffer]:
        """Take in a message. An Error ends the connection: the server's last word, or its breach of the protocol."""
        try:
            m = decode(data)
        except BadMessage as e:
            call = self.calls.pop(e.id, None) if e.kind == _codec.REPLY else None
            if call is None:
                raise DataLoss(f"the server's message is malformed: {e}") from e
            return self._misanswered(call, DataLoss(f"the answer is malformed: {e}", reason=e.reason))
        if type(m) is Reply and m.id != 0:
            return self._reply(m)
        match m:
            case Reply(id=0, error=Error() as last_word):
                raise last_word
            case Reply():
                return self._reply(m)
            case Ping(answer=False):
                return _framed(Ping(m.id, answer=True))
            case Attach():
                return self._given(m)
            case Release():
                self._named.pop(m.id, None)
            case _codec.Drain():
                self.draining = True
            case Hello():
                self.greeted = True
                self.max_message = m.limits.get("max_message", self.max_message)
                self.deframer.limit = self.max_message
                self.ring = m.limits.get("ring", 0)
                self._arena_limit = m.limits.get("arena", 0)
        return []

    def _reply(self, m: Reply) -> list[Buffer]:
        if m.end and not m.leased:
            self._named.pop(m.id, None)
        call = self.calls.get(m.id)
        if call is None:
            return []  # it comes after a cancel
        if m.end:
            del self.calls[m.id]
        elif call.allowed == 0:
            raise DataLoss(f"the server sent more chunks of request {m.id} than it was granted")
        else:
            call.allowed -= 1
        if call.named is not None and wants_inline(m.error):
            return self._again(call, m)
        if m.tensors and names_arenas(m):
            try:
                (call.named or Named({})).resolve(m)
            except DataLoss as e:
                self.calls.pop(m.id, None)
                return self._misanswered(call, e)
        if m.end:
            call.named = call.request = None
        self._deliver(call, m)
        return []

    def _misanswered(self, call: Call, why: DataLoss) -> list[Buffer]:
        self._deliver(call, Reply(call.id, True, error=why))
        return _framed(Cancel(call.id, "cancelled"))

    def _again(self, call: Call, refused: Reply) -> list[Buffer]:
        """Send a request again that no worker has seen, without naming arenas, and remember pools that have none."""
        assert call.named is not None
        assert call.request is not None
        request, named = call.request, call.named
        if isinstance(refused.error, Unimplemented):
            self.arenas.inline.add(request.pool)
        call.named = call.request = None
        call.id = next(self._ids)
        request.tensors, request.outputs = named.inline, {}
        try:
            frame = self._framed_request(call, request)
        except ResourceExhausted as e:
            self._deliver(call, Reply(call.id, True, error=e))
            return []
        self.calls[call.id] = call
        return frame

    def _given(self, m: Attach) -> list[Buffer]:
        fd = self._next_file()
        if fd is None:
            raise DataLoss(f"the server says that it has made region {m.region}, and no descriptor comes with it")
        given = Given(m.region, m.bytes, fd)
        call = self.calls.pop(m.id, None)
        if call is None:
            return _framed(Detach(m.region))
        self._deliver(call, Reply(m.id, True, body=given))
        return []

    def _deliver(self, call: Call, m: Reply) -> None:
        call.replies.append(m)
        if len(call.replies) == 1:
            call.wake()

    def take(self, call: Call) -> tuple[Reply, list[Buffer]]:
        """Take the next of call.replies, of which there must be one."""
        reply = call.replies.popleft()
        call.consumed += 1
        if reply.end or 2 * call.consumed < call.window or call.id not in self.calls:
            return reply, []
        n, call.consumed = call.consumed, 0
        call.allowed += n
        return reply, _framed(Credit(call.id, n))

    def cancel(self, call: Call, reason: str) -> list[Buffer]:
        """End a call with Cancelled; what still comes for it is dropped. Nothing happens if it has ended."""
        if self.calls.pop(call.id, None) is None:
            return []
        self._deliver(call, Reply(call.id, True, error=Cancelled("the call was closed")))
        return _framed(Cancel(call.id, reason))

    def lose(self, why: Error) -> None:
        """End all open calls with this error, each with a copy of its own."""
        self.arenas.limit = 0
        self._named.clear()
        calls, self.calls = self.calls, {}
        for call in calls.values():
            self._deliver(call, Reply(call.id, True, error=copy.copy(why)))


def unframed(frame: list[Buffer]) -> list[Buffer]:
    """Return the message in a frame, without its length: what goes through a ring."""
    return frame[1:]


def _framed(m: Message) -> list[Buffer]:
    parts = encode(m)
    return [size_of(parts).to_bytes(_LENGTH, "little"), *parts]


class Options(TypedDict, total=False):
    """What a call may be given besides its pool, action and body.

    tensors   NumPy arrays, or what becomes one, by name
    timeout   seconds until DeadlineExceeded, for a stream the whole of it; without it the pool's default holds
    headers   strings by name
    session   id of the session that the request is part of: the header of that name
    trace_id  W3C traceparent
    context   the session's opaque bytes
    """

    tensors: Mapping[str, ArrayLike] | None
    timeout: float | None
    headers: Mapping[str, str] | None
    session: str | None
    trace_id: str | None
    context: Buffer | None


def new_request(
    pool: str,
    action: str,
    body: object,
    *,
    tensors: Mapping[str, ArrayLike] | None = None,
    timeout: float | None = None,
    headers: Mapping[str, str] | None = None,
    session: str | None = None,
    trace_id: str | None = None,
    context: Buffer | None = None,
) -> Request:
    """Make a request of a call's arguments."""
    if session is not None:
        headers = {**(headers or {}), "session": session}
    timeout_us = 0 if timeout is None else max(1, round(timeout * 1e6))
    return Request(0, pool, action, trace_id or "", context or b"", timeout_us, 1, headers or {}, body, tensors or {})


def introduction() -> Request:
    """Make the request that shows a token at once: the server hangs up on who shows none by TCP, and takes no large
    request before.
    """
    return Request(0, RESERVED_POOL, "whoami")


def answer_of(reply: Reply) -> Result:
    """Return the result of a call that wants one answer, or raise what the reply says."""
    if reply.error is not None:
        raise reply.error
    if not reply.end:
        raise Unimplemented("the action answers in chunks; use stream()", reason="stream")
    return Result(reply)


def chunk_of(reply: Reply) -> Result | None:
    """Return a stream's next chunk, None at its end, or raise what the reply says.

    An action that answers once has one chunk.
    """
    if reply.error is not None:
        raise reply.error
    if reply.end and reply.body is None and not reply.tensors:
        return None
    return Result(reply)


def given_by(reply: Reply) -> Given | None:
    """Return the arena that was asked for; None if the server refuses. Raises what else the reply says."""
    if isinstance(reply.body, Given):
        return reply.body
    if reply.error is not None and reply.error.reason in ("connection_lost", "client_closed"):
        raise reply.error
    return None


def lost_connection(path: str, why: str) -> Error:
    """Say that the connection is gone."""
    return Unavailable(
        f"the connection to the server at {path} is gone ({why}); the request may have run", reason="connection_lost"
    )


def client_closed() -> Error:
    """Say that the client was closed."""
    return Cancelled("the client was closed", reason="client_closed")


def deadline_passed() -> Error:
    """Say that the request's time is over."""
    return DeadlineExceeded("the request's deadline has passed")


def silent_server(path: str) -> Error:
    """Say that the server's hello did not come."""
    return DeadlineExceeded(f"the server at {path} did not say hello in time")
