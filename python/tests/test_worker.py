"""Real worker processes, driven from the supervisor's side: docs/protocol.md, sections 1 and 6."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ringmaster import _codec
from ringmaster._codec import IDEMPOTENT, STREAM, Drain, Ping, Reply, Stop, pack
from segments import HEAD, ITEMS, S2W, TAIL, W2S, Memory
from supervisor import PATIENCE, WORKERS, Worker, body_of

CONCURRENCIES = pytest.mark.parametrize("concurrency", [1, 2])


def until(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline


# ---- start ----


def test_hello() -> None:
    with Worker("zoo.py") as w:
        memory = Memory(w.fd)
        hello = w.start()
        assert (hello.version_min, hello.version_max) == (1, 1)
        assert hello.sdk.startswith("ringmaster-python/")
        assert dict(hello.actions)["echo"] == IDEMPOTENT
        assert dict(hello.actions)["count"] == STREAM
        assert dict(hello.actions)["facts"] == 0
        assert memory.u32(0x104) == w.process.pid
        until(lambda: memory.u32(0x100) == 2)  # READY
        assert memory.u64(0x108) > 0  # beat
        assert w.process.stdout is not None
        assert w.process.stdout.read() == b""  # the handshake is all there is, and the pipe is closed
        memory.bytes.close()


def test_started_by_hand() -> None:
    done = subprocess.run(
        [sys.executable, WORKERS / "zoo.py"],
        check=False,
        capture_output=True,
        timeout=PATIENCE,
        env={k: v for k, v in os.environ.items() if k != "RINGMASTER_COOKIE"},
    )
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"ringmaster serve" in done.stderr


@pytest.mark.parametrize("offered", ["2,3", "", "11"])
def test_no_common_version(offered: str) -> None:
    with Worker("zoo.py", env={"PLUGIN_PROTOCOL_VERSIONS": offered}) as w:
        assert w.handshake() == ""
        assert w.wait() == 1
        assert "no common protocol version" in w.log()


def test_the_common_version_is_chosen() -> None:
    with Worker("zoo.py", env={"PLUGIN_PROTOCOL_VERSIONS": "3, 1,2"}) as w:
        w.start()


@pytest.mark.parametrize("name", ["RINGMASTER_CONCURRENCY", "RINGMASTER_MAX_MESSAGE"])
def test_numbers(name: str) -> None:
    with Worker("zoo.py", env={name: "0"}) as w:
        assert w.wait() == 1
        assert name in w.log()


def test_load_raises() -> None:
    with Worker("zoo.py", env={"ZOO_LOAD": "raise"}) as w:
        assert w.handshake() != ""
        assert w.wait() == 1
        log = w.log()
        assert "RuntimeError: no model" in log
        assert "Traceback" in log


def test_prints_reach_the_log() -> None:
    with Worker("zoo.py", env={"ZOO_LOAD": "print"}) as w:
        w.start()
        w.call("print")
        w.send(Drain())
        assert w.wait() == 0
        log = w.log().splitlines()
        assert log == ["loading", "printed after the handshake", "served"]


def test_wrong_geometry() -> None:
    def damage(fd: int) -> None:
        os.pwrite(fd, b"\x02", 0x08)

    with Worker("zoo.py", damage=damage) as w:
        assert w.handshake() == ""
        assert w.wait() == 70
        assert "version" in w.log()


# ---- requests ----


@CONCURRENCIES
def test_echo(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        for body in (None, {"a": [1, 2.5, "ü", b"\0", None]}, "x" * 60000):
            assert body_of(w.call("echo", body)) == body
        image = np.arange(30000, dtype="uint8").reshape(100, 100, 3)
        reply = w.call("echo", {"n": 1}, tensors={"image": image, "k": np.float16(2)})
        assert body_of(reply) == {"n": 1}
        got = reply.tensors["image"]
        assert isinstance(got, np.ndarray)
        assert (got == image).all()
        assert list(reply.tensors) == ["image", "k"]


def test_facts() -> None:
    with Worker("zoo.py") as w:
        w.start()
        more = {"trace_id": "00-1-2-03", "context": b"\0c", "headers": {"k": "v"}}
        facts = body_of(w.call("facts", timeout_us=5_000_000, **more))
        assert facts["pool"] == "test"
        assert facts["trace_id"] == "00-1-2-03"
        assert facts["context"] == b"\0c"
        assert facts["headers"] == {"k": "v"}
        assert 0 < facts["left"] <= 5
        assert facts["cloexec"] == [True, True]
        assert body_of(w.call("facts"))["left"] is None


@CONCURRENCIES
def test_the_context_goes_back(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        assert w.call("remember", b"new", context=b"old").context == b"new"
        assert w.call("remember", None, context=b"old").context == b""  # it is what it was
        assert w.call("remember", b"x" * 10_000).context == b"x" * 10_000
        w.request("remember_slowly", "abc", context=b"_", credit=9)
        replies = [w.expect(Reply) for _ in range(4)]
        assert [(r.end, r.context) for r in replies] == [(False, b"")] * 3 + [(True, b"_abc")]
        error = w.call("remember", "no bytes").error
        assert error is not None
        assert (error.code, error.reason) == ("INTERNAL", "handler")
        assert "must be bytes" in error.message


def test_status_words() -> None:
    with Worker("zoo.py") as w:
        memory = Memory(w.fd)
        w.start()
        id = w.request("spin_until_cancelled")
        until(lambda: (memory.u32(0x100), memory.u64(0x110)) == (3, id))
        assert 0 < memory.u64(0x118) <= time.monotonic_ns()
        w.cancel(id)
        w.expect(Reply)
        until(lambda: (memory.u32(0x100), memory.u64(0x110), memory.u64(0x118)) == (2, 0, 0))
        memory.bytes.close()


@CONCURRENCIES
def test_stream_with_credit_1(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        id = w.request("count", 3)
        for i in range(3):
            chunk = w.expect(Reply)
            assert (chunk.id, chunk.end, body_of(chunk)) == (id, False, {"i": i})
            if i < 2:
                assert w.segment.recv(0.01) is None  # not one more than was granted
                w.credit(id, 1)
        end = w.expect(Reply)
        assert end.end
        assert end.body is None
        assert end.error is None
        assert body_of(w.call("closed")) == [id]


def test_stream_with_much_credit_and_tensors() -> None:
    with Worker("zoo.py") as w:
        w.start()
        w.request("frames", 5, credit=100)
        for i in range(5):
            chunk = w.expect(Reply)
            assert body_of(chunk) == i
            assert chunk.tensors["x"].tolist() == [[i] * 3] * 2  # type: ignore[union-attr]
        assert w.expect(Reply).end


@CONCURRENCIES
def test_cancel_in_mid_stream(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        id = w.request("count", 1 << 40, credit=3)
        for _ in range(3):
            assert not w.expect(Reply).end
        w.cancel(id)
        end = w.expect(Reply)
        assert end.end
        assert end.error is not None
        assert (end.error.code, end.error.reason) == ("CANCELLED", "cancelled")
        assert body_of(w.call("closed")) == [id]  # the generator was closed


@CONCURRENCIES
@pytest.mark.parametrize(("reason", "code"), [("disconnected", "CANCELLED"), ("deadline", "DEADLINE_EXCEEDED")])
def test_cancel_reaches_a_busy_action(concurrency: int, reason: str, code: str) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        id = w.request("spin_until_cancelled")
        w.cancel(id, reason)
        error = w.expect(Reply).error
        assert error is not None
        assert error.code == code


@CONCURRENCIES
def test_the_deadline_passes(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        for action, body in (("spin_until_cancelled", None), ("count", 5)):  # busy, and waiting for credit
            id = w.request(action, body, timeout_us=50_000, credit=1)
            reply = w.expect(Reply)
            if not reply.end:
                reply = w.expect(Reply)
            assert reply.id == id
            assert reply.error is not None
            assert reply.error.code == "DEADLINE_EXCEEDED"


def test_a_cancel_before_its_turn() -> None:
    with Worker("zoo.py", concurrency=1) as w:
        w.start()
        first = w.request("spin_until_cancelled")
        second = w.request("echo", 2)
        w.cancel(second)
        w.cancel(first)
        assert w.expect(Reply).id == first
        reply = w.expect(Reply)
        assert reply.id == second
        assert reply.error is not None
        assert reply.error.code == "CANCELLED"


def read_by(memory: Memory) -> int:
    """Return up to where the worker has read its ring, as the supervisor sees it."""
    return memory.u64(S2W + HEAD)


def sent_to(memory: Memory) -> int:
    return memory.u64(S2W + TAIL)


def test_a_request_ahead_is_unread_until_it_begins() -> None:
    with Worker("zoo.py", concurrency=1) as w:
        memory = Memory(w.fd)
        assert w.start().limits["ahead"] == 8
        first = w.request("spin_until_cancelled")
        before = sent_to(memory)
        second = w.request("spin_until_cancelled")
        middle = sent_to(memory)
        third = w.request("spin_until_cancelled")
        w.send(Ping(1))
        assert w.expect(Ping) == Ping(1, answer=True)  # it has looked beyond both
        assert read_by(memory) == before
        w.cancel(first)
        assert w.expect(Reply).id == first
        until(lambda: read_by(memory) == middle)
        w.cancel(second)
        assert w.expect(Reply).id == second
        until(lambda: read_by(memory) == sent_to(memory))  # nothing waits any more, so what came behind it is read, too
        w.cancel(third)
        assert w.expect(Reply).id == third
        assert body_of(w.call("echo", 1)) == 1
        memory.bytes.close()


def test_what_comes_alone_is_read_while_an_action_runs() -> None:
    with Worker("zoo.py", concurrency=1) as w:
        memory = Memory(w.fd)
        w.start()
        id = w.request("spin_until_cancelled")
        for n in range(5):
            w.send(Ping(n))
            assert w.expect(Ping) == Ping(n, answer=True)
        until(lambda: read_by(memory) == sent_to(memory))
        w.cancel(id)
        assert w.expect(Reply).id == id
        memory.bytes.close()


def test_a_ring_full_of_what_is_unread() -> None:
    """Half of the ring is room enough for what is behind a request that waits: a stream's credits go on coming."""
    chunks = 1500
    with Worker("zoo.py", concurrency=1, s2w=1 << 14) as w:
        w.start()
        stream = w.request("count", chunks, credit=1)
        second = w.request("echo", 2)
        for _ in range(chunks):
            reply = w.expect(Reply)
            assert (reply.id, reply.end) == (stream, False)
            w.credit(stream, 1)  # of 32 bytes each
        assert w.expect(Reply).end
        assert w.expect(Reply).id == second


