"""Peers that are not woken in the futex: a client has the socket beside its segment, a worker an eventfd."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ringmaster._eventfd import no_eventfd
from ringmaster._ring import Closed, ProtocolError, Segment
from segments import HEAD, ITEMS, S2W, SPACE, W2S, Memory, crc32c

COUNT, WAITERS = 0, 4


def give_bell(memory: Memory, flags: int = 1) -> None:
    memory.put("I", 0x24, flags)
    memory.put("I", 0x50, crc32c(memory.bytes[:0x50]))


@contextmanager
def rings() -> Iterator[tuple[Segment, Segment, Memory, socket.socket]]:
    """Yield a server's side that knows futexes only, a client's, the bytes, and the server's end of the line."""
    fd = Segment.create(s2w=4096, w2s=4096)
    memory = Memory(fd)
    server = Segment(fd, "supervisor", 1 << 20)
    give_bell(memory)
    line, bell = socket.socketpair()
    client = Segment(fd, "worker", 1 << 20, bell.fileno())
    os.close(fd)
    line.setblocking(False)
    try:
        yield server, client, memory, line
    finally:
        server.close()
        client.close()
        line.close()
        bell.close()
        memory.bytes.close()


def rung(line: socket.socket) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return line.recv(100)
    return b""


def test_a_segment_has_a_bell_or_not() -> None:
    fd = Segment.create()
    memory = Memory(fd)
    line, bell = socket.socketpair()
    try:
        with pytest.raises(ProtocolError, match="flags"):
            Segment(fd, "worker", 1 << 20, bell.fileno())
        give_bell(memory)
        with pytest.raises(ProtocolError, match="flags"):
            Segment(fd, "worker", 1 << 20)
        with pytest.raises(ValueError, match="bell"):
            Segment(fd, "supervisor", 1 << 20, bell.fileno())
    finally:
        os.close(fd)
        memory.bytes.close()
        line.close()
        bell.close()


def test_whoever_waits_is_woken_by_the_bell() -> None:
    with rings() as (server, client, memory, line):
        got = list[object]()
        waiter = threading.Thread(target=lambda: got.append(client.recv()))
        waiter.start()
        while memory.u32(S2W + ITEMS + WAITERS) == 0:
            pass
        line.send(b"\x01")  # in vain: it looks, and sleeps again
        server.send(b"hello")
        line.send(b"\xff")
        waiter.join()
        assert got == [b"hello"]


def test_the_peer_is_rung_at_once_for_a_burst() -> None:
    with rings() as (server, client, memory, line):
        client.send(b"nobody waits")
        assert rung(line) == b""
        memory.put("I", W2S + ITEMS + WAITERS, 1)
        client.send(b"one")
        client.send(b"two")
        assert rung(line) == b"\x01"
        memory.put("I", W2S + ITEMS + COUNT, 0)  # it has looked
        client.send(b"three")
        assert rung(line) == b"\x01"
        memory.put("I", S2W + SPACE + WAITERS, 1)
        server.send(b"for space")
        assert client.recv() == b"for space"
        assert rung(line) == b"\x02"


def test_a_supervisor_is_woken_by_its_eventfd() -> None:
    fd = Segment.create(s2w=4096, w2s=4096)
    memory = Memory(fd)
    supervisor = Segment(fd, "supervisor", 1 << 20)
    event = os.eventfd(0, os.EFD_NONBLOCK)
    assert not Segment(fd, "worker", 1 << 20, eventfd=event).has_eventfd
    give_bell(memory, flags=2)
    with pytest.raises(ProtocolError, match="flags"):
        Segment(fd, "worker", 1 << 20)
    with pytest.raises(ValueError, match="eventfd"):
        Segment(fd, "supervisor", 1 << 20, eventfd=event)
    copied = os.dup(event)
    worker = Segment(fd, "worker", 1 << 20, eventfd=copied)
    os.close(copied)
    assert worker.has_eventfd
    try:
        worker.send(b"nobody waits")
        memory.put("I", W2S + ITEMS + WAITERS, 1)
        worker.send(b"one")
        worker.send(b"two")
        assert os.eventfd_read(event) == 1
        memory.put("I", W2S + ITEMS + COUNT, 0)  # it has looked
        worker.send(b"three")
        assert os.eventfd_read(event) == 1
        memory.put("I", S2W + SPACE + WAITERS, 1)
        supervisor.send(b"for space")
        assert worker.recv() == b"for space"
        with pytest.raises(BlockingIOError):
            os.eventfd_read(event)  # whoever waits for space does so in the futex
        assert memory.u32(S2W + SPACE + COUNT) == 1
    finally:
        supervisor.close()
        worker.close()
        os.close(fd)
        os.close(event)
        memory.bytes.close()


