"""The client for threads: many of them, forks, and the garbage collector."""

import gc
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import ringmaster as rm
from ringmaster import _codec
from ringmaster._codec import Hello
from server import PATIENCE, Server


def test_many_threads(server: Server) -> None:
    with rm.connect(server.path) as c:
        failures: list[BaseException] = []

        def work(n: int) -> None:
            try:
                for i in range(30):
                    assert c.call("p", "echo", [n, i], timeout=PATIENCE).body == [n, i]
                    assert [x["i"] for x in c.stream("p", "count", 10, window=3, timeout=PATIENCE)] == list(range(10))
            except BaseException as e:
                failures.append(e)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert failures == []
        assert len(server.connections) == 1


def test_the_lead_is_handed_over(server: Server) -> None:
    """The leader's deadline passes while others follow; one of them takes over."""
    with rm.connect(server.path) as c:
        got: list[Any] = []

        def lead() -> None:
            with pytest.raises(rm.DeadlineExceeded):
                c.call("p", "hang", timeout=0.1)

        def follow() -> None:
            with pytest.raises(rm.Cancelled):
                c.call("p", "hang")
            got.append(1)

        leader = threading.Thread(target=lead)
        leader.start()
        server.happened("hanging")
        followers = [threading.Thread(target=follow) for _ in range(3)]
        for t in followers:
            t.start()
        ids = [server.happened("hanging")[0] for _ in followers]
        leader.join()
        for id in ids:  # what a server does that cancels by itself
            server.connections[0].take_in(_codec.Cancel(id, "drained"))
        for t in followers:
            t.join()
        assert got == [1, 1, 1]


def test_closing_the_client_ends_its_calls(server: Server) -> None:
    c = rm.connect(server.path)
    caught: list[rm.Error] = []

    def call() -> None:
        try:
            c.call("p", "hang")
        except rm.Error as e:
            caught.append(e)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for t in threads:
        t.start()
    for _ in threads:
        server.happened("hanging")
    c.close()
    c.close()
    for t in threads:
        t.join()
    assert [(e.code, e.reason) for e in caught] == [("CANCELLED", "client_closed")] * 3
    assert len({id(e) for e in caught}) == 3
    with pytest.raises(rm.Cancelled):
        c.call("p", "echo")


def test_a_dropped_stream_is_cancelled(server: Server) -> None:
    with rm.connect(server.path) as c:
        for _ in c.stream("p", "count", 1 << 40):
            break
        assert server.happened("cancel") == ("cancelled",)
        stream = c.stream("p", "count", 1 << 40)
        cycle: list[Any] = [stream]
        cycle.append(cycle)
        del stream, cycle
        gc.collect()
        assert server.happened("cancel") == ("cancelled",)


def test_a_stream_is_sent_at_once_and_closed_by_with(server: Server) -> None:
    with rm.connect(server.path) as c:
        with c.stream("p", "hang") as stream:
            server.happened("hanging")
        assert server.happened("cancel") == ("cancelled",)
        assert list(stream) == []


def test_closing_a_stream_another_thread_waits_for(server: Server) -> None:
    with rm.connect(server.path) as c:
        stream = c.stream("p", "hang")
        caught = []

        def wait() -> None:
            with pytest.raises(rm.Cancelled):
                next(stream)
            caught.append(1)

        t = threading.Thread(target=wait)
        t.start()
        server.happened("hanging")
        stream.close()
        t.join()
        assert caught == [1]


def test_a_fork_gets_a_connection_of_its_own(server: Server) -> None:
    with rm.connect(server.path) as c:
        stream = c.stream("p", "count", 30, window=2)
        assert next(stream) == {"i": 0}
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with pytest.raises(rm.Unavailable):
                    list(stream)  # what had come before the fork is still there
                if c.call("p", "echo", "child").body == "child":
                    status = 0
                c.close()
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert [x["i"] for x in stream] == list(range(1, 30))
        assert c.call("p", "echo", 1).body == 1
        assert len(server.connections) == 2


def test_a_fork_while_other_threads_call(server: Server) -> None:
    with rm.connect(server.path) as c:
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                c.call("p", "echo", 1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for t in threads:
            t.start()
        for _ in range(5):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    status = 0 if c.call("p", "echo", 2, timeout=PATIENCE).body == 2 else 1
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
        over.set()
        for t in threads:
            t.join()


def test_a_server_that_does_not_read(tmp_path: Path) -> None:
    """A request that cannot be written by its deadline ends the connection if half of it is out."""
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def greet(accepted: list[socket.socket]) -> None:
            s, _ = listener.accept()
            s.recv(1000)
            hello = b"".join(map(bytes, _codec.encode(Hello(1, 1, "deaf"))))
            s.sendall(len(hello).to_bytes(4, "little") + hello)
            accepted.append(s)

        accepted: list[socket.socket] = []
        t = threading.Thread(target=greet, args=(accepted,))
        t.start()
        with rm.connect(path) as c:
            t.join()
            with pytest.raises(rm.DeadlineExceeded):
                c.call("p", "echo", bytes(32 << 20), timeout=0.1)
            t = threading.Thread(target=greet, args=(accepted,))
            t.start()
            with pytest.raises(rm.DeadlineExceeded):
                c.call("p", "echo", 1, timeout=0.1)
            t.join()
        for s in accepted:
            s.close()


def test_time_is_not_wasted(server: Server) -> None:
    """A call by the only thread needs no other thread of this process."""
    with rm.connect(server.path) as c:
        c.call("p", "echo")
        before = threading.active_count()
        begin = time.monotonic()
        c.call("p", "echo")
        assert time.monotonic() - begin < PATIENCE
        assert threading.active_count() <= before + 1  # the server's