def leaves_the_second(w: Worker, memory: Memory, first: int, before: int) -> None:
    """Assert that the worker ends with its first request, and that what it has read ends there, too."""
    assert w.expect(Reply).id == first
    assert w.wait() == 0
    assert w.segment.try_recv() is None
    assert read_by(memory) == before
    memory.bytes.close()


def test_sigterm_leaves_what_is_ahead_to_others() -> None:
    with Worker("zoo.py", concurrency=1) as w:
        memory = Memory(w.fd)
        w.start()
        first = w.request("spin_until_cancelled")
        before = sent_to(memory)
        w.request("echo", 2)
        w.send(Ping(1))
        w.expect(Ping)
        w.process.terminate()
        until(lambda: " in serve\n" in w.log())  # it says where it is, and then knows
        w.cancel(first)
        leaves_the_second(w, memory, first, before)


def test_drain_lets_what_is_ahead_end() -> None:
    with Worker("zoo.py", concurrency=1) as w:
        w.start()
        first = w.request("spin_until_cancelled")
        second = w.request("echo", 2)
        w.send(Drain())
        w.cancel(first)
        assert [w.expect(Reply).id for _ in range(2)] == [first, second]
        assert w.wait() == 0


def test_stop_leaves_what_is_ahead_to_others() -> None:
    with Worker("zoo.py", concurrency=1) as w:
        memory = Memory(w.fd)
        w.start()
        first = w.request("spin_until_cancelled")
        before = sent_to(memory)
        w.request("echo", 2)
        w.send(Stop())
        leaves_the_second(w, memory, first, before)


