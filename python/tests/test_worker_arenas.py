"""A real worker that is told of arenas, driven from the supervisor's side: docs/protocol.md, section 11."""

import os
import signal
import socket
import time

import numpy as np
import pytest

from memfd import SEALS, arena, mapped, mappings
from ringmaster._codec import Drain, Reply, Request
from ringmaster._tensors import Placed, Slot
from supervisor import PATIENCE, Worker, body_of
from test_worker import CONCURRENCIES, until

SIZE = 1 << 16


def placed(dtype: str, shape: tuple[int, ...], offset: int = 0, region: int = 1) -> Placed:
    return Placed(dtype, shape, region, offset, int(np.prod(shape)) * np.dtype(dtype).itemsize)


def resources(w: Worker) -> dict[str, int]:
    found: dict[str, int] = body_of(w.call("resources"))
    return found


def test_hello_says_so() -> None:
    with Worker("arenas.py") as w:
        assert w.start().limits == {"ahead": 8, "arena": 1}


@CONCURRENCIES
def test_a_tensor_is_a_view_and_an_answer_is_written_in_place(concurrency: int) -> None:
    with mapped(SIZE) as (fd, memory), Worker("arenas.py", concurrency=concurrency) as w:
        w.start()
        w.attach(1, fd, SIZE)
        x = np.frombuffer(memory, "float32", 100, 128)
        x[:] = 1.5
        facts = body_of(w.call("facts", tensors={"x": placed("float32", (10, 10), 128), "inline": np.ones(3)}))
        assert facts["x"] == {"arena": True, "writeable": False, "aligned": True, "dtype": "float32", "sum": 150.0}
        assert facts["inline"]["arena"] is False
        assert facts["inline"]["writeable"] is True
        x[0] = 0
        assert body_of(w.call("facts", tensors={"x": placed("float32", (100,), 128)}))["x"]["sum"] == 148.5
        for action in ("double", "double_by_copy"):
            y = np.frombuffer(memory, "float32", 100, 4096)
            y[:] = 0
            reply = w.call(action, tensors={"x": placed("float32", (100,), 128)}, outputs={"y": Slot(1, 4096, 500)})
            assert reply.tensors == {"y": Placed("float32", (100,), 1, 4096, 400)}
            assert (y == x * 2).all()
        del x, y


@pytest.mark.parametrize("slot", [Slot(1, 4096, 399), None])
def test_an_answer_that_has_no_slot_or_no_room_travels(slot: Slot | None) -> None:
    with mapped(SIZE) as (fd, memory), Worker("arenas.py") as w:
        w.start()
        w.attach(1, fd, SIZE)
        memory[:400] = np.full(100, 3, "int32").tobytes()
        for action in ("double", "double_by_copy"):
            outputs = {"y": slot} if slot is not None else {}
            reply = w.call(action, tensors={"x": placed("int32", (100,))}, outputs=outputs)
            y = reply.tensors["y"]
            assert isinstance(y, np.ndarray)
            assert (y == 6).all()
        assert memory[400:] == bytes(SIZE - 400)


def test_inputs_that_are_returned_do_not_name_their_memory() -> None:
    with mapped(SIZE) as (fd, memory), Worker("arenas.py") as w:
        w.start()
        w.attach(1, fd, SIZE)
        memory[:4] = b"abcd"
        tensors = {"x": placed("uint8", (4,))}
        reply = w.call("echo", tensors=tensors)
        assert isinstance(reply.tensors["x"], np.ndarray)
        assert reply.tensors["x"].tobytes() == b"abcd"
        reply = w.call("echo", tensors=tensors, outputs={"x": Slot(1, 64, 4)})
        assert reply.tensors == {"x": Placed("uint8", (4,), 1, 64, 4)}
        assert memory[64:68] == b"abcd"


def test_every_layout_is_copied_into_its_slot() -> None:
    with mapped(SIZE) as (fd, memory), Worker("arenas.py") as w:
        w.start()
        w.attach(1, fd, SIZE)
        for value in (np.float64(2.5), np.zeros((3, 0)), np.arange(6, dtype=">i4").reshape(2, 3).T, [True, False]):
            reply = w.call("echo", tensors={"x": value}, outputs={"x": Slot(1, 0, 1024)})
            t, a = reply.tensors["x"], np.asarray(value)
            if a.size == 0:
                assert isinstance(t, np.ndarray)
                assert t.shape == a.shape
                continue
            assert isinstance(t, Placed)
            assert (np.ndarray(t.shape, t.dtype, memory) == a).all()


