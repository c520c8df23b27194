"""Messages ⇄ bytes: docs/protocol.md, section 5, for the ring and the socket alike.

Encoding is canonical: up to the last position that is not the default, defaults before it as their empty value, the
protocol's maps sorted, shortest forms. Equal messages are equal bytes in every language; the golden file pins them. It
gives a list of buffers, so that an array's memory is copied once, into the ring or the socket.

Decoding scans everything once (in C), and then makes no more copies than it must: the body stays encoded until somebody
wants it, tensors are views.

Requests and replies that are like most are done in C altogether (csrc/codec.c). What is here is for everything, and it
is what that is held to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgpack
import numpy as np
from numpy.typing import ArrayLike

from ringmaster._errors import Error, error_of
from ringmaster._ring import Codec, split
from ringmaster._tensors import (
    NUMPY_NAMES,
    Array,
    BadTensor,
    Placed,
    Slot,
    array_head,
    decode_slots,
    decode_tensors,
    encode_tensors,
)
from ringmaster._values import Buffer, Encoded, pack

V = TypeVar("V")

VERSION = 1
SDK = "ringmaster-python/0.1.0"
MAX_MESSAGE = 64 << 20  # bytes; unless the supervisor or the server says otherwise

REQUEST, REPLY, CANCEL, CREDIT, HELLO, DRAIN, STOP, PING, ATTACH, DETACH = range(1, 11)
BATCH, RELEASE = 12, 13  # 11 is reserved

MAX_BATCH = 1024  # requests in one call

STREAM, IDEMPOTENT, BATCHABLE = 1, 2, 4  # an action's flags
_END, _LEASED = 1, 2  # a reply's flags
_ANSWER = 1  # a ping's flag
_HELD = 1  # a request's flag


@dataclass(slots=True)
class Request:
    """Asks a pool's worker to run an action. A decoded body is a plain None, bool, int, str or bytes, or Encoded."""

    id: int
    pool: str = ""
    action: str = ""
    trace_id: str = ""
    context: Buffer = b""
    timeout_us: int = 0  # left at the time of sending; 0: none given
    credit: int = 1  # replies without END that the requester is ready to take
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = None
    tensors: Mapping[str, ArrayLike | Placed] = field(default_factory=dict)
    held: bool = False  # not to be run before a Batch names it
    outputs: Mapping[str, Slot] = field(default_factory=dict)  # where in arenas the answer's tensors are wanted


@dataclass(slots=True)
class Reply:
    """One frame of an answer: a chunk, or, with end, the last word."""

    id: int
    end: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = None
    tensors: Mapping[str, ArrayLike | Placed] = field(default_factory=dict)
    error: Error | None = None
    leased: bool = False  # with end: what the request names in arenas is in use until a Release
    context: Buffer = b""  # what the session's bytes are from now on; empty: what they were


@dataclass(slots=True)
class Cancel:
    """Ends the interest in a request."""

    id: int
    reason: str = ""


@dataclass(slots=True)
class Credit:
    """Allows n more replies without END."""

    id: int
    n: int = 0


@dataclass(slots=True)
class Hello:
    """Opens a connection, or says that a worker is ready."""

    version_min: int = 0
    version_max: int = 0
    sdk: str = ""
    actions: Sequence[tuple[Any, ...]] = ()  # (name, flags), and perhaps inputs and outputs: [[name, dtype, shape], …]
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Drain:
    """Announces the end: no more requests."""


@dataclass(slots=True)
class Stop:
    """Ends a worker at once."""


@dataclass(slots=True)
class Ping:
    """Asks for, or with answer is, a sign of life."""

    id: int
    answer: bool = False


@dataclass(slots=True)
class Batch:
    """Says that held requests are one call, and to be run now."""

    ids: Sequence[int] = ()


@dataclass(slots=True)
class Attach:
    """Asks for an arena, or, with a region, gives it: its descriptor comes beside the message."""

    id: int
    bytes: int = 0
    region: int = 0


@dataclass(slots=True)
class Detach:
    """Says that nobody is going to name a region again."""

    region: int = 0


@dataclass(slots=True)
class Release:
    """Says that what a request named in arenas is free, after a reply that was leased."""

    id: int


