"""What a client makes of the server's words about arenas: a session, and bytes as a server could send them."""

import os
from typing import Any

import numpy as np
import pytest

import ringmaster as rm
from memfd import arena
from ringmaster import _codec
from ringmaster._arena import AHEAD, FIRST, LARGEST, MOVE, REFUSED, Arenas
from ringmaster._codec import Attach, Cancel, Detach, Hello, Message, Release, Reply, Request, decode, encode
from ringmaster._errors import DataLoss, Error, error_of
from ringmaster._session import Call, Given, Session, given_by, unframed
from ringmaster._tensors import Placed, Slot

SIZE = 4 << 20


class Peer:
    """A session, and the server that it talks with."""

    def __init__(self, limit: int = 64 << 20) -> None:
        self.session = Session()
        self.files: list[int] = []
        self.hears(Hello(1, 1, "test", limits={"arena": limit, "max_message": 8 << 20}))
        self.session.use_rings(lambda: self.files.pop(0) if self.files else None)

    def hears(self, m: Message) -> list[Message | None]:
        """Give the session a message, and return what it says to that."""
        answer = self.session.receive(b"".join(map(bytes, encode(m))))
        return [said(answer)] if answer else []

    def attached(self, region: int = 1, size: int = SIZE) -> None:
        """Have the session ask for an arena, and get it."""
        call, frame = self.session.ask_for_arena(size)
        assert said(frame) == Attach(call.id, size)
        self.files.append(arena(size))
        assert self.hears(Attach(call.id, size, region)) == []
        reply, _ = self.session.take(call)
        given = given_by(reply)
        assert given is not None
        self.session.arenas.add(given.region, given.map())

    def call(self, outputs: Any = None, **tensors: Any) -> tuple[Call, Request]:
        """Open a call, and return what is sent."""
        request = Request(0, "p", "a", tensors=tensors)
        named = done(self.session.arenas.place(request, outputs))
        call, frame = self.session.open(request, 1, named)
        sent = said(frame)
        assert isinstance(sent, Request)
        return call, sent

    def free(self) -> int:
        """Return how many bytes are free, after a look at what was given back."""
        self.session.arenas.fits(1)
        return sum(a.space.free for a in self.session.arenas._arenas)


def said(frame: list[Any]) -> Message | None:
    return decode(bytearray(b"".join(map(bytes, unframed(frame)))))


def done(steps: Any) -> Any:
    """Do what needs no more arenas."""
    try:
        next(steps)
    except StopIteration as e:
        return e.value
    raise AssertionError("it needs another arena")


def test_a_request_keeps_what_it_names_until_its_end() -> None:
    peer = Peer()
    peer.attached()
    call, sent = peer.call({"y": (100, "int32")}, x=np.ones(MOVE, "uint8"))
    assert sent.tensors == {"x": Placed("uint8", (MOVE,), 1, 0, MOVE)}
    assert sent.outputs == {"y": Slot(1, MOVE, 400)}
    assert peer.free() == SIZE - MOVE - 448
    peer.hears(Reply(call.id, True, tensors={"y": Placed("int32", (50,), 1, MOVE, 200)}))
    reply, _ = peer.session.take(call)
    y = reply.tensors["y"]
    assert isinstance(y, np.ndarray)
    assert (y.shape, y.dtype) == ((50,), np.int32)
    assert peer.free() == SIZE - 448
    del y, reply
    assert peer.free() == SIZE


@pytest.mark.parametrize("cancelled", [False, True])
def test_after_a_lease_it_keeps_it_until_the_release(cancelled: bool) -> None:
    peer = Peer()
    peer.attached()
    call, _ = peer.call({"y": (100, "int32")}, x=np.ones(MOVE, "uint8"))
    if cancelled:
        assert said(peer.session.cancel(call, "deadline")) == Cancel(call.id, "deadline")
    error = error_of("DEADLINE_EXCEEDED", "late", reason="deadline")
    peer.hears(Reply(call.id, True, error=error, leased=True))
    id = call.id
    del call
    assert peer.free() == SIZE - MOVE - 448
    peer.hears(Release(id + 5))
    assert peer.free() == SIZE - MOVE - 448
    peer.hears(Release(id))
    assert peer.free() == SIZE
    peer.hears(Release(id))