def test_ids_that_are_not_open_are_ignored() -> None:
    with Worker("zoo.py") as w:
        w.start()
        w.cancel(99)
        w.credit(99, 5)
        w.segment.send(pack((42, 99, "a kind of the future")))
        assert body_of(w.call("echo", 1)) == 1


def test_ping() -> None:
    with Worker("zoo.py") as w:
        w.start()
        w.send(Ping(5))
        assert w.expect(Ping) == Ping(5, answer=True)
        w.send(Ping(6, answer=True))  # an answer is not answered
        id = w.request("spin_until_cancelled")
        w.send(Ping(7))
        assert w.expect(Ping) == Ping(7, answer=True)  # also by a busy action that looks
        w.cancel(id)
        assert w.expect(Reply).id == id


def test_two_at_a_time() -> None:
    with Worker("zoo.py", concurrency=2) as w:
        w.start()
        ids = {w.request("meet"), w.request("meet")}  # each waits for the other
        replies = [w.expect(Reply), w.expect(Reply)]
        assert {r.id for r in replies} == ids
        assert len({body_of(r) for r in replies}) == 2


def test_quick_actions_run_where_they_are_received() -> None:
    with Worker("zoo.py", concurrency=2) as w:
        w.start()
        until(lambda: body_of(w.call("nap")).startswith("action-"))  # each takes a while, so soon it runs elsewhere
        until(lambda: body_of(w.call("where")) == "MainThread")


