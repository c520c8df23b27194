"""The ring in C against a model, the image it shares with the other implementations, and hostile peers."""

import gc
import json
import os
import random
import signal
import struct
import subprocess
import threading
import time
from collections import deque
from pathlib import Path

import pytest

from compile import CSRC, cc, sanitizers
from conftest import shared_file
from ringmaster._ring import Closed, ProtocolError, Segment
from segments import DATA, GEOMETRY_FORMAT, HEAD, ITEMS, S2W, SPACE, TAIL, W2S, Memory, crc32c, guard, need, pair

PATIENCE = 20.0  # seconds after which a test has failed


def content(size: int, message: int) -> bytes:
    return bytes((7 * i + message) % 256 for i in range(size))


class Model:
    """What a ring of single frames accepts: positions, the PAD before the end, and a queue."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tail = self.own = self.head = 0
        self.queue: deque[tuple[int, int, int]] = deque()  # message, the positions before and behind it

    def send(self, message: int, size: int) -> bool:
        offset = self.tail % self.capacity
        pad = self.capacity - offset if offset + need(size) > self.capacity else 0
        if self.tail + pad + need(size) - self.head > self.capacity:
            return False
        self.tail += pad + need(size)
        self.queue.append((message, self.tail - need(size), self.tail))
        return True

    def receive(self) -> int | None:
        if not self.queue:
            return None
        message, _, self.own = self.queue.popleft()
        self.head = self.own
        return message

    def peek(self) -> int | None:
        if not self.queue:
            return None
        message, begin, self.own = self.queue.popleft()
        for position in (begin, self.own):
            if position - self.head > self.capacity // 2:  # too much to leave it in the peer's way
                self.head = position
        return message


@pytest.mark.parametrize("seed", range(8))
def test_like_the_model(seed: int) -> None:
    rng = random.Random(seed)
    with pair() as (supervisor, worker, memory):
        model, sizes = Model(4096), {}
        for message in range(3000):
            if rng.random() < 0.55:
                size = sizes[message] = rng.choice((1, 15, 16, 17, 1008, rng.randrange(1, 1009)))
                whole = content(size, message)
                cut = rng.randrange(size + 1)
                assert supervisor.try_send(whole[:cut], whole[cut:]) == model.send(message, size)
            elif rng.random() < 0.1:
                model.head = rng.randrange(model.head, model.own + 1, 16)
                worker.settle(model.head)
            else:
                peeks = rng.random() < 0.7
                expected = model.peek() if peeks else model.receive()
                got = worker.peek(0) if peeks else worker.try_recv()
                assert got == (None if expected is None else content(sizes[expected], expected))
            assert memory.u64(S2W + TAIL) == model.tail
            if not model.queue:
                assert worker.try_recv() is None
            assert memory.u64(S2W + HEAD) == worker.read == model.head
            assert worker.received == model.own


@pytest.mark.parametrize("max_frame", [64, 1000, 0])
def test_long_messages_between_threads(max_frame: int) -> None:
    """Both directions at once, messages up to four times the ring, waits on both semaphores."""
    sizes = [1, 5000, 64, 65, 128, 16384, 1, 2, 3, 9999, 1008, 1009] * 20
    with pair(max_frame=max_frame) as (supervisor, worker, _):

        def echo() -> None:
            for _ in sizes:
                message = worker.recv(PATIENCE)
                assert message is not None
                worker.send(message)

        def feed() -> None:
            for i, size in enumerate(sizes):
                supervisor.send(content(size, i))

        threads = [threading.Thread(target=f) for f in (echo, feed)]
        for t in threads:
            t.start()
        for i, size in enumerate(sizes):
            assert supervisor.recv(PATIENCE) == content(size, i)
        for t in threads:
            t.join()


def test_many_senders_do_not_mix() -> None:
    with pair(max_frame=64) as (supervisor, worker, _):
        threads = [
            threading.Thread(target=lambda i=i: [supervisor.send(bytes([i]) * 1000) for _ in range(50)])
            for i in range(4)
        ]
        for t in threads:
            t.start()
        seen = [0] * 4
        for _ in range(200):
            message = worker.recv(PATIENCE)
            assert message is not None
            assert set(message) == {message[0]}
            assert len(message) == 1000
            seen[message[0]] += 1
        for t in threads:
            t.join()
        assert seen == [50] * 4


# ---- the image the implementations share ----


def golden() -> tuple[dict, bytes]:
    script = json.loads(shared_file("shm/testdata/golden_s2w.json").read_text())
    return script, shared_file("shm/testdata/golden_s2w.bin").read_bytes()


def play(script: dict, supervisor: Segment, worker: Segment) -> list[bytes]:
    """Carry out the steps; return the messages that were not received."""
    unread = []
    for step in script["steps"]:
        message = content(step["size"], step["message"])
        if step["op"] == "send":
            assert supervisor.try_send(message)
            unread.append(message)
        else:
            assert worker.try_recv() == message == unread.pop(0)
    return unread


def golden_pair(script: dict):
    g = script["geometry"]
    return pair(g["s2w_capacity"], g["w2s_capacity"], max_frame=g["max_frame"], incarnation=int(g["incarnation"], 16))


def test_golden_image_is_produced() -> None:
    script, image = golden()
    with golden_pair(script) as (supervisor, worker, memory):
        play(script, supervisor, worker)
        memory.put("I", 0x104, 0)  # the worker's pid
        mine = memory.bytes[:]
    assert mine[:DATA] == image[:DATA]
    for frame in script["unread_frames"]:
        at = DATA + frame["position"] % script["geometry"]["s2w_capacity"]
        assert mine[at : at + 16] == image[at : at + 16], frame
        assert struct.unpack_from("<IHHII", mine, at) == tuple(
            frame[k] for k in ("len", "type", "flags", "seq", "guard")
        )
        if frame["type"] == 1:
            assert mine[at : at + 16 + frame["len"]] == image[at : at + 16 + frame["len"]], frame
    w2s = DATA + script["geometry"]["s2w_capacity"]
    assert mine[w2s:] == image[w2s:]


def test_golden_image_is_understood() -> None:
    script, image = golden()
    with golden_pair(script) as (supervisor, worker, memory):
        unread = play(script, supervisor, worker)
        memory.bytes[S2W:] = bytes(len(image) - S2W)
        memory.bytes[S2W:] = image[S2W:]
        assert [bytes(worker.try_recv() or b"") for _ in unread] == unread
        assert worker.try_recv() is None


# ---- geometry ----

GEOMETRY = {
    "magic": b"RNGSHM\0\1",
    "version": 1,
    "header_bytes": 0x2000,
    "segment_bytes": 0x4000,
    "incarnation": 7,
    "pid": 0,
    "flags": 0,
    "max_frame": 1008,
    "s2w_offset": 0x2000,
    "s2w_capacity": 4096,
    "w2s_offset": 0x3000,
    "w2s_capacity": 4096,
}


def segment_file(tmp_path: Path, size: int = 0x4000, bad_crc: int = 0, **changes: object) -> int:
    header = struct.pack(GEOMETRY_FORMAT, *{**GEOMETRY, **changes}.values())
    path = tmp_path / "segment"
    path.write_bytes((header + struct.pack("<I", crc32c(header) ^ bad_crc)).ljust(size, b"\0"))
    return os.open(path, os.O_RDWR)


def open_file(fd: int) -> None:
    try:
        Segment(fd).close()
    finally:
        os.close(fd)


def test_right_geometry(tmp_path: Path) -> None:
    open_file(segment_file(tmp_path))
    open_file(segment_file(tmp_path, max_frame=64, incarnation=2**64 - 1, pid=4321))


@pytest.mark.parametrize(
    "changes",
    [
        {"magic": b"RNGSHM\0\2"},
        {"version": 2},
        {"version": 0},
        {"header_bytes": 0x1000},
        {"segment_bytes": 0x4001},
        {"segment_bytes": 0x5000},
        {"size": 0x3FFF},
        {"size": 0x4001},
        {"size": 0x8000},
        {"size": 84},
        {"incarnation": 0},
        {"flags": 1},
        {"max_frame": 63},
        {"max_frame": 1009},
        {"max_frame": 2**64 - 1},
        {"s2w_offset": 0x1000},
        {"s2w_offset": 0x3000},
        {"w2s_offset": 0x2000},
        {"s2w_capacity": 2048},
        {"s2w_capacity": 4095},
        {"s2w_capacity": 0},
        {"s2w_capacity": 1 << 31},
        {"s2w_capacity": 2**64 - 4096},
        {"w2s_capacity": 6144},
        {"w2s_capacity": 1 << 31},
        {"bad_crc": 1},
    ],
    ids=str,
)
def test_wrong_geometry(tmp_path: Path, changes: dict) -> None:
    with pytest.raises(ProtocolError):
        open_file(segment_file(tmp_path, **changes))


def test_create_refuses_the_same() -> None:
    for wrong in ({"s2w": 5000}, {"w2s": 2048}, {"s2w": 1 << 31}, {"incarnation": 0}, {"max_frame": 63}):
        with pytest.raises(OSError, match="Invalid argument"):
            Segment.create(**wrong)


def test_a_segment_is_sealed() -> None:
    fd = Segment.create()
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    os.close(fd)


# ---- hostile frames ----


def forge(memory: Memory, at: int, length: int, kind: int, flags: int, seq: int, **wrong: int) -> None:
    memory.put("IHHII", DATA + at, length, kind, flags, seq, guard(length, kind, flags, seq, 7) ^ wrong.get("guard", 0))


@pytest.mark.parametrize(
    ("frame", "tail"),
    [
        ((5, 1, 0, 0), 33),  # tail no multiple of 16
        ((5, 1, 0, 0), 4096 + 16),  # more than the ring holds
        ((5, 1, 0, 0), 2**64 - 16),  # tail behind head
        ((5, 1, 0, 1), 32),  # seq
        ((5, 0, 0, 0), 32),  # type
        ((5, 3, 0, 0), 32),
        ((17, 1, 0, 0), 32),  # longer than published
        ((2**32 - 1, 1, 0, 0), 32),
        ((2**32 - 1, 1, 0, 0), 4096),
        ((0, 1, 0, 0), 16),  # empty
        ((1009, 1, 0, 0), 4096),  # over max frame
        ((5, 1, 2, 0), 32),  # flags
        ((5, 1, 3, 0), 32),
        ((5, 1, 1, 0), 32),  # more to follow, but not full
        ((4080, 2, 1, 0), 4096),  # a PAD with flags
        ((100, 2, 0, 0), 4096),  # a PAD that ends early
        ((4080 + 16, 2, 0, 0), 4096),
    ],
)
def test_hostile_frames(frame: tuple[int, int, int, int], tail: int) -> None:
    with pair() as (_, worker, memory):
        forge(memory, 0, *frame)
        memory.put("Q", S2W + TAIL, tail)
        for _ in range(2):  # and it stays so
            with pytest.raises(ProtocolError, match="s2w: "):
                worker.recv(PATIENCE)
        assert memory.u64(S2W + HEAD) == 0


def test_wrong_guard() -> None:
    with pair() as (_, worker, memory):
        for bit in range(32):
            forge(memory, 0, 5, 1, 0, 0, guard=1 << bit)
        memory.put("Q", S2W + TAIL, 32)
        with pytest.raises(ProtocolError, match="guard"):
            worker.try_recv()


def test_a_frame_over_the_end_of_the_ring() -> None:
    with pair() as (supervisor, worker, memory):
        for _ in range(3):
            supervisor.send(bytes(1000))
            worker.recv()
        at = memory.u64(S2W + TAIL)
        supervisor.send(bytes(800))
        worker.recv()
        at = memory.u64(S2W + TAIL)
        assert 4096 - at < need(1000)
        forge(memory, at, 1000, 1, 0, 4)
        memory.put("Q", S2W + TAIL, at + need(1000))
        with pytest.raises(ProtocolError, match="crosses the end"):
            worker.recv(PATIENCE)


def test_a_message_over_the_limit() -> None:
    with pair(max_frame=64, max_message=100) as (_, worker, memory):
        forge(memory, 0, 64, 1, 1, 0)
        forge(memory, 80, 37, 1, 0, 1)
        memory.put("Q", S2W + TAIL, 80 + need(37))
        with pytest.raises(ProtocolError, match="longer than the limit"):
            worker.recv(PATIENCE)
    with pair(max_frame=64, max_message=100) as (supervisor, worker, _):
        supervisor.send(bytes(100))
        assert worker.recv(PATIENCE) == bytes(100)
        for size in (0, 101):
            with pytest.raises(ValueError, match="1 to 100"):
                supervisor.send(bytes(size))


@pytest.mark.parametrize("head", [4096 + 16, 8, 2**64 - 16, 2**64 - 4096])
def test_hostile_head(head: int) -> None:
    with pair() as (_, worker, memory):
        for _ in range(4):
            worker.send(bytes(1000))  # now it is full, and must look
        memory.put("Q", W2S + HEAD, head)
        for _ in range(2):
            with pytest.raises(ProtocolError, match="w2s: head"):
                worker.send(bytes(1000))


def test_a_pad_may_be_published_alone() -> None:
    with pair() as (_, worker, memory):
        forge(memory, 0, 4080, 2, 0, 0)
        memory.put("Q", S2W + TAIL, 4096)
        assert worker.try_recv() is None
        assert memory.u64(S2W + HEAD) == 4096
        forge(memory, 0, 3, 1, 0, 1)
        memory.bytes[DATA + 16 : DATA + 19] = b"abc"
        memory.put("Q", S2W + TAIL, 4096 + 32)
        assert worker.try_recv() == b"abc"


def test_without_python(tmp_path: Path) -> None:
    """ring.h is a C API of its own; sequence numbers wrap."""
    program = tmp_path / "standalone"
    cc(
        *sanitizers(tmp_path),
        "-pthread",
        "-o",
        program,
        Path(__file__).with_name("standalone.c"),
        CSRC / "ring.c",
        CSRC / "rights.c",
        CSRC / "segment.c",
    )
    subprocess.run([program], check=True, timeout=PATIENCE)


# ---- waiting ----


def until(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline


def sleeping(memory: Memory, word: int) -> None:
    until(lambda: memory.u32(word + 4) == 1)


def test_recv_waits_and_wakes() -> None:
    with pair() as (supervisor, worker, memory):
        got = []
        t = threading.Thread(target=lambda: got.append(worker.recv(PATIENCE)))
        t.start()
        sleeping(memory, S2W + ITEMS)
        supervisor.send(b"wake")
        t.join()
        assert got == [b"wake"]
        assert memory.u32(S2W + ITEMS + 4) == 0


@pytest.mark.parametrize("peeks", [False, True])  # what is unread is in nobody's way
def test_send_waits_for_space(peeks: bool) -> None:
    with pair() as (supervisor, worker, memory):
        get = worker.peek if peeks else worker.recv
        t = threading.Thread(target=lambda: [supervisor.send(content(1000, i)) for i in range(10)])
        t.start()
        sleeping(memory, S2W + SPACE)
        for i in range(10):
            assert get(PATIENCE) == content(1000, i)
        t.join()


def test_peek_and_settle() -> None:
    with pair(max_frame=64) as (supervisor, worker, memory):
        for message in (b"a", b"b", b"c", b"x" * 100):
            supervisor.send(message)
        assert worker.peek(0) == b"a"
        behind_a = worker.received
        assert worker.peek(None) == b"b"
        behind_b = worker.received
        assert worker.peek(0) == b"c"
        behind_c = worker.received
        assert (worker.read, memory.u64(S2W + HEAD)) == (0, 0)
        worker.settle(behind_b)
        assert memory.u64(S2W + HEAD) == worker.read == behind_b
        worker.settle(behind_a)  # is settled already
        worker.settle(behind_c + 16)  # has not been received
        assert memory.u64(S2W + HEAD) == behind_b
        assert worker.peek(0) == b"x" * 100  # several frames are read as they come
        assert memory.u64(S2W + HEAD) == memory.u64(S2W + TAIL)
        supervisor.send(b"d")
        supervisor.send(b"e")
        assert worker.peek(0) == b"d"
        assert worker.recv() == b"e"
        assert memory.u64(S2W + HEAD) == memory.u64(S2W + TAIL)
        assert worker.peek(0) is None
        assert worker.peek(0.01) is None
        supervisor.send(b"f")
        assert worker.peek(0) == b"f"
        worker.settle(None)
        worker.settle(None)
        assert memory.u64(S2W + HEAD) == worker.read == worker.received == memory.u64(S2W + TAIL)


def test_timeout() -> None:
    with pair() as (_, worker, _):
        begin = time.monotonic()
        assert worker.recv(0.02) is None
        assert time.monotonic() - begin >= 0.02
        assert worker.recv(0) is None
        assert worker.recv(-1) is None


def test_a_timeout_keeps_the_beginning_of_a_message() -> None:
    with pair(max_frame=64) as (_, worker, memory):
        forge(memory, 0, 64, 1, 1, 0)
        memory.put("Q", S2W + TAIL, 80)
        assert worker.recv(0.01) is None
        assert memory.u64(S2W + HEAD) == 80
        forge(memory, 80, 1, 1, 0, 1)
        memory.put("Q", S2W + TAIL, 80 + 32)
        message = worker.recv(PATIENCE)
        assert message is not None
        assert len(message) == 65


def test_shutdown_ends_every_wait() -> None:
    with pair() as (supervisor, worker, memory):
        while supervisor.try_send(bytes(1000)):
            pass
        caught: list[type] = []

        def wait(f) -> None:
            try:
                f()
            except Closed as e:
                caught.append(type(e))

        threads = [
            threading.Thread(target=wait, args=(f,)) for f in (lambda: supervisor.send(bytes(1000)), supervisor.recv)
        ]
        for t in threads:
            t.start()
        sleeping(memory, S2W + SPACE)
        sleeping(memory, W2S + ITEMS)
        supervisor.shutdown()
        for t in threads:
            t.join()
        assert caught == [Closed, Closed]
        with pytest.raises(Closed):
            supervisor.try_recv()
        assert worker.try_recv() == bytes(1000)  # the peer notices nothing


def test_close_waits_for_who_is_inside() -> None:
    def wait(worker: Segment) -> None:
        with pytest.raises(Closed):
            worker.recv()

    for _ in range(50):
        with pair() as (supervisor, worker, memory):
            t = threading.Thread(target=wait, args=(worker,))
            t.start()
            sleeping(memory, S2W + ITEMS)
            worker.close()
            t.join()
            for f in (worker.recv, worker.try_recv, worker.nudge, worker.shutdown, lambda w=worker: w.send(b"x")):
                with pytest.raises(Closed):
                    f()
            worker.close()
            supervisor.send(b"x")


def test_nudge() -> None:
    with pair() as (supervisor, worker, memory):
        worker.nudge()  # before the wait
        assert worker.recv() is None
        got = []
        t = threading.Thread(target=lambda: got.append(worker.recv()))
        t.start()
        sleeping(memory, S2W + ITEMS)
        worker.nudge()  # in the middle of it
        t.join()
        assert got == [None]
        worker.nudge()
        supervisor.send(b"x")
        assert worker.recv() == b"x"  # what is there comes first
        assert worker.recv() is None


def test_signals_are_handled_while_waiting() -> None:
    class Raised(Exception):
        pass

    def handler(_signal: int, _frame: object) -> None:
        raise Raised

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pair() as (supervisor, worker, memory):
            main = threading.get_ident()

            def alarm() -> None:
                sleeping(memory, S2W + ITEMS)
                signal.pthread_kill(main, signal.SIGUSR1)

            t = threading.Thread(target=alarm)
            t.start()
            with pytest.raises(Raised):
                worker.recv(PATIENCE)
            t.join()
            supervisor.send(b"still usable")
            assert worker.recv(PATIENCE) == b"still usable"
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_waiting_releases_the_gil() -> None:
    with pair() as (supervisor, worker, memory):
        t = threading.Thread(target=worker.recv)
        t.start()
        sleeping(memory, S2W + ITEMS)  # this loop runs because it does
        supervisor.send(b"x")
        t.join()


def test_a_fork_cannot_use_its_parents_segment() -> None:
    with pair() as (supervisor, worker, _):
        supervisor.send(b"for the parent")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                worker.try_recv()
            except RuntimeError:
                status = 0
            finally:
                del worker, supervisor
                gc.collect()
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert worker.try_recv() == b"for the parent"


def test_arguments() -> None:
    with pytest.raises(ValueError, match="role"):
        Segment(0, "boss")
    with pytest.raises(OSError, match="descriptor"):
        Segment(-1)
    with pair() as (supervisor, _, _):
        with pytest.raises(TypeError):
            supervisor.send("text")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            supervisor.recv(1, 2)  # type: ignore[call-arg]
        supervisor.send(*[b"x"] * 100)  # more buffers than are held without allocation