def test_a_cancelled_request_keeps_what_it_names_until_its_end() -> None:
    peer = Peer()
    peer.attached()
    call, _ = peer.call(x=np.ones(MOVE, "uint8"))
    peer.session.cancel(call, "cancelled")
    id = call.id
    del call
    assert peer.free() == SIZE - MOVE
    peer.hears(Reply(id, True))
    assert peer.free() == SIZE


def test_a_lost_connection_keeps_nothing_and_gives_nothing() -> None:
    peer = Peer()
    peer.attached()
    call, _ = peer.call(x=np.ones(MOVE, "uint8"))
    peer.session.lose(Error("gone"))
    assert call.replies[0].error is not None
    assert peer.session._named == {}
    assert done(peer.session.arenas.part(64)) is None
    assert done(peer.session.arenas.place(Request(0, tensors={"x": np.ones(MOVE)}), None)) is None


@pytest.mark.parametrize(
    "wrong",
    [
        Placed("uint8", (100,), 1, 0, 100),  # the request's tensor
        Placed("uint8", (100,), 2, MOVE, 100),
        Placed("uint8", (401,), 1, MOVE, 401),
        Placed("uint8", (64,), 1, MOVE + 384, 64),
        Placed("uint8", (0, 1 << 63), 1, MOVE, 0),
    ],
)
def test_an_answer_lies_where_it_was_offered(wrong: Placed) -> None:
    peer = Peer()
    peer.attached()
    call, _ = peer.call({"y": (100, "int32")}, x=np.ones(MOVE, "uint8"))
    assert peer.hears(Reply(call.id, True, tensors={"y": wrong})) == [Cancel(call.id, "cancelled")]
    with pytest.raises(DataLoss, match="y") as caught:
        raise call.replies[0].error or AssertionError
    assert caught.value.reason in ("bad_region", "bad_tensor")
    plain, _ = peer.call()
    peer.hears(Reply(plain.id, True, tensors={"y": Placed("uint8", (4,), 1, 0, 4)}))
    assert isinstance(plain.replies[0].error, DataLoss)


@pytest.mark.parametrize(("code", "reason"), [("UNIMPLEMENTED", "arena"), ("UNAVAILABLE", "arena_busy")])
def test_what_no_worker_has_seen_is_sent_again_inline(code: str, reason: str) -> None:
    peer = Peer()
    peer.attached()
    x = np.arange(MOVE, dtype="uint8")
    call, sent = peer.call({"y": (100, "int32")}, x=x)
    (again,) = peer.hears(Reply(sent.id, True, error=error_of(code, "no", reason=reason)))
    assert isinstance(again, Request)
    assert again.id == call.id != sent.id
    assert (again.tensors["x"] == x).all()
    assert (dict(again.outputs), again.pool, again.action) == ({}, "p", "a")
    assert not call.replies
    assert peer.free() == SIZE
    assert peer.hears(Reply(sent.id, True)) == []  # nobody's any more
    peer.hears(Reply(call.id, True, body=5))
    assert call.replies[0].body == 5
    _, later = peer.call(x=x)
    assert isinstance(later.tensors["x"], Placed) == (code == "UNAVAILABLE")  # which says nothing of the pool


def test_what_fits_no_message_is_not_sent_again() -> None:
    peer = Peer()
    peer.attached(size=16 << 20)
    call, sent = peer.call(x=np.ones(10 << 20, "uint8"))
    assert peer.hears(Reply(sent.id, True, error=error_of("UNIMPLEMENTED", "no", reason="arena"))) == []
    error = call.replies[0].error
    assert isinstance(error, rm.ResourceExhausted)
    assert error.reason == "too_large"


def test_an_arena_that_comes_too_late_is_given_back() -> None:
    peer = Peer()
    call, _ = peer.session.ask_for_arena(SIZE)
    assert peer.session.abandon(call, None) == []
    peer.files.append(arena(SIZE))
    assert peer.hears(Attach(call.id, SIZE, 7)) == [Detach(7)]
    call, _ = peer.session.ask_for_arena(SIZE)
    peer.files.append(arena(SIZE))
    peer.hears(Attach(call.id, SIZE, 8))
    (frame,) = peer.session.abandon(call, None)
    assert said(frame) == Detach(8)
    # conftest.py sees whether a descriptor is left


