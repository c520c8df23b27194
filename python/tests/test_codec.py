"""Messages ⇄ bytes: the golden bytes all implementations share, and what a peer may send instead."""

import contextlib
import json
import math
import random
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import pytest

from conftest import shared_file
from ringmaster import _codec, _tensors
from ringmaster._codec import BadMessage, Message, decode, encode
from ringmaster._errors import error_of
from ringmaster._tensors import Placed, Slot
from ringmaster._values import Encoded, pack

KINDS: dict[str, Any] = {
    "cancel": lambda m: _codec.Cancel(m["id"], m["reason"]),
    "credit": lambda m: _codec.Credit(m["id"], m["n"]),
    "drain": lambda m: _codec.Drain(),
    "stop": lambda m: _codec.Stop(),
    "ping": lambda m: _codec.Ping(m["id"], bool(m["flags"] & 1)),
    "hello": lambda m: _codec.Hello(
        m["version_min"], m["version_max"], m["sdk"], [action_of(a) for a in m["actions"]], m["limits"]
    ),
    "request": lambda m: _codec.Request(
        m["id"],
        m["pool"],
        m["action_type"],
        m["trace_id"],
        bytes.fromhex(m["context_blob_hex"]),
        m["timeout_us"],
        m["credit"],
        m["headers"],
        body_of(m),
        tensors_of(m),
        bool(m.get("flags", 0) & 1),
        {o["name"]: Slot(o["region"], o["offset"], o["capacity"]) for o in m.get("outputs", ())},
    ),
    "batch": lambda m: _codec.Batch(m["ids"]),
    "reply": lambda m: _codec.Reply(
        m["id"],
        bool(m["flags"] & 1),
        m["headers"],
        body_of(m),
        tensors_of(m),
        error_from(m["error"]),
        bool(m["flags"] & 2),
        bytes.fromhex(m.get("context_blob_hex", "")),
    ),
    "attach": lambda m: _codec.Attach(m["id"], m["bytes"], m["region"]),
    "detach": lambda m: _codec.Detach(m["region"]),
    "release": lambda m: _codec.Release(m["id"]),
}


def action_of(a: dict[str, Any]) -> tuple[Any, ...]:
    ports = [[[p["name"], p["dtype"], p["shape"]] for p in a.get(what, ())] for what in ("inputs", "outputs")]
    while ports and not ports[-1]:
        ports.pop()
    return (a["name"], a["flags"], *ports)


def body_of(m: dict[str, Any]) -> Encoded | None:
    return Encoded(bytes.fromhex(m["body_hex"])) if m["body_hex"] else None


def tensors_of(m: dict[str, Any]) -> dict[str, Any]:
    return {t["name"]: tensor_of(t) for t in m["tensors"]}


def tensor_of(t: dict[str, Any]) -> Any:
    if "region" in t:
        return Placed(t["dtype"], tuple(t["shape"]), t["region"], t["offset"], t["length"])
    return np.ndarray(t["shape"], np.dtype(t["dtype"]), bytes.fromhex(t["data_hex"]))


def error_from(e: dict[str, Any] | None) -> _codec.Error | None:
    if e is None:
        return None
    return error_of(
        e["code"], e["message"], reason=e["reason"], retry_after=e["retry_after_ms"] / 1000, details=e["details"]
    )


def fits_numpy(m: dict[str, Any]) -> bool:
    """NumPy has no array whose lengths multiply, zeros aside, to more than an address."""
    return all(math.prod(n or 1 for n in t["shape"]) < 1 << 63 for t in m.get("tensors", ()) if "region" not in t)


def golden() -> list[dict[str, Any]]:
    files = ("golden.json", "arena.json", "signature.json")
    return [entry for f in files for entry in json.loads(shared_file(f"ipc/testdata/golden/{f}").read_text())]


def join(m: Message) -> bytes:
    return b"".join(map(bytes, encode(m)))