def test_others_are_served_while_the_main_thread_is_late() -> None:
    with Worker("zoo.py", concurrency=4) as w:
        w.start()
        w.process.send_signal(signal.SIGSTOP)  # so that it receives all of them at once
        late = w.request("spin_until_cancelled")
        others = {w.request("where"), w.request("echo", 1), w.request("where")}
        w.send(Ping(1))
        w.process.send_signal(signal.SIGCONT)
        came = [w.receive() for _ in range(4)]
        assert {m.id for m in came if isinstance(m, Reply)} == others
        assert Ping(1, answer=True) in came
        assert body_of(w.call("where")).startswith("action-")
        w.cancel(late)
        assert w.expect(Reply).id == late
        until(lambda: body_of(w.call("where")) == "MainThread")  # it is back
        w.send(Drain())
        assert w.wait() == 0


def test_drain_while_the_main_thread_is_late() -> None:
    with Worker("zoo.py", concurrency=4) as w:
        w.start()
        late = w.request("spin_until_cancelled")
        assert body_of(w.call("echo", 1)) == 1
        w.send(Drain())
        w.cancel(late)
        assert w.expect(Reply).id == late
        assert w.wait() == 0


def test_nobody_wakes_while_nothing_comes() -> None:
    with Worker("zoo.py", concurrency=2) as w:
        w.start()
        tasks = Path(f"/proc/{w.process.pid}/task")
        for _ in range(3):
            assert body_of(w.call("echo", 1)) == 1
            seen, since = "", time.monotonic()

            def quiet() -> bool:
                nonlocal seen, since
                now = "".join(f.read_text().partition("voluntary_ctxt_switches")[2] for f in tasks.glob("*/status"))
                if now != seen:
                    seen, since = now, time.monotonic()
                return time.monotonic() > since + 0.1

            until(quiet)


# ---- errors ----


