"""Several requests in one call: real worker processes, driven from the supervisor's side, and the batch itself."""

from typing import Any

import numpy as np
import pytest

import ringmaster as rm
from ringmaster import _codec
from ringmaster._batch import Unequal
from ringmaster._codec import BATCHABLE, IDEMPOTENT, BadMessage, Batch, Drain, Ping, Reply, decode, encode
from supervisor import Worker, body_of

CONCURRENCIES = pytest.mark.parametrize("concurrency", [1, 2])


def x(value: float, n: int = 4, dtype: str = "float32") -> dict[str, Any]:
    return {"x": np.full(n, value, dtype)}


def send_batch(w: Worker, *requests: tuple[object, dict[str, Any]]) -> list[int]:
    """Send requests for embed that are one call, and return their ids."""
    ids = [w.request("embed", body, tensors=tensors, held=True) for body, tensors in requests]
    w.send(Batch(ids))
    return ids


def ends(w: Worker, ids: list[int]) -> list[Reply]:
    """Return the END of each, in the order of ids."""
    replies = {}
    for _ in ids:
        r = w.expect(Reply)
        assert r.end
        replies[r.id] = r
    assert sorted(replies) == sorted(ids)
    return [replies[id] for id in ids]


def runs(w: Worker) -> list[list[int]]:
    return body_of(w.call("runs"))


