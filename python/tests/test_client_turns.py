"""Threads that share a connection: whose replies they read, and whom they wake."""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import ringmaster as rm
from ringmaster import _codec
from ringmaster._connection import Connection
from server import Server
from serving import PATIENCE, serve, until, worker


@pytest.fixture(scope="module")
def rings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the socket of a real server, whose connections have rings."""
    pools = {"one": worker("zoo.py"), "many": worker("zoo.py", concurrency=8)}
    with serve(tmp_path_factory.mktemp("turns"), pools) as path:
        yield path


def in_threads(n: int, work: Callable[[int], None]) -> None:
    """Run work(0) … work(n - 1) at the same time; fail as one of them does."""
    failures: list[BaseException] = []

    def run(i: int) -> None:
        try:
            work(i)
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(PATIENCE)
        assert not t.is_alive()
    assert failures == []


def connection_of(c: rm.Client) -> Connection:
    assert c._connection is not None
    return c._connection


def nobody_waits(c: rm.Client) -> None:
    """Check that a connection that is not in use remembers nobody."""
    x = connection_of(c)
    assert (x._leading, x._heir, x._watch, x._asleep, x._users) == (False, None, None, {}, 0)
    assert x._session.calls == {}


@pytest.mark.parametrize("pool", ["one", "many"])
@pytest.mark.parametrize("ring", [1 << 20, 0])
def test_everybody_gets_the_own_reply(rings: Path, pool: str, ring: int) -> None:
    with rm.connect(rings, ring=ring) as c:

        def work(n: int) -> None:
            for i in range(60):
                x = np.full(16, n * 1000 + i)
                assert (c.call(pool, "echo", [n, i], tensors={"x": x}, timeout=PATIENCE).tensors["x"] == x).all()

        in_threads(24, work)
        nobody_waits(c)


@pytest.mark.parametrize("ring", [1 << 20, 0])
def test_who_does_not_come_back_keeps_nobody_waiting(rings: Path, ring: int) -> None:
    """Each thread has one reply, and is then busy elsewhere until all have theirs."""
    with rm.connect(rings, ring=ring) as c:
        everybody = threading.Barrier(16)

        def work(n: int) -> None:
            for i in range(20):
                assert c.call("many", "echo", i, timeout=PATIENCE).body == i
                everybody.wait(PATIENCE)

        in_threads(16, work)
        nobody_waits(c)


def test_all_kinds_of_calls_at_once(rings: Path) -> None:
    with rm.connect(rings) as c:

        def work(n: int) -> None:
            rng = random.Random(n)
            for i in range(40):
                match rng.randrange(5):
                    case 0:
                        assert [x["i"] for x in c.stream("many", "count", 5, window=2)] == list(range(5))
                    case 1:
                        for x in c.stream("many", "count", 1000):
                            assert x == {"i": 0}
                            break  # and cancel it
                    case 2:
                        with contextlib.suppress(rm.DeadlineExceeded, rm.ResourceExhausted):
                            c.call("many", "echo", i, timeout=rng.uniform(0, 0.002))
                    case _:
                        assert c.call("many", "echo", i, timeout=PATIENCE).body == i

        in_threads(12, work)
        until(lambda: not connection_of(c)._session.calls)
        nobody_waits(c)


def test_a_reply_that_was_taken_wakes_nobody(server: Server) -> None:
    """A thread that was woken otherwise, and sleeps for its next reply, is still noted for the one before."""
    with rm.connect(server.path) as c:
        x = connection_of(c)

        def work(n: int) -> None:
            if n < 3:
                with pytest.raises(rm.Cancelled):
                    c.call("p", "hang", timeout=PATIENCE)
                return
            ids = [server.happened("hanging")[0] for _ in range(3)]
            until(lambda: len(x._asleep) == 2)
            with x._lock:
                x._arrived.extend(x._asleep)
            for i in range(20):
                assert c.call("p", "echo", i, timeout=PATIENCE).body == i
            for id in ids:
                server.connections[0].take_in(_codec.Cancel(id, "drained"))

        in_threads(4, work)
        nobody_waits(c)


def test_the_end_wakes_everybody(server: Server) -> None:
    with rm.connect(server.path) as c:

        def work(_: int) -> None:
            with pytest.raises(rm.Unavailable):
                c.call("p", "hang")

        def hang_up(_: int) -> None:
            for _ in range(8):
                server.happened("hanging")
            server.connections[0].hang_up()

        in_threads(9, lambda n: work(n) if n < 8 else hang_up(n))
