"""The codec in C against the one in Python: what it does it does alike, and it leaves to Python whatever is wrong."""

import contextlib
import gc
import math
import random
import sys
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest

import ringmaster as rm
from ringmaster import _codec
from ringmaster._codec import BadMessage, Message, Reply, Request, _fast, decode_any, encode, encode_any
from ringmaster._errors import error_of
from ringmaster._tensors import Placed, Slot
from ringmaster._values import Encoded, pack
from test_codec import golden, same


def joined(parts: list[Any]) -> bytes:
    return b"".join(map(bytes, parts))


def outcome(f: Callable[[], Any]) -> Any:
    try:
        return f()
    except (TypeError, ValueError, OverflowError) as e:
        return type(e), str(e)


def agree_on_decoding(data: bytes) -> bool:
    """Compare, and say whether C did it."""
    fast = _fast.decode(bytearray(data))
    if fast is None:
        return False
    m: Any = decode_any(bytearray(data))
    for x in (fast, m):
        if type(x.body) is Encoded:  # which need not be decodable
            x.body = bytes(x.body.data)
    assert same(fast, m), data.hex()
    for name in m.__slots__:
        assert type(getattr(fast, name)) is type(getattr(m, name)), (name, data.hex())
    for name, t in m.tensors.items():
        assert (t.flags.writeable, t.flags.owndata) == (fast.tensors[name].flags.writeable, False)
    return True


def test_golden() -> None:
    fitting = [
        entry
        for entry in golden()
        if all(math.prod(n or 1 for n in t["shape"]) < 1 << 63 for t in entry["message"].get("tensors", ()))
    ]
    done = {e["message"]["kind"] for e in fitting if agree_on_decoding(bytes.fromhex(e["hex"]))}
    assert done == {"request", "reply"}
    for entry in golden():
        data = bytes.fromhex(entry["hex"])
        for end in {*range(min(len(data), 300)), len(data) - 1}:
            assert _fast.decode(data[:end]) is None
        assert _fast.decode(data + b"\0") is None


NUMBERS = (0, 1, 31, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
STRINGS = ("", "a", "ü" * 15, "x" * 31, "x" * 32, "x" * 255, "x" * 256, "\0", "\udcff lone", "☃" * 400)
BODIES = (
    *(None, True, False, 1.5, float("nan"), -1, -32, -33, -128, -129, -32768, -32769, -(2**31), -(2**31) - 1),
    *(-(2**63), b"", b"x" * 255, b"x" * 256, [], [1, [2]], {}, {"a": {"b": "\udcfe"}}, {1: 2}, np.int64(4)),
    *(Encoded(b"\x01"), Encoded(bytearray(b"\x92\x01\xc0")), Encoded(memoryview(pack("v" * 3000)))),
    *NUMBERS,
    *STRINGS,
)
BAD_BODIES = (2**64, -(2**63) - 1, object(), {1, 2}, np.zeros(2), [np.zeros(2)])
KINDS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32")
SHAPES = ((), (0,), (1,), (3,), (2, 0, 3), (2, 3), (1,) * 20, (255,), (256,), (5000,))


def arrays(rng: random.Random) -> Any:
    kind = rng.choice((*KINDS, "float64", "complex64", "complex128", "longlong", "bfloat16", ">i4", "<u2"))
    a = np.zeros(rng.choice(SHAPES), "uint8" if kind == "bfloat16" else kind)
    match rng.randrange(10):
        case 0:
            return a[::2] if a.ndim else a
        case 1:
            return np.asfortranarray(a)
        case 2:
            return np.frombuffer(bytearray(33), "uint8")[1:].view("int64")  # not aligned
        case 3:
            return [1.5, 2]
        case 4:
            a.flags.writeable = False
        case 5:
            return np.ma.masked_array(a)  # type: ignore[no-untyped-call]
        case 6:
            return Placed("uint8", (3,), 1, 64, 3)
    return a


def message(rng: random.Random) -> Message:
    headers: Any = {}
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        headers[rng.choice(STRINGS)] = rng.choice(STRINGS)
    tensors = {rng.choice(STRINGS): arrays(rng) for _ in range(rng.choice((0, 0, 1, 1, 2, 20)))}
    body = rng.choice(BODIES + BAD_BODIES if rng.randrange(10) == 0 else BODIES)
    context = rng.choice((b"", b"", b"c" * 40, bytearray(b"c")))
    id = rng.choice(NUMBERS)
    if rng.randrange(2):
        error = rng.choice((None, None, None, error_of("NOT_FOUND", "m", reason="r")))
        return Reply(id, bool(rng.randrange(2)), headers, body, tensors, error, bool(rng.randrange(2)), context)
    request = Request(id, rng.choice(STRINGS), rng.choice(STRINGS), rng.choice(STRINGS), context)
    request.timeout_us, request.credit = rng.choice(NUMBERS), rng.choice(NUMBERS)
    request.headers, request.body, request.tensors = headers, body, tensors
    if rng.randrange(10) == 0:
        request.held, request.outputs = True, {"o": Slot(1, 64, 64)} if rng.randrange(2) else {}
    return request


def test_a_request_as_an_action_sees_it() -> None:
    """C makes the worker's requests of the fields in the order in which Python does."""
    decode = _codec.new_codec(rm.Request).decode
    a = np.arange(3, dtype="int16")
    m = Request(7, "p", "a", "t", b"c", 1, 5, {"k": "v"}, [1], {"x": a}, True)
    fast, slow = decode(bytearray(joined(encode_any(m)))), rm.Request.of(m, m.tensors, {})
    assert type(fast) is rm.Request
    for r in (fast, slow):
        assert (r.id, r.pool, r.action, r.trace_id, r.context) == (7, "p", "a", "t", b"c")
        assert (r.headers, r.body, r._credit, r._held, r._outputs) == ({"k": "v"}, [1], 5, True, {})
        assert r.tensors["x"].tobytes() == a.tobytes()
        assert r.deadline is not None
    m.timeout_us, m.held = 0, False
    fast = decode(bytearray(joined(encode_any(m))))
    assert (fast.deadline, fast._held) == (None, False)
    assert decode(bytearray(joined(encode(_codec.Ping(1))))) is None
    m.tensors = {"x": Placed("uint8", (3,), 1, 64, 3)}
    assert decode(bytearray(joined(encode(m)))) is None  # where it lies the worker finds out


def test_many_messages() -> None:
    """Both encode alike, or fail alike; both decode what came out alike, and what is left of it when damaged."""
    rng = random.Random(5)
    fast = 0
    for _ in range(3000):
        m = message(rng)
        expected = outcome(lambda m=m: joined(encode_any(m)))  # type: ignore[misc]
        assert outcome(lambda m=m: joined(encode(m))) == expected  # type: ignore[misc]
        if not isinstance(expected, bytes):
            continue
        fast += agree_on_decoding(expected)
        data = bytearray(expected)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(min(len(data), 300))] = rng.randrange(256)
        fast_m = _fast.decode(data)
        if fast_m is not None:
            agree_on_decoding(bytes(data))
    assert fast > 500