Message = Request | Reply | Cancel | Credit | Hello | Drain | Stop | Ping | Batch | Attach | Detach | Release


class BadMessage(ValueError):
    """A peer's message is malformed.

    kind and id are 0 where they could not be read; reason is "bad_message" or "bad_tensor".
    """

    def __init__(self, text: str, kind: int = 0, id: int = 0, reason: str = "bad_message") -> None:
        super().__init__(text)
        self.kind = kind
        self.id = id
        self.reason = reason


# ---- encoding ----


def encode(m: Message) -> list[Buffer]:
    """Encode a message as buffers to be sent one after the other.

    TypeError, ValueError or OverflowError: the body or a tensor cannot be sent.
    """
    data = None
    if type(m) is Request:
        if not (m.held or m.outputs):
            data = _fast.request(
                m.id, m.pool, m.action, m.trace_id, m.context, m.timeout_us, m.credit or 1, m.headers, m.body, m.tensors
            )
    elif type(m) is Reply and m.error is None and not m.context:
        data = _fast.reply(m.id, m.end * _END | m.leased * _LEASED, m.headers, m.body, m.tensors)
    return encode_any(m) if data is None else [data]


def encode_answer(id: int, body: object, tensors: Mapping[str, ArrayLike | Placed], context: Buffer) -> list[Buffer]:
    """Encode the reply that ends a request and has no headers; otherwise as encode."""
    data = None if context else _fast.reply(id, _END, _NONE, body, tensors)
    return encode_any(Reply(id, True, body=body, tensors=tensors, context=context)) if data is None else [data]


_NONE: dict[str, str] = {}  # no headers


def encode_any(m: Message) -> list[Buffer]:
    """Encode as `encode`, in Python."""
    match m:
        case Request():
            fields = (
                REQUEST,
                m.id,
                m.pool,
                m.action,
                m.trace_id,
                m.context,
                m.timeout_us,
                m.credit or 1,
                _sorted(m.headers),
            )
            last = (pack(_HELD if m.held else 0),) if m.held or m.outputs else ()
            if m.outputs:
                last = (*last, pack([(name, s.region, s.offset, s.capacity) for name, s in m.outputs.items()]))
            return _with_content(fields, (None, None, "", "", "", b"", 0, 1, {}), m.body, m.tensors, last)
        case Reply():
            said = (REPLY, m.id, m.end * _END | m.leased * _LEASED, _sorted(m.headers))
            return _with_content(said, (None, None, 0, {}), m.body, m.tensors, _ending(m))
        case Cancel():
            return [_short((CANCEL, m.id, m.reason), (None, None, ""))]
        case Credit():
            return [_short((CREDIT, m.id, m.n), (None, None, 0))]
        case Hello():
            actions = list(m.actions)
            return [_short((HELLO, 0, m.version_min, m.version_max, m.sdk, actions, _sorted(m.limits)), _HELLO)]
        case Drain():
            return [b"\x92\x06\x00"]
        case Stop():
            return [b"\x92\x07\x00"]
        case Ping():
            return [_short((PING, m.id, int(m.answer)), (None, None, 0))]
        case Batch():
            return [_short((BATCH, 0, list(m.ids)), (None, None, []))]
        case Attach():
            return [_short((ATTACH, m.id, m.bytes, m.region), (None, None, 0, 0))]
        case Detach():
            return [_short((DETACH, 0, m.region), (None, None, 0))]
        case Release():
            return [pack((RELEASE, m.id))]


_HELLO: tuple[object, ...] = (None, None, 0, 0, "", [], {})  # its defaults


def size_of(buffers: Sequence[Buffer]) -> int:
    """Return a message's length in bytes."""
    return sum(map(len, buffers))


def _short(fields: tuple[object, ...], defaults: tuple[object, ...]) -> bytes:
    n = len(fields)
    while n > 2 and fields[n - 1] == defaults[n - 1]:
        n -= 1
    return pack(fields[:n])