@CONCURRENCIES
def test_an_action_raises(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        error = w.call("raise").error
        assert error is not None
        assert (error.code, error.reason) == ("INTERNAL", "handler")
        assert error.details["type"] == "KeyError"
        trace = error.details["traceback"]
        assert trace.startswith("Traceback")
        assert "zoo.py" in trace
        assert "worker.py" not in trace
        error = w.call("raise", 100_000).error
        assert error is not None
        assert len(error.details["traceback"].encode()) <= 16 << 10
        assert len(error.message.encode()) <= 4 << 10
        assert body_of(w.call("echo", 1)) == 1


def test_an_action_refuses() -> None:
    with Worker("zoo.py") as w:
        w.start()
        error = w.call("refuse").error
        assert error is not None
        assert (error.code, error.reason, error.message) == ("INVALID_ARGUMENT", "invalid_argument", "no such size")
        assert (error.details, error.retry_after) == ({"size": "9"}, 1.5)


def test_unknown_action() -> None:
    with Worker("zoo.py") as w:
        w.start()
        error = w.call("ech").error
        assert error is not None
        assert (error.code, error.reason) == ("NOT_FOUND", "unknown_action")
        assert "echo" in error.message


def test_an_answer_that_cannot_be_sent() -> None:
    with Worker("zoo.py", max_message=100_000) as w:
        w.start()
        error = w.call("unsendable").error
        assert error is not None
        assert (error.code, error.reason) == ("INTERNAL", "handler")
        error = w.call("blob", 100_000).error
        assert error is not None
        assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "too_large")
        assert "100000 bytes" in error.message
        assert len(body_of(w.call("blob", 99_000))) == 99_000


def test_an_error_that_is_too_large() -> None:
    with Worker("zoo.py", max_message=1024) as w:
        w.start()
        error = w.call("raise", 500).error
        assert error is not None
        assert (error.code, error.details) == ("INTERNAL", {})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([1, 5, "test", "echo", 7], "bad_message"),
        ([1, 5, "test", "echo", "", b"", 0, 1, {}, None, [["x", "f8", [1], b""]]], "bad_tensor"),
        ([1, 5, "test", "echo", "", b"", 0, 1, {}, {(1, 2): 3}], "bad_body"),
    ],
)
def test_malformed_requests(fields: list, reason: str) -> None:
    with Worker("zoo.py") as w:
        w.start()
        w.segment.send(pack(fields))
        reply = w.expect(Reply)
        assert (reply.id, reply.end) == (5, True)
        assert reply.error is not None
        assert (reply.error.code, reply.error.reason) == ("INVALID_ARGUMENT", reason)
        assert body_of(w.call("echo", 1)) == 1


# ---- ends ----


