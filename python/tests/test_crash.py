"""A worker is killed at each numbered step of docs/protocol.md, section 10, under a load that makes it pass there.

What the supervisor finds afterwards must make sense: every reply that was published is whole and in order, and at most
one request, the one in hand, was read and not answered.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compile import crashing_package
from ringmaster._codec import Message, Reply, decode
from ringmaster._ring import Closed
from segments import HEAD, ITEMS, S2W, SPACE, TAIL, W2S, Memory, need
from supervisor import PATIENCE, Worker, body_of

RING = 4096
LONG = 3 * RING  # bytes of a body that does not fit into a ring


@pytest.fixture(scope="module")
def crashing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crashing_package(tmp_path_factory.mktemp("crashing"))


@contextlib.contextmanager
def doomed(package: Path, at: str, body: int) -> Iterator[tuple["Supervisor", Worker]]:
    env = {"PYTHONPATH": str(package), "RINGMASTER_CRASH_AT": at}
    with Worker("zoo.py", env=env, s2w=RING, w2s=RING) as w:
        s = Supervisor(w, body)
        try:
            yield s, w
        finally:
            s.close()


class Supervisor:
    """Sends requests from one thread and takes the replies in another, one request at a time, until the worker dies."""

    def __init__(self, w: Worker, body: int) -> None:
        self.w = w
        self.body = body
        self.memory = Memory(w.fd)
        self.ends: list[int] = []  # where each request ends in s2w
        self.replies: list[Reply] = []
        self.sender = threading.Thread(target=self.send)

    def close(self) -> None:
        if self.sender.is_alive():
            self.w.segment.shutdown()
            self.sender.join()
        self.memory.bytes.close()

    def dead(self) -> bool:
        return self.w.process.poll() is not None

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition() and not self.dead():
            assert time.monotonic() < deadline

    def sleeps(self, word: int) -> bool:
        """Whether the worker sleeps on this semaphore."""
        return self.memory.u32(word + 4) == 1

    def send(self) -> None:
        """Send a request whenever the last is answered and the worker sleeps. The tail is then where it ends."""
        with contextlib.suppress(Closed):
            while not self.dead():
                self.until(lambda: len(self.ends) == len(self.replies) and self.sleeps(S2W + ITEMS))
                self.w.request("echo", [len(self.ends), "x" * self.body])
                self.ends.append(self.memory.u64(S2W + TAIL))

    def take(self, data: bytearray | None) -> None:
        m: Message | None = None if data is None else decode(data)
        if isinstance(m, Reply):
            self.replies.append(m)

    def run(self, let_it_wait: bool) -> None:
        """Serve the worker until it is dead; let_it_wait: take replies only when it waits for space."""
        self.sender.start()
        while not self.dead():
            if let_it_wait:
                self.until(lambda: self.sleeps(W2S + SPACE))
            self.take(self.w.segment.recv(0.01))
        self.w.wait()
        while (data := self.w.segment.try_recv()) is not None:  # what it published before it died counts
            self.take(data)
        assert self.memory.u64(W2S + TAIL) == self.memory.u64(W2S + HEAD)  # all that there is was taken

    def check(self) -> tuple[int, int]:
        """Return how many requests were read, and how many answered."""
        if self.sender.is_alive():
            self.w.segment.shutdown()
            self.sender.join()
        for i, reply in enumerate(self.replies):
            assert reply.id == i + 1
            assert body_of(reply) == [i, "x" * self.body]
        read = sum(end <= self.memory.u64(S2W + HEAD) for end in self.ends)
        assert len(self.replies) <= read <= len(self.replies) + 1
        return read, len(self.replies)


SEND = ["S1", "S2", "S3", "S4", "S5", "S6"]
RECEIVE = ["R1", "R2", "R3", "R4", "R5", "R6"]
WAIT = ["W1", "W2", "W3", "W4", "W5"]


@pytest.mark.parametrize("step", [s for s in SEND + RECEIVE if s != "R5"])
def test_short_messages(crashing: Path, step: str) -> None:
    """One frame each way per request, so it is known what the fourth pass of a step means."""
    ring = "w2s" if step in SEND else "s2w"
    with doomed(crashing, f"{step}:4:{ring}", 10) as (s, w):
        s.run(let_it_wait=False)
        assert w.wait() == -9
        read, answered = s.check()
    # The worker's first frame is its hello: its fourth is the third answer. Its fourth request is read at R4.
    if step in ("S1", "S2", "S3"):
        assert (read, answered) == (3, 2)
    elif step in ("S4", "S6"):
        assert (read, answered) == (3, 3)
    elif step == "S5":
        assert read == answered >= 3
    elif step in ("R1", "R2", "R3"):
        assert (read, answered) == (3, 3)
    else:
        assert (read, answered) == (4, 3)


@pytest.mark.parametrize("step", SEND + RECEIVE)
def test_long_messages(crashing: Path, step: str) -> None:
    """Many frames per message, rings that are full, PADs."""
    ring = "w2s" if step in SEND else "s2w"
    with doomed(crashing, f"{step}:20:{ring}", LONG) as (s, w):
        s.run(let_it_wait=False)
        assert w.wait() == -9
        s.check()


@pytest.mark.parametrize("step", WAIT)
def test_waiting_for_requests(crashing: Path, step: str) -> None:
    with doomed(crashing, f"{step}:4:s2w", 10) as (s, w):
        s.run(let_it_wait=False)
        assert w.wait() == -9
        read, answered = s.check()
        assert read == answered


@pytest.mark.parametrize("step", WAIT)
def test_waiting_for_space(crashing: Path, step: str) -> None:
    with doomed(crashing, f"{step}:4:w2s", LONG) as (s, w):
        s.run(let_it_wait=True)
        assert w.wait() == -9
        read, answered = s.check()
        assert read == answered + 1


def test_the_steps_cost_nothing_when_unset(crashing: Path) -> None:
    with Worker("zoo.py", env={"PYTHONPATH": str(crashing)}) as w:
        w.start()
        assert body_of(w.call("echo", 1)) == 1


def test_a_frame_takes_what_the_protocol_says() -> None:
    assert [need(n) for n in (1, 16, 17)] == [32, 32, 48]