@CONCURRENCIES
def test_one_call_for_several_requests(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        assert dict(w.start().actions)["embed"] == BATCHABLE | IDEMPOTENT
        ids = send_batch(w, (None, x(1)), (None, x(2)), (None, x(3)))
        for i, reply in enumerate(ends(w, ids)):
            assert body_of(reply) == {"mean": i + 1, "of": 3}
            assert reply.tensors["row"].tolist() == [i + 1] * 4
        assert runs(w) == [ids]


@CONCURRENCIES
def test_a_request_that_comes_alone_is_a_batch_of_one(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        assert body_of(w.call("embed", tensors=x(5))) == {"mean": 5, "of": 1}


@CONCURRENCIES
def test_errors_are_the_requests_own(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        ids = send_batch(w, (None, x(1)), ("refuse", x(2)), ("fail", x(3)), ("unsendable", x(4)), (None, x(5)))
        good, refused, failed, unsendable, last = ends(w, ids)
        assert body_of(good) == {"mean": 1, "of": 5}
        assert body_of(last) == {"mean": 5, "of": 5}
        assert refused.error is not None
        assert (refused.error.code, refused.error.message) == ("INVALID_ARGUMENT", "not you")
        for reply, kind in (failed, "ValueError"), (unsendable, "TypeError"):
            assert reply.error is not None
            assert (reply.error.code, reply.error.reason) == ("INTERNAL", "handler")
            assert reply.error.details["type"] == kind


@pytest.mark.parametrize(
    ("body", "says"),
    [("raise", "all of you"), ("few", "1 results for a batch of 3"), ("a tuple", "a tuple for a batch")],
)
def test_errors_of_all(body: str, says: str) -> None:
    with Worker("zoo.py") as w:
        w.start()
        for reply in ends(w, send_batch(w, (None, x(1)), (body, x(2)), (None, x(3)))):
            assert reply.error is not None
            assert (reply.error.code, reply.error.reason) == ("INTERNAL", "handler")
            assert says in reply.error.message
        assert body_of(w.call("embed", tensors=x(5))) == {"mean": 5, "of": 1}
        assert says in w.log()


def test_unlike_tensors_run_in_groups() -> None:
    with Worker("zoo.py") as w:
        w.start()
        ids = send_batch(
            w, (None, x(1)), (None, x(2, 8)), (None, {}), (None, x(3)), (None, x(4, 4, "int64")), (None, x(5, 8))
        )
        replies = ends(w, ids)
        lacking = replies.pop(2)
        assert [body_of(r) for r in replies] == [
            {"mean": mean, "of": of} for mean, of in ((1, 2), (2, 2), (3, 2), (4, 1), (5, 2))
        ]
        assert lacking.error is not None
        assert lacking.error.code == "INVALID_ARGUMENT"
        assert "no tensor 'x'" in lacking.error.message
        assert runs(w)[0] == ids


@CONCURRENCIES
def test_a_held_request_that_is_cancelled_ends_at_once(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        ids = [w.request("embed", tensors=x(i), held=True) for i in range(3)]
        w.cancel(ids[0])
        w.cancel(ids[1], "deadline")
        for id, code in zip(ids, ("CANCELLED", "DEADLINE_EXCEEDED"), strict=False):
            reply = w.expect(Reply)
            assert reply.id == id
            assert reply.error is not None
            assert reply.error.code == code
        w.send(Batch(ids))
        reply = w.expect(Reply)
        assert reply.id == ids[2]
        assert body_of(reply) == {"mean": 2, "of": 1}


@CONCURRENCIES
def test_a_batch_is_cancelled_by_its_last_request(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        ids = send_batch(w, (None, x(1)), ("wait", x(2)))
        w.cancel(ids[0])
        w.send(Ping(9))
        early = []  # the END of the first, if the worker was late to begin with the batch
        while (m := w.receive()) != Ping(9, answer=True):
            early.append(m)
        w.cancel(ids[1])
        for reply in early + ends(w, ids[len(early) :]):
            assert isinstance(reply, Reply)
            assert reply.error is not None
            assert reply.error.code == "CANCELLED"


@CONCURRENCIES
def test_expired_requests_are_left_out(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        ids = [w.request("embed", tensors=x(1), held=True, timeout_us=1), w.request("embed", tensors=x(2), held=True)]
        w.send(Batch(ids))
        expired, good = ends(w, ids)
        assert expired.error is not None
        assert expired.error.code == "DEADLINE_EXCEEDED"
        assert body_of(good) == {"mean": 2, "of": 1}


@CONCURRENCIES
def test_batches_of_nothing(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        held = w.request("embed", tensors=x(1), held=True)
        w.send(Batch())
        w.send(Batch([0, 7, 1 << 63]))
        w.send(Batch([held, held, 99]))
        assert body_of(w.expect(Reply)) == {"mean": 1, "of": 1}
        w.send(Batch([held]))  # it has ended
        w.send(Ping(9))
        assert w.expect(Ping) == Ping(9, answer=True)


@CONCURRENCIES
def test_actions_that_take_one_request_get_one_at_a_time(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        ids = [w.request("echo", i, held=True) for i in range(2)] + [w.request("embed", tensors=x(1), held=True)]
        w.send(Batch(ids))
        assert [body_of(r) for r in ends(w, ids)] == [0, 1, {"mean": 1, "of": 1}]


@CONCURRENCIES
def test_drain_waits_for_the_batch(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        held = w.request("embed", tensors=x(1), held=True)
        w.send(Drain())
        w.send(Batch([held]))
        assert body_of(w.expect(Reply)) == {"mean": 1, "of": 1}
        assert w.wait() == 0


@pytest.mark.parametrize("tail", ["05", "91a178", "91ff", "dc0401" + "01" * 1025])
def test_hostile_batches(tail: str) -> None:
    data = bytes.fromhex("930c00" + tail)
    with pytest.raises(BadMessage):
        decode(data)
    with Worker("zoo.py") as w:
        w.start()
        w.segment.send(data)
        assert w.wait() == 70
        assert "malformed" in w.log()


def test_batches_that_a_later_version_may_send() -> None:
    assert decode(bytes.fromhex("940c0092c00101")) == Batch([0, 1])
    assert decode(bytes.fromhex("930c00c0")) == Batch([])
    assert decode(bytes.fromhex("920c07")) == Batch([])


class Idle:
    def look(self) -> None: ...
    def wait(self, request: rm.Request) -> None: ...


def batch_of(*tensors: dict[str, Any]) -> rm.Batch:
    requests = []
    for i, t in enumerate(tensors):
        m = decode(b"".join(map(bytes, encode(_codec.Request(i + 1, "p", "a", body=i, tensors=t)))))
        assert isinstance(m, _codec.Request)
        request = rm.Request.of(m, m.tensors, {})
        request._ring = Idle()
        requests.append(request)
    return rm.Batch(requests)


def test_stack() -> None:
    batch = batch_of(*(x(i) for i in range(3)))
    assert len(batch) == 3
    assert batch.bodies == [0, 1, 2]
    assert [r.id for r in batch[1:]] == [2, 3]
    assert batch.stack("x").tolist() == [[i] * 4 for i in range(3)]
    assert batch.stack("x").dtype == np.float32
    assert batch_of({"x": np.float64(1)}, {"x": np.float64(2)}).stack("x").shape == (2,)  # scalars
    one = batch_of(x(1))
    assert np.shares_memory(one.stack("x"), one[0].tensors["x"])
    with pytest.raises(Unequal, match=r"float32\[4\], float32\[5\], none") as caught:
        batch_of(x(1), x(2, 5), {}).stack("x")
    assert [len(g) for g in caught.value.groups] == [1, 1, 1]
    with pytest.raises(rm.InvalidArgument, match="no tensor 'y' in the request; it has 'x'"):
        batch.stack("y")


def test_streams_are_no_batches() -> None:
    with pytest.raises(TypeError, match="stream=True or batch=True"):
        rm.action("both", stream=True, batch=True)  # type: ignore[call-overload]