def test_of_a_stream_only_what_is_written_there_is_named_once() -> None:
    with mapped(SIZE) as (fd, _), Worker("arenas.py") as w:
        w.start()
        w.attach(1, fd, SIZE)
        for action, named in (("chunks", [False] * 3), ("twice", [True, False])):
            w.request(action, credit=9, outputs={"y": Slot(1, 0, 4000)})
            for each in named:
                assert isinstance(w.expect(Reply).tensors["y"], Placed) == each
            assert w.expect(Reply).end


@CONCURRENCIES
@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"tensors": {"x": placed("uint8", (4,), region=2)}}, "bad_region"),
        ({"tensors": {"x": placed("uint8", (4,), SIZE)}}, "bad_region"),
        ({"tensors": {"x": placed("uint8", (SIZE,), 64)}}, "bad_region"),
        ({"tensors": {"x": placed("uint8", (4,), 1)}}, "bad_region"),
        ({"tensors": {"x": placed("uint8", (4,), (1 << 64) - 64)}}, "bad_region"),
        ({"tensors": {"x": Placed("uint8", (0, 1 << 63), 1, 0, 0)}}, "bad_tensor"),
        ({"tensors": {"x": placed("uint8", (1,) * 100)}}, "bad_tensor"),
        ({"outputs": {"y": Slot(2, 0, 4)}}, "bad_region"),
        ({"outputs": {"y": Slot(1, SIZE - 64, 65)}}, "bad_region"),
        ({"outputs": {"y": Slot(1, 32, 4)}}, "bad_region"),
    ],
)
def test_what_is_not_there_is_refused(what: dict, reason: str, concurrency: int) -> None:
    with Worker("arenas.py", concurrency=concurrency) as w:
        w.start()
        w.attach(1, arena(SIZE), SIZE)
        reply = w.call("facts", **what)
        assert reply.error is not None
        assert (reply.error.code, reply.error.reason) == ("INVALID_ARGUMENT", reason)
        assert body_of(w.call("facts", tensors={"x": placed("uint8", (4,))}))["x"]["arena"]


@pytest.mark.parametrize("wrong", ["size", "seals", "file", "none", "junk"])
def test_a_region_that_cannot_be_mapped_fails_its_requests(wrong: str) -> None:
    with Worker("arenas.py") as w:
        w.start()
        before = resources(w)
        match wrong:
            case "size":
                w.attach(1, arena(SIZE), SIZE + 4096)
            case "seals":
                w.attach(1, arena(SIZE, SEALS & ~2), SIZE)
            case "file":
                w.attach(1, os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC), SIZE)
            case "none":
                w.lifeline.send(b"\x94\x09\x00\x04\x01")
            case "junk":
                w.lifeline.send(b"\xc1 no message")
                w.lifeline.send(b"\x93\x4d\x00\x01")  # of a kind to come
                w.lifeline.send(bytes(5000))
        reply = w.call("facts", tensors={"x": placed("uint8", (4,))})
        assert reply.error is not None
        assert (reply.error.code, reply.error.reason) == ("INVALID_ARGUMENT", "bad_region")
        assert resources(w) == before
        assert "Traceback" not in w.log()


@CONCURRENCIES
def test_detached_regions_are_unmapped_by_an_idle_worker(concurrency: int) -> None:
    with Worker("arenas.py", concurrency=concurrency) as w:
        w.start()
        for region in (1, 2, 3):
            w.attach(region, arena(SIZE), SIZE)
        until(lambda: len(mappings(w.process.pid)) == 3)  # without a request that names them
        for region in (3, 1, 9):
            w.detach(region)
        until(lambda: len(mappings(w.process.pid)) == 1)
        assert body_of(w.call("facts", tensors={"x": placed("uint8", (4,), region=2)}))["x"]["arena"]
        assert w.call("facts", tensors={"x": placed("uint8", (4,), region=1)}).error is not None


@CONCURRENCIES
def test_an_idle_worker_keeps_nothing_of_the_last_request(concurrency: int) -> None:
    with Worker("arenas.py", concurrency=concurrency) as w:
        w.start()
        w.attach(1, arena(SIZE), SIZE)
        outputs = {"y": Slot(1, 4096, 400)}
        for action in ("facts", "double", "no such action"):
            w.call(action, tensors={"x": placed("float32", (100,))}, outputs=outputs)
        w.detach(1)
        until(lambda: not mappings(w.process.pid))