def test_golden_bytes() -> None:
    entries = golden()
    assert {e["message"]["kind"] for e in entries} == set(KINDS)
    for entry in entries:
        data, m = bytes.fromhex(entry["hex"]), entry["message"]
        if not fits_numpy(m):
            with pytest.raises(BadMessage) as caught:
                decode(data)
            assert caught.value.reason == "bad_tensor", entry["name"]
            continue
        built = KINDS[m["kind"]](m)
        assert join(built).hex() == entry["hex"], entry["name"]
        decoded = decode(bytearray(data))
        assert same(decoded, built), entry["name"]
        assert join(decoded).hex() == entry["hex"], entry["name"]


def same(a: Any, b: Any) -> bool:
    """Compare field by field, not by the bytes they encode to."""
    if type(a) is not type(b):
        return False
    for name in a.__slots__:
        x, y = getattr(a, name), getattr(b, name)
        match name:
            case "body":
                equal = pack(value(x)) == pack(value(y))
            case "tensors":
                equal = list(x) == list(y) and all(same_tensor(x[k], y[k]) for k in x)
            case "error":
                equal = (x is None and y is None) or all(
                    getattr(x, f) == getattr(y, f) for f in ("code", "reason", "message", "details")
                )
                equal = equal and (x is None or (x.retry_after or 0) == (y.retry_after or 0))
            case _:
                equal = x == y
        if not equal:
            return False
    return True


def same_tensor(x: Any, y: Any) -> bool:
    if isinstance(x, Placed):
        return x == y
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


def value(body: object) -> object:
    return body.decode() if isinstance(body, Encoded) else body


@pytest.mark.parametrize(
    "body",
    [
        *(None, True, 0, 127, 128, 2**64 - 1, -1, -(2**63), 1.5, "", "ü", "x" * 70000, b"", b"\xff" * 300),
        *([], [1, [2, [None]]], {}, {"a": {"b": 1}}, {1: 2}, list(range(20)), "not \udcff utf-8"),
    ],
)
def test_bodies(body: object) -> None:
    m = decode(join(_codec.Request(1, "p", "a", body=body)))
    assert isinstance(m, _codec.Request)
    assert value(m.body) == body
    assert type(value(m.body)) is type(body)


def test_numpy_scalars_are_numbers() -> None:
    m = decode(join(_codec.Reply(1, body={"n": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True)})))
    assert isinstance(m, _codec.Reply)
    assert value(m.body) == {"n": 3, "f": 0.5, "b": True}


def test_arrays_do_not_belong_in_bodies() -> None:
    with pytest.raises(TypeError, match="tensors"):
        encode(_codec.Reply(1, body={"x": np.zeros(3)}))


def test_tensors_are_views() -> None:
    a = np.arange(12, dtype="int16").reshape(3, 4)
    data = bytearray(join(_codec.Request(1, "p", "a", tensors={"a": a, "scalar": np.float64(2.5), "list": [1.0, 2.0]})))
    m = decode(data)
    assert isinstance(m, _codec.Request)
    got = m.tensors["a"]
    assert isinstance(got, np.ndarray)
    assert got.flags.writeable
    assert not got.flags.owndata
    assert (got == a).all()
    data[-len(data) :] = bytes(len(data))
    assert (got == 0).all()  # it was the same memory


def test_tensors_are_not_copied_when_encoded() -> None:
    a = np.arange(1 << 16, dtype="float64")
    parts = encode(_codec.Request(1, "p", "a", tensors={"a": a}))
    assert any(isinstance(p, memoryview) and np.shares_memory(np.frombuffer(p, "uint8"), a) for p in parts)


@pytest.mark.parametrize(
    "a",
    [
        np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(10)[::3],
        np.arange(5, dtype=">i4"),
        np.array(3 + 4j),
        np.zeros((0, 3)),
        np.array([True, False]),
        np.array([1.5, -2], dtype=ml_dtypes.bfloat16),
    ],
)
def test_every_layout_arrives_in_c_order(a: np.ndarray) -> None:
    m = decode(join(_codec.Request(1, "p", "a", tensors={"a": a})))
    assert isinstance(m, _codec.Request)
    got = m.tensors["a"]
    assert isinstance(got, np.ndarray)
    assert got.dtype == a.dtype.newbyteorder("=")
    assert got.shape == a.shape
    assert (got == a).all()