def _with_content(
    fields: tuple[object, ...],
    defaults: tuple[object, ...],
    body: object,
    tensors: Mapping[str, ArrayLike | Placed],
    last: tuple[bytes, ...],
) -> list[Buffer]:
    """Encode fields, body, tensors, and last, which are encoded: what a request and a reply have in common."""
    if not tensors and not last:
        if body is None:
            return [_short(fields, defaults)]
        if type(body) is not Encoded:
            return [pack((*fields, body))]
    n = len(fields) + (2 + len(last) if last else 2 if tensors else 1)
    head = array_head(n) + pack(fields)[1:] + (bytes(body.data) if type(body) is Encoded else pack(body))
    parts: list[Buffer] = [head]
    if tensors:
        parts += encode_tensors(tensors)
    elif last:
        parts.append(array_head(0))
    return [*parts, *last]


def _ending(m: Reply) -> tuple[bytes, ...]:
    """Return what a reply has after its tensors, encoded."""
    error = _packed(m.error)
    return (*(error or (pack(None),)), pack(m.context)) if m.context else error


def _packed(error: Error | None) -> tuple[bytes, ...]:
    if error is None:
        return ()
    retry_after_ms = round((error.retry_after or 0) * 1000)
    return (pack((error.code, error.reason, error.message, retry_after_ms, _sorted(error.details))),)


def _sorted(m: Mapping[str, V]) -> Mapping[str, V]:
    return dict(sorted(m.items(), key=lambda item: item[0].encode("utf-8", "surrogateescape"))) if len(m) > 1 else m


# ---- decoding ----


@dataclass(frozen=True)
class _Layout:
    """The positions after kind and id, or of a nested array: what split gives for each (object: any), the defaults."""

    types: tuple[type, ...]
    defaults: tuple[object, ...]

    def read(self, fields: tuple[Any, ...]) -> list[Any]:
        """Return the value of each position."""
        values = list(fields[: len(self.types)])
        for i, (value, expected) in enumerate(zip(values, self.types, strict=False)):
            if type(value) is not expected:
                if value is None:
                    values[i] = self.defaults[i]
                elif expected is not object:
                    raise ValueError(f"the value at position {i} has the wrong type")
        values += self.defaults[len(values) :]
        return values


_LAYOUTS = {
    REQUEST: _Layout(
        (str, str, str, memoryview, int, int, slice, object, slice, int, slice),
        ("", "", "", b"", 0, 1, None, None, None, 0, None),
    ),
    REPLY: _Layout((int, slice, object, slice, slice, memoryview), (0, None, None, None, None, b"")),
    CANCEL: _Layout((str,), ("",)),
    CREDIT: _Layout((int,), (0,)),
    HELLO: _Layout((int, int, str, slice, slice), (0, 0, "", None, None)),
    DRAIN: _Layout((), ()),
    STOP: _Layout((), ()),
    PING: _Layout((int,), (0,)),
    ATTACH: _Layout((int, int), (0, 0)),
    DETACH: _Layout((int,), (0,)),
    BATCH: _Layout((slice,), (None,)),
    RELEASE: _Layout((), ()),
}
_ERROR = _Layout((str, str, str, int, slice), ("", "", "", 0, None))


def decode(data: Buffer) -> Message | None:
    """Decode one message; None for a kind this version does not know. BadMessage if it is malformed.

    The message may refer to data's memory.
    """
    m: Request | Reply | None = _fast.decode(data)
    return decode_any(data) if m is None else m


def decode_any(data: Buffer) -> Message | None:
    """Decode as `decode`, in Python."""
    view = memoryview(data)
    try:
        fields = split(view)
    except ValueError as e:
        raise BadMessage(str(e), *_head(view)) from None
    if len(fields) < 2 or type(fields[0]) is not int or type(fields[1]) is not int:
        raise BadMessage("it does not begin with [kind, id, …]")
    kind, id = fields[0], fields[1]
    layout = _LAYOUTS.get(kind)
    if layout is None:
        return None
    try:
        return _message(kind, id, view, layout.read(fields[2:]))
    except BadTensor as e:
        raise BadMessage(str(e), kind, id, "bad_tensor") from None
    except ValueError as e:
        raise BadMessage(str(e), kind, id) from None