def test_a_client_with_an_eventfd_rings_for_space_alone() -> None:
    fd = Segment.create(s2w=4096, w2s=4096)
    memory = Memory(fd)
    server = Segment(fd, "supervisor", 1 << 20)
    event = os.eventfd(0, os.EFD_NONBLOCK)
    give_bell(memory, flags=3)
    line, bell = socket.socketpair()
    line.setblocking(False)
    with pytest.raises(ProtocolError, match="flags"):
        Segment(fd, "worker", 1 << 20, bell.fileno())
    client = Segment(fd, "worker", 1 << 20, bell.fileno(), event)
    try:
        memory.put("I", W2S + ITEMS + WAITERS, 1)
        client.send(b"one")
        assert os.eventfd_read(event) == 1
        memory.put("I", S2W + SPACE + WAITERS, 1)
        server.send(b"for space")
        assert client.recv() == b"for space"
        assert rung(line) == b"\x02"
        with pytest.raises(BlockingIOError):
            os.eventfd_read(event)
    finally:
        client.close()
        server.close()
        line.close()
        bell.close()
        os.close(fd)
        os.close(event)
        memory.bytes.close()


@pytest.mark.parametrize("there", [True, False])
def test_an_eventfd_is_known_without_proc(there: bool, tmp_path: Path) -> None:
    links = "/proc/self/fd" if there else str(tmp_path)
    event = os.eventfd(0)
    reading, writing = os.pipe()
    try:
        assert no_eventfd(event, links) == ""
        for other in (writing, 1 << 20):
            assert no_eventfd(other, links) != ""
    finally:
        for fd in (event, reading, writing):
            os.close(fd)


def test_a_line_that_is_full_blocks_nobody() -> None:
    with rings() as (server, client, memory, _):
        memory.put("I", W2S + ITEMS + WAITERS, 1)
        for _ in range(5000):
            memory.put("I", W2S + ITEMS + COUNT, 0)
            client.send(b"x")
            assert server.recv() == b"x"


def test_what_came_before_the_end_is_still_taken() -> None:
    with rings() as (server, client, _, line):
        server.send(b"last")
        line.close()
        assert not client.hear()
        assert client.recv() == b"last"
        with pytest.raises(Closed):
            client.recv()
        with pytest.raises(Closed):
            client.try_recv()
        with pytest.raises(Closed):
            client.send(b"x")


def test_the_end_wakes_who_waits() -> None:
    with rings() as (_, client, memory, line):
        ends = list[str]()

        def wait(what: str) -> None:
            try:
                if what == "recv":
                    client.recv()
                else:
                    while True:
                        client.send(bytes(500))
            except Closed:
                ends.append(what)

        waiters = [threading.Thread(target=wait, args=(what,)) for what in ("recv", "send")]
        for w in waiters:
            w.start()
        while memory.u32(S2W + ITEMS + WAITERS) == 0 or memory.u32(W2S + SPACE + WAITERS) == 0:
            pass
        line.close()
        for w in waiters:
            w.join()
        assert sorted(ends) == ["recv", "send"]


def test_arming_looks_once_more() -> None:
    with rings() as (server, client, memory, line):
        assert not client.arm()
        assert memory.u32(S2W + ITEMS + WAITERS) == 1
        server.send(b"x")
        assert client.arm()
        assert client.try_recv() == b"x"
        assert not client.arm()
        line.close()
        client.hear()
        assert client.arm()


def test_all_or_nothing_now() -> None:
    with rings() as (server, client, memory, _):
        assert not client.send_now(bytes(5000))  # never fits as a whole
        sent = 0
        while client.send_now(bytes([sent]) * 700):
            sent += 1
        assert sent >= 3
        for i in range(sent):
            assert server.recv() == bytes([i]) * 700
        assert server.try_recv() is None
        assert client.send_now(b"again")
        while client.try_send(bytes(900)):
            pass
        assert not client.send_within(0.01, bytes(900))
        memory.put("Q", W2S + HEAD, 1 << 40)
        with pytest.raises(ProtocolError):
            while client.send_within(0.01, bytes(900)):
                pass


def test_descriptors_come_with_the_bell() -> None:
    with rings() as (_, client, _, line):
        assert client.file() is None
        ends = list[int]()
        for i in range(5):
            read, write = os.pipe()
            os.write(write, bytes([i]))
            socket.send_fds(line, [b"\x04"], [read])
            os.close(read)
            ends.append(write)
            line.send(b"\x01")
        client.hear()
        got = [client.file() for _ in range(5)]
        assert client.file() is None
        for i, (fd, write) in enumerate(zip(got, ends, strict=True)):
            assert fd is not None
            assert os.read(fd, 9) == bytes([i])  # in order
            assert not os.get_inheritable(fd)
            os.close(fd)
            os.close(write)


def test_a_descriptor_comes_while_somebody_waits() -> None:
    with rings() as (server, client, memory, line):
        got = list[object]()
        waiter = threading.Thread(target=lambda: got.append(client.recv()))
        waiter.start()
        while memory.u32(S2W + ITEMS + WAITERS) == 0:
            pass
        read, write = os.pipe()
        socket.send_fds(line, [b"\x04"], [read])
        server.send(b"answer")
        line.send(b"\x01")
        waiter.join()
        assert got == [b"answer"]
        fd = client.file()
        assert fd is not None
        for each in (fd, read, write):
            os.close(each)


def test_descriptors_nobody_takes_are_closed() -> None:
    with rings() as (_, client, _, line):
        read, write = os.pipe()
        for _ in range(40):  # more than are kept
            socket.send_fds(line, [b"\x04"], [read, read])
            client.hear()
        os.close(read)
        os.close(write)
    # conftest.py looks for those that are left