def test_bfloat16_without_ml_dtypes_is_uint16(monkeypatch: pytest.MonkeyPatch) -> None:
    data = join(_codec.Request(1, "p", "a", tensors={"a": np.array([1.0], dtype=ml_dtypes.bfloat16)}))
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    _tensors._dtype.cache_clear()
    try:
        m = decode(data)
    finally:
        _tensors._dtype.cache_clear()
    assert isinstance(m, _codec.Request)
    got = m.tensors["a"]
    assert isinstance(got, np.ndarray)
    assert got.dtype == "uint16"
    assert got[0] == 0x3F80


@pytest.mark.parametrize("dtype", ["datetime64[s]", "U3", "object", "longdouble", "i4,i4"])
def test_dtypes_the_protocol_lacks(dtype: str) -> None:
    with pytest.raises(TypeError, match="cannot be sent"):
        encode(_codec.Request(1, "p", "a", tensors={"x": np.zeros(2, dtype=dtype)}))


def tensor(*fields: object) -> bytes:
    return msgpack.packb([1, 5, "p", "a", "", b"", 0, 1, {}, None, [list(fields)]])


@pytest.mark.parametrize(
    "fields",
    [
        ("x", "float32", [2], b"1234567"),
        ("x", "float32", [2**63, 2], b""),
        ("x", "float32", [2**32, 2**32], b""),
        ("x", "float32", [2**64 - 1, 2**64 - 1, 0], b""),
        ("x", "float33", [1], b"1234"),
        ("x", "object", [1], b"12345678"),
        ("x", "uint8", [1] * 100, b"1"),
        ("x", "uint8", [1], None),
        ("x", "uint8", [2], None, 1, 0, 1),
        ("x", "float32", [2**32, 2**32], None, 1, 0, 0),
    ],
)
def test_bad_tensors(fields: tuple[object, ...]) -> None:
    with pytest.raises(BadMessage) as caught:
        decode(tensor(*fields))
    assert (caught.value.reason, caught.value.kind, caught.value.id) == ("bad_tensor", 1, 5)


@pytest.mark.parametrize(
    "fields",
    [
        ("x", "uint8", [-1], b""),
        ("x", "uint8", [1.0], b"1"),
        ("x", "uint8", 1, b"1"),
        ("x", "uint8", {}, b"1"),
        ("x", "uint8", [1], "1"),
        ("x", "uint8", [1]),
        (1, "uint8", [1], b"1"),
        ("x", "uint8", [1], b"1", 1),
        ("x", "uint8", [1], None, -1, 0, 1),
        ("x", "uint8", [1], None, 1, "0", 1),
        ("x", "uint8", [1], None, 1, 0, 1.0),
    ],
)
def test_what_is_no_tensor(fields: tuple[object, ...]) -> None:
    with pytest.raises(BadMessage) as caught:
        decode(tensor(*fields))
    assert (caught.value.reason, caught.value.kind, caught.value.id) == ("bad_message", 1, 5)


def test_what_may_be_left_off_or_nil_or_added() -> None:
    expected = _codec.Request(9, "p")
    for positions in ([1, 9, "p"], [1, 9, "p"] + [None] * 8, [1, 9, "p"] + [None] * 10 + ["new", {}, [1]]):
        assert same(decode(msgpack.packb(positions)), expected)
    tensors = [["x", "uint8", [1], b"1", 0, None, 3, "newer"], ["y", "uint8", [0], None]]
    m = decode(msgpack.packb([1, 9, "p", "", "", b"", 0, 0, {}, None, tensors]))
    assert isinstance(m, _codec.Request)
    assert m.credit == 1
    assert list(m.tensors) == ["x", "y"]
    reply = decode(msgpack.packb([2, 9, 1, None, None, None, ["NOT_FOUND", "unknown_pool"]]))
    assert isinstance(reply, _codec.Reply)
    assert isinstance(reply.error, _codec.Error)
    assert (reply.error.code, reply.error.message, reply.error.details) == ("NOT_FOUND", "", {})
    assert decode(msgpack.packb([77, 9, "?"])) is None
    assert decode(msgpack.packb([11, 9])) is None
    assert same(decode(msgpack.packb([9, 9])), _codec.Attach(9))