def test_a_worker_that_is_never_idle_unmaps_too() -> None:
    with Worker("arenas.py") as w:
        w.start()
        w.attach(1, arena(SIZE), SIZE)
        w.call("facts", tensors={"x": placed("uint8", (4,))})
        for _ in range(50):
            w.request("resources")
        w.detach(1)
        deadline = time.monotonic() + PATIENCE
        while body_of(w.expect(Reply))["maps"] > 0:
            w.request("resources")
            assert time.monotonic() < deadline


def test_a_busy_worker_takes_packets_and_looks_at_them_later() -> None:
    with Worker("arenas.py") as w, mapped(SIZE) as (fd, memory):
        w.start()
        w.attach(1, fd, SIZE)
        id = w.request("see", tensors={"x": placed("uint8", (4,))})
        w.lifeline.setblocking(False)
        sent, deadline = 0, time.monotonic() + PATIENCE
        while sent < 2000:  # more than a socket holds
            try:
                w.attach(10, arena(4096), 4096)
                w.detach(10)
                sent += 1
            except BlockingIOError:
                assert time.monotonic() < deadline
        memory[0] = 7
        assert w.expect(Reply).id == id
        assert resources(w)["maps"] == 1


def test_many_attached_and_detached_leave_nothing() -> None:
    with Worker("arenas.py") as w:
        w.start()
        tensors = {"x": placed("uint8", (4,), region=1)}
        w.attach(1, arena(SIZE), SIZE)
        w.call("facts", tensors=tensors)
        before = resources(w)
        for region in range(2, 200):
            w.attach(region, arena(SIZE), SIZE)
            assert body_of(w.call("facts", tensors={"x": placed("uint8", (4,), region=region)}))["x"]["arena"]
            w.detach(region)
        until(lambda: resources(w) == before)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_the_supervisor_is_gone_while_a_handler_holds_the_gil_and_packets_lie_there(concurrency: int) -> None:
    with Worker("arenas.py", concurrency=concurrency) as w:
        w.start()
        w.request("hold_the_gil")
        for region in range(1, 20):
            w.attach(region, arena(SIZE), SIZE)
        time_of_end = time.monotonic()
        w.lifeline.shutdown(socket.SHUT_RDWR)
        assert w.wait() == 1
        assert time.monotonic() - time_of_end < PATIENCE / 4


def test_a_batch_has_tensors_in_arenas() -> None:
    with mapped(SIZE) as (fd, memory), Worker("arenas.py") as w:
        w.start()
        w.attach(1, fd, SIZE)
        memory[:4] = b"\x01\x02\x03\x04"
        for id, slot in ((1, Slot(1, 128, 4)), (2, Slot(1, 192, 4))):
            outputs = {"y": slot}
            w.send(Request(id, "p", "rows", tensors={"x": placed("uint8", (4,))}, held=True, outputs=outputs))
        w.segment.send(b"\x93\x0c\x00\x92\x01\x02")
        assert {w.expect(Reply).tensors["y"] for _ in range(2)} == {
            Placed("uint8", (4,), 1, 128, 4),
            Placed("uint8", (4,), 1, 192, 4),
        }
        assert memory[128:132] == memory[192:196] == b"\x02\x03\x04\x05"


def test_sigterm_while_regions_are_mapped() -> None:
    with Worker("arenas.py") as w:
        w.start()
        w.attach(1, arena(SIZE), SIZE)
        w.call("facts", tensors={"x": placed("uint8", (4,))})
        w.process.send_signal(signal.SIGTERM)
        assert w.wait() == 0


# ---- pinned for CUDA, which is not here ----


@pytest.mark.parametrize("pin", ["1", "0"])
def test_without_cuda_it_is_said_once(pin: str) -> None:
    with Worker("arenas.py", env={"RINGMASTER_PIN": pin}) as w:
        w.start()
        for region in (1, 2):
            w.attach(region, arena(SIZE), SIZE)
            assert body_of(w.call("facts", tensors={"x": placed("uint8", (4,), region=region)}))["x"]["arena"]
            w.detach(region)
        w.send(Drain())
        assert w.wait() == 0
        if "pinned" not in w.log() and pin == "1":
            pytest.skip("there is a GPU")
        assert w.log().count("arenas are not pinned") == int(pin)