@CONCURRENCIES
def test_drain(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        memory = Memory(w.fd)
        w.start()
        id = w.request("count", 3)
        assert not w.expect(Reply).end
        w.send(Drain())
        w.credit(id, 5)
        assert [w.expect(Reply).end for _ in range(3)] == [False, False, True]
        assert w.wait() == 0
        assert w.log().endswith("served\n")  # serve returned
        memory.bytes.close()


@CONCURRENCIES
def test_sigterm_is_drain(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        memory = Memory(w.fd)
        w.start()
        until(lambda: memory.u32(S2W + ITEMS + 4) == 1)  # it sleeps
        w.process.send_signal(signal.SIGTERM)
        assert w.wait() == 0
        assert w.log() == "served\n"  # an idle worker is somewhere, but hangs nowhere
        memory.bytes.close()


STACKS = "(most recent call first):"


@CONCURRENCIES
def test_sigterm_after_a_request_is_quiet(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        memory = Memory(w.fd)
        w.start()
        assert body_of(w.call("echo", 1)) == 1
        until(lambda: memory.u32(0x100) == 2)  # READY
        w.process.send_signal(signal.SIGTERM)
        assert w.wait() == 0
        assert w.log() == "served\n"
        memory.bytes.close()


@CONCURRENCIES
def test_sigterm_says_where_it_hangs(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        memory = Memory(w.fd)
        w.start()
        w.request("hold_the_gil")
        until(lambda: memory.u32(0x100) == 3)  # BUSY
        memory.bytes.close()

        def told() -> bool:
            before = w.log().count(" in serve\n")  # the main thread comes last
            w.process.send_signal(signal.SIGTERM)
            until(lambda: w.log().count(" in serve\n") > before)
            return " in hold_the_gil\n" in w.log()

        until(told)  # the first signal may have come before it was there
        assert STACKS in w.log()
        assert w.process.poll() is None


def test_sigterm_says_why_it_does_not_end() -> None:
    with Worker("zoo.py", env={"ZOO_LINGERS": "1"}) as w:
        w.start()
        w.send(Drain())
        until(lambda: "served\n" in w.log())

        def told() -> bool:  # the first may come before the program waits
            w.process.send_signal(signal.SIGTERM)
            return " in wait\n" in w.log()

        until(told)


@CONCURRENCIES
def test_a_forked_child_is_no_worker(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        assert body_of(w.call("terminate_child")) == -signal.SIGTERM
        assert STACKS not in w.log()


@CONCURRENCIES
def test_sigterm_lets_a_request_end(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        assert body_of(w.call("term")) == "still here"
        assert w.wait() == 0


@CONCURRENCIES
def test_stop(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        id = w.request("count", 3)  # waits for credit after the first chunk
        assert not w.expect(Reply).end
        w.send(Stop())
        end = w.expect(Reply)
        assert (end.id, end.end) == (id, True)
        assert end.error is not None
        assert end.error.code == "CANCELLED"
        assert w.wait() == 0
        assert "served" not in w.log()


def test_stop_when_idle() -> None:
    with Worker("zoo.py") as w:
        w.start()
        w.send(Stop())
        assert w.wait() == 0


@CONCURRENCIES
def test_the_supervisor_is_gone(concurrency: int) -> None:
    """At once, and even while an action holds the GIL and would hold it for years."""
    with Worker("zoo.py", concurrency=concurrency) as w:
        memory = Memory(w.fd)
        w.start()
        w.lifeline.send(b"")  # packets, the empty one too, are ignored
        w.lifeline.send(b"not the end")
        id = w.request("hold_the_gil")
        until(lambda: memory.u64(0x110) == id)
        assert w.process.poll() is None
        begin = time.monotonic()
        w.lifeline.shutdown(socket.SHUT_RDWR)
        assert w.wait() == 1
        assert time.monotonic() - begin < 1
        memory.bytes.close()


@pytest.mark.parametrize("concurrency", [1, 2])
def test_exit_ends_the_worker(concurrency: int) -> None:
    with Worker("zoo.py", concurrency=concurrency) as w:
        w.start()
        w.request("exit")
        assert w.wait() == (7 if concurrency == 1 else 1)


# ---- a supervisor that breaks the protocol ----


@pytest.mark.parametrize("tail", [8, 1 << 20, 16])
def test_hostile_frames(tail: int) -> None:
    with Worker("zoo.py") as w:
        memory = Memory(w.fd)
        w.start()
        until(lambda: memory.u32(S2W + ITEMS + 4) == 1)  # it sleeps, and looks once a second even if nobody wakes it
        memory.put("Q", S2W + TAIL, tail)
        assert w.wait() == 70
        assert "ringmaster: s2w: " in w.log()
        memory.bytes.close()


def test_hostile_head() -> None:
    with Worker("zoo.py", w2s=4096) as w:
        memory = Memory(w.fd)
        w.start()
        memory.put("Q", W2S + HEAD, 1 << 20)
        w.request("blob", 5000)
        assert w.wait() == 70
        assert "head" in w.log()
        memory.bytes.close()


@pytest.mark.parametrize("data", [b"\xc1", b"\x92\x03\xa1a", b"\x93\x04\x01", pack((2, 1, "x")), pack([1, 0, 5])])
def test_hostile_messages(data: bytes) -> None:
    with Worker("zoo.py") as w:
        w.start()
        w.segment.send(data)
        assert w.wait() == 70


def test_a_request_sent_twice() -> None:
    with Worker("zoo.py") as w:
        w.start()
        id = w.request("spin_until_cancelled")
        w.send(_codec.Request(id, "test", "echo"))
        assert w.wait() == 70


def test_geometry_is_not_read_again() -> None:
    with Worker("zoo.py") as w:
        memory = Memory(w.fd)
        w.start()
        memory.put("Q", 0x38, 1 << 40)
        memory.put("Q", 0x28, 1 << 40)
        assert body_of(w.call("echo", "x" * 50000)) == "x" * 50000
        memory.bytes.close()