def _message(kind: int, id: int, view: memoryview, v: list[Any]) -> Message:
    match kind:
        case 1:
            pool, action, trace_id, context, timeout_us, credit, headers, body, tensors, flags, outputs = v
            return Request(
                id,
                pool,
                action,
                trace_id,
                bytes(context),
                timeout_us,
                credit or 1,
                _str_map(view, headers),
                _body(view, body),
                _tensors(view, tensors),
                bool(flags & _HELD),
                decode_slots(view[outputs]) if outputs is not None else {},
            )
        case 2:
            flags, headers, body, tensors, error, context = v
            return Reply(
                id,
                bool(flags & _END),
                _str_map(view, headers),
                _body(view, body),
                _tensors(view, tensors),
                _error(view, error),
                bool(flags & _LEASED),
                bytes(context),
            )
        case 3:
            return Cancel(id, v[0])
        case 4:
            return Credit(id, v[0])
        case 5:
            return Hello(v[0], v[1], v[2], _actions(view, v[3]), _limits(view, v[4]))
        case 6:
            return Drain()
        case 7:
            return Stop()
        case 9:
            return Attach(id, v[0], v[1])
        case 10:
            return Detach(v[0])
        case 12:
            return Batch(_ids(view, v[0]))
        case 13:
            return Release(id)
        case _:
            return Ping(id, bool(v[0] & _ANSWER))


def _map(view: memoryview, at: slice | None) -> dict[Any, Any]:
    if at is None or view[at.start] == 0x80:  # none, or empty
        return {}
    value = Encoded(view[at]).decode()
    if type(value) is not dict:
        raise ValueError("a map is expected")
    return value


def _str_map(view: memoryview, at: slice | None) -> dict[str, str]:
    m = _map(view, at)
    for k, v in m.items():
        if type(k) is not str or type(v) is not str:
            raise ValueError("a map from strings to strings has something else in it")
    return m


def _body(view: memoryview, value: object) -> object:
    if type(value) is slice:
        return Encoded(view[value])
    return bytes(value) if type(value) is memoryview else value


def _tensors(view: memoryview, at: slice | None) -> dict[str, Array | Placed]:
    return decode_tensors(view[at]) if at is not None else {}


def _ids(view: memoryview, at: slice | None) -> list[int]:
    ids = split(view[at], MAX_BATCH + 1) if at is not None else ()
    if len(ids) > MAX_BATCH:
        raise ValueError(f"a batch of more than {MAX_BATCH} requests")
    if not all(id is None or type(id) is int for id in ids):
        raise ValueError("an id is not an unsigned integer")
    return [id or 0 for id in ids]  # type: ignore[misc]  # integers, as was just seen


def _error(view: memoryview, at: slice | None) -> Error | None:
    if at is None:
        return None
    part = view[at]
    code, reason, message, retry_after_ms, details = _ERROR.read(split(part, 5))
    return error_of(
        code, message, reason=reason, retry_after=retry_after_ms / 1000 or None, details=_str_map(part, details)
    )


def _actions(view: memoryview, at: slice | None) -> list[tuple[Any, ...]]:
    items = Encoded(view[at]).decode() if at is not None else []
    if type(items) is not list:
        raise ValueError("the actions are not an array")
    actions = list[tuple[Any, ...]]()
    for item in items:
        match item:
            case [str(name), int(flags), *ports]:
                actions.append((name, flags, *ports[:2]))
            case [str(name)]:
                actions.append((name, 0))
            case _:
                raise ValueError("an action is not [name, flags]")
    return actions


def _limits(view: memoryview, at: slice | None) -> dict[str, int]:
    return {k: v for k, v in _map(view, at).items() if type(k) is str and type(v) is int}


def _head(view: memoryview) -> tuple[int, int]:
    """Read what can be read of kind and id in a message that is malformed further on."""
    unpacker = msgpack.Unpacker(max_buffer_size=32)
    unpacker.feed(view[:32])
    try:
        if unpacker.read_array_header() >= 2:
            kind, id = unpacker.unpack(), unpacker.unpack()
            if type(kind) is int and type(id) is int and kind >= 0 and id >= 0:
                return kind, id
    except (msgpack.UnpackException, ValueError):
        pass
    return 0, 0


def new_codec(request: type[Any]) -> Codec:
    """Return a codec that makes a request of each, given Request's fields in their order.

    Of its requests the tensors are arrays in the message, and there are no outputs.
    """
    return Codec(request, Reply, Encoded, pack, np.ndarray, {name: np.dtype(name) for name in NUMPY_NAMES})


_fast = new_codec(Request)