def test_what_is_no_arena_is_a_breach() -> None:
    peer = Peer()
    call, _ = peer.session.ask_for_arena(SIZE)
    with pytest.raises(DataLoss, match="descriptor"):
        peer.hears(Attach(call.id, SIZE, 1))
    for fd in (arena(SIZE), arena(SIZE, 0), os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)):
        with pytest.raises(DataLoss, match="cannot be used"):
            Given(1, SIZE + 1, fd).map()


def test_a_refusal() -> None:
    peer = Peer()
    call, _ = peer.session.ask_for_arena(SIZE)
    peer.hears(Reply(call.id, True, error=error_of("RESOURCE_EXHAUSTED", "no", reason="arena_quota")))
    assert given_by(call.replies[0]) is None
    lost = Reply(call.id, True, error=error_of("UNAVAILABLE", "gone", reason="connection_lost"))
    with pytest.raises(rm.Unavailable):
        given_by(lost)


def test_how_much_is_asked_for() -> None:
    arenas = Arenas()
    assert arenas.sizes(100, 0) == []  # the server gives none
    arenas.limit = 300 << 20
    assert arenas.sizes(100, 0) == [FIRST, 128]
    assert arenas.sizes(6 << 20, 0) == [AHEAD * (6 << 20), 6 << 20]
    assert arenas.sizes(40 << 20, 0) == [LARGEST, 40 << 20]
    assert arenas.sizes(200 << 20, 0) == [200 << 20]
    assert arenas.sizes(301 << 20, 0) == []
    arenas.refuse(20 << 20, 1000.0)
    assert arenas.sizes(6 << 20, 1000.0 + REFUSED / 2) == [6 << 20]
    assert arenas.sizes(20 << 20, 1000.0 + REFUSED / 2) == []
    assert arenas.sizes(20 << 20, 1000.0 + REFUSED) == [LARGEST, 20 << 20]


def test_a_server_without_arenas_is_not_asked() -> None:
    session = Session()
    session.receive(b"".join(map(bytes, encode(Hello(1, 1, "old", limits={"ring": 1 << 20})))))
    session.use_rings(lambda: None)
    assert session.arenas.limit == 0
    a = done(session.arenas.empty((2, 3), "float32"))
    assert (a.shape, a.dtype, a.flags.owndata) == ((2, 3), np.float32, True)


def test_an_array_may_be_of_any_type_the_protocol_has() -> None:
    peer = Peer()
    peer.attached()
    for dtype in ("bool", "int8", "uint64", "float16", "complex128", "bfloat16", float):
        a = done(peer.session.arenas.empty((3, 5), dtype))
        assert peer.session.arenas.find(a) is not None
    for shape in ((), 0, (0, 3)):
        assert done(peer.session.arenas.empty(shape, "int8")).shape == (shape if isinstance(shape, tuple) else (shape,))
    for dtype in ("datetime64[s]", object, "U3"):
        with pytest.raises(TypeError, match="cannot be sent"):
            done(peer.session.arenas.empty(3, dtype))
    with pytest.raises(ValueError, match="negative"):
        done(peer.session.arenas.empty((3, -1), float))


def test_a_read_only_array_of_an_arena_goes_by_name() -> None:
    peer = Peer()
    peer.attached()
    a = done(peer.session.arenas.empty(100, "int8"))
    a.flags.writeable = False
    _, sent = peer.call(x=a, y=a[64:])
    assert sent.tensors == {"x": Placed("int8", (100,), 1, 0, 100), "y": Placed("int8", (36,), 1, 64, 36)}
    assert np.from_dlpack(a).flags.writeable is False


def test_codec_of_the_version_before() -> None:
    """A request that names nothing is what it was, byte for byte."""
    old = b"".join(map(bytes, encode(Request(1, "p", "a", tensors={"x": np.ones(2, "int8")}))))
    peer = Peer()
    peer.attached()
    request = Request(1, "p", "a", tensors={"x": np.ones(2, "int8")})
    assert done(peer.session.arenas.place(request, None)) is None
    assert b"".join(map(bytes, encode(request))) == old
    assert _codec.decode(old) is not None