def test_longer_forms_are_understood() -> None:
    # uint8, int64, str8, str32, bin32, map32, array32 where shorter ones would do
    data = "dd0000000b" + "cc01" + "d30000000000000005" + "d90170" + "db0000000161" + "d900" + "c600000000"
    data += "ce00000000" + "cd0001" + "df00000000" + "d00a" + "dc0000"
    m = decode(bytes.fromhex(data))
    assert isinstance(m, _codec.Request)
    assert same(m, _codec.Request(5, "p", "a", body=10))


@pytest.mark.parametrize(
    ("data", "kind", "id"),
    [
        (b"", 0, 0),
        (b"\xc0", 0, 0),
        (b"\x90", 0, 0),
        (b"\x91\x01", 0, 0),
        (b"\x92\xff\x01", 0, 0),
        (b"\x92\xc0\x01", 0, 0),
        (b"\x92\x01\xc0", 0, 0),
        (b"\x93\x01\x07\x01", 1, 7),  # a pool that is no string
        (b"\x93\x01\x07\xc1", 1, 7),
        (b"\x93\x01\x07\xa5ab", 1, 7),
        (b"\x93\x01\x07\xa1a\x00", 1, 7),  # something follows
        (b"\x93\x02\xcd\x01\x00\xff", 2, 256),
        (b"\xdd\xff\xff\xff\xff\x01\x07", 1, 7),
        (b"\x93\x01\x07\xdf\xff\xff\xff\xff", 1, 7),
        (msgpack.packb([1, 7, "p", "a", "", "not bin"]), 1, 7),
        (msgpack.packb([1, 7, "p", "a", "", b"", -1]), 1, 7),
        (msgpack.packb([1, 7, "p", "a", "", b"", True]), 1, 7),
        (msgpack.packb([1, 7, "p", "a", "", b"", 0, 1, []]), 1, 7),
        (msgpack.packb([1, 7, "p", "a", "", b"", 0, 1, {"a": 1}]), 1, 7),
        (msgpack.packb([1, 7, "p", "a", "", b"", 0, 1, {}, None, {}]), 1, 7),
        (msgpack.packb([2, 7, 1, {}, None, [], "error"]), 2, 7),
        (msgpack.packb([2, 7, 1, {}, None, [], [1]]), 2, 7),
        (msgpack.packb([5, 0, 1, 1, "", [["a", "b"]]]), 5, 0),
    ],
)
def test_malformed(data: bytes, kind: int, id: int) -> None:
    with pytest.raises(BadMessage) as caught:
        decode(data)
    assert (caught.value.kind, caught.value.id, caught.value.reason) == (kind, id, "bad_message")


def nested(depth: int, innermost: bytes) -> bytes:
    """A request whose body lies in as many arrays that its innermost value is in depth of them."""
    return b"\x9a\x01\x07\xa0\xa0\xa0\xc4\x00\x00\x01\x80" + b"\x91" * (depth - 1) + innermost


def test_depth() -> None:
    m = decode(nested(64, b"\x01"))
    assert isinstance(m, _codec.Request)
    assert value(m.body) is not None
    with pytest.raises(BadMessage, match="deeper than 64"):
        decode(nested(65, b"\x01"))


def test_every_cut_is_refused() -> None:
    for entry in golden():
        data = bytes.fromhex(entry["hex"])
        for end in {*range(min(len(data), 300)), len(data) - 1}:
            with pytest.raises(BadMessage):
                decode(data[:end])


def test_damage_never_does_more_than_raise() -> None:
    rng = random.Random(1)
    seeds = [bytes.fromhex(e["hex"][:400]) for e in golden()]
    for _ in range(20000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            m = decode(data)
        except BadMessage:
            continue
        body = getattr(m, "body", None)
        if isinstance(body, Encoded):
            with contextlib.suppress(ValueError):
                body.decode()