def test_damage_is_left_to_python() -> None:
    rng = random.Random(2)
    seeds = [bytes.fromhex(e["hex"][:400]) for e in golden() if e["message"]["kind"] in ("request", "reply")]
    seeds += [joined(encode(Request(1, "p", "a", body=b, tensors={"x": np.zeros(2, "f4")}))) for b in (None, 1, [1])]
    for _ in range(20000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.choice((0, 0x80, 0x90, 0xA0, 0xC0, 0xC4, rng.randrange(256)))
        agree_on_decoding(bytes(data))


@pytest.mark.parametrize(
    "fields",
    [
        [1, 5, "p", "a", "", b"", 0, 1, {}, None, [["x", "uint8", [1], b"1"], ["x", "uint8", [1], b"1"]]],
        [1, 5, "p", "a", "", b"", 0, 1, {}, None, [["x", "uint8", [2**32, 2**32], b"1"]]],
        [1, 5, "p", "a", "", b"", 0, 1, {}, None, [["x", "uint8", [1] * 65, b"1"]]],
        [1, 5, "p", "a", "", b"", 0, 1, {}, None, [["x", "uint8", [-1], b"1"]]],
        [1, 5, "p", "a", "", b"", 0, 1, {1: "a"}, None],
        [1, 5, "p", "a", "", b"", 0, 1, {}, None, [], 1, 1],
        [2, 5, 1, {}, None, [], "error"],
    ],
)
def test_what_is_wrong_is_left_to_python(fields: list[object]) -> None:
    data = msgpack.packb(fields)
    assert _fast.decode(data) is None
    with pytest.raises(BadMessage):
        _codec.decode(data)


def test_nothing_is_kept() -> None:
    """Neither decoding, nor encoding, nor giving up in the middle of either, holds on to what it was given."""
    a = np.zeros(3, "f4")
    good = joined(encode(Request(1, "p", "a", body=[1], tensors={"x": a}, headers={"k": "v"})))
    cut = msgpack.packb([1, 5, "p", "a", "t", b"c", 0, 1, {"k": "v"}, [1], [["x", "uint8", [1], b"1"], ["y"]]])
    key, value, body = "k" * 40, "v" * 40, ["body"]
    things: list[Any] = [a, key, value, body, good, cut]

    def work() -> None:
        for data in (good, cut):
            _fast.decode(data)
        for tensors in ({"x": a}, {"x": a, "y": [1]}, {"x": a, "y": a[::2]}):
            _fast.reply(1, 1, {key: value}, body, tensors)
            _fast.request(1, "p", "a", "", b"", 0, 1, {key: value}, body, tensors)
        for bad in (object(), 2**70):
            with contextlib.suppress(TypeError, OverflowError):
                _fast.reply(1, 1, {key: value}, [bad], {})

    work()
    gc.collect()
    before = [sys.getrefcount(t) for t in things], sys.getallocatedblocks()
    for _ in range(200):
        work()
    gc.collect()
    assert [sys.getrefcount(t) for t in things] == before[0]
    assert sys.getallocatedblocks() - before[1] < 100


def test_it_is_for_these_arguments_only() -> None:
    with pytest.raises(TypeError):
        _fast.reply(1, 2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        _fast.request(1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        _fast.decode("text")  # type: ignore[arg-type]
    assert _fast.reply(1, 1, {"a": 1}, 1, {}) is None
    assert _fast.reply(1, 1, [], 1, {}) is None
    assert _fast.reply(1, 1, {}, 1, {1: np.zeros(1)}) is None
    assert _fast.reply(1, 1, {}, 1, {"x": np.array([object()])}) is None
    assert _fast.reply(1, 1, {}, b"x" * (32 << 10), {}) is None
    assert _fast.reply(-1, 1, {}, 1, {}) == pack((2, -1, 1, {}, 1))
