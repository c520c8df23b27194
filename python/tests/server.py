"""A server that speaks docs/protocol.md, section 7, and does what a test wants: its actions are the methods do_*."""

import contextlib
import queue
import socket
import threading
from pathlib import Path
from typing import Any, Self

from ringmaster import _codec
from ringmaster._codec import Cancel, Credit, Drain, Hello, Message, Ping, Reply, Request, decode, encode
from ringmaster._errors import error_of

PATIENCE = 20.0  # seconds after which a test has failed


class Server:
    """Listens on path, or on a port if that is None; events is what happened, for tests to wait for."""

    def __init__(self, path: Path | None, hello: Message | bytes | None = None) -> None:
        self.hello = hello or Hello(1, 1, "test", (), {"max_message": 8 << 20, "max_in_flight": 64})
        self.events: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self.connections: list[Connection] = []
        self.listener = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX)
        self.listener.bind(("127.0.0.1", 0) if path is None else str(path))
        self.listener.listen()
        self.path: Any = path or f"tcp://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self.accept)
        self.thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(PATIENCE)
        self.listener.close()
        if isinstance(self.path, Path):
            self.path.unlink()
        for c in self.connections:
            c.hang_up()
        for c in self.connections:
            c.join()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                s, _ = self.listener.accept()
                self.connections.append(Connection(self, s))
                self.connections[-1].threads[0].start()

    def happened(self, name: str) -> tuple[Any, ...]:
        """Wait for an event of that name, skipping others; return the rest of it."""
        while True:
            event = self.events.get(timeout=PATIENCE)
            if event[0] == name:
                return event[1:]


class Connection:
    """One client's connection: a thread reads, and one more for each request answers."""

    def __init__(self, server: Server, s: socket.socket) -> None:
        self.server = server
        self.socket = s
        self.writing = threading.Lock()
        self.changed = threading.Condition()
        self.credit: dict[int, int] = {}
        self.cancelled: dict[int, str] = {}
        self.gone = False
        self.pongs = 0
        self.threads = [threading.Thread(target=self.serve)]

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        for t in self.threads:
            t.join(PATIENCE)
            assert not t.is_alive()
        self.socket.close()

    def send(self, m: Message | bytes) -> None:
        data = m if isinstance(m, bytes) else b"".join(map(bytes, encode(m)))
        with self.writing, contextlib.suppress(OSError):
            self.socket.sendall(len(data).to_bytes(4, "little") + data)

    def read(self, n: int) -> bytes:
        data = self.socket.recv(n, socket.MSG_WAITALL)
        if len(data) < n:
            raise ConnectionResetError
        return data

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                m = decode(bytearray(self.read(int.from_bytes(self.read(4), "little"))))
                self.take_in(m)
        with self.changed:
            self.gone = True
            self.changed.notify_all()
        self.server.events.put(("gone",))

    def take_in(self, m: Message | None) -> None:
        match m:
            case Hello():
                self.server.events.put(("hello", m))
                self.send(self.server.hello)
            case Request():
                self.server.events.put(("request", m))
                self.credit[m.id] = m.credit
                t = threading.Thread(target=getattr(self, f"do_{m.action}"), args=(m,))
                self.threads.append(t)
                t.start()
            case Cancel():
                with self.changed:
                    self.cancelled[m.id] = m.reason
                    self.changed.notify_all()
                self.server.events.put(("cancel", m.reason))
            case Credit():
                with self.changed:
                    self.credit[m.id] += m.n
                    self.changed.notify_all()
                self.server.events.put(("credit", m.n))
            case Ping():
                with self.changed:
                    self.pongs += 1
                    self.changed.notify_all()
                self.server.events.put(("ping", m))

    # ---- actions ----

    def do_echo(self, m: Request) -> None:
        headers = {**m.headers, "pool": m.pool, "trace": m.trace_id, "context": bytes(m.context).decode("latin1")}
        headers["timeout"] = str(m.timeout_us)
        self.send(Reply(m.id, True, headers, m.body, m.tensors))

    def do_status(self, m: Request) -> None:
        self.do_echo(Request(m.id, m.pool, body={"pools": [], "asked": m.pool}))

    do_health = do_whoami = do_echo

    def do_count(self, m: Request) -> None:
        """Send body chunks, as credit allows, and say how many were on their way."""
        for i in range(m.body):
            with self.changed:
                self.changed.wait_for(lambda: self.credit[m.id] > 0 or m.id in self.cancelled or self.gone, PATIENCE)
                if m.id in self.cancelled:
                    return self.send(Reply(m.id, True, error=error_of("CANCELLED", "", reason="cancelled")))
                self.credit[m.id] -= 1
            self.server.events.put(("chunk", i))
            self.send(Reply(m.id, body={"i": i}))
        return self.send(Reply(m.id, True))

    def do_hang(self, m: Request) -> None:
        """Answer only when cancelled."""
        self.server.events.put(("hanging", m.id))
        with self.changed:
            self.changed.wait_for(lambda: m.id in self.cancelled or self.gone, PATIENCE)
        self.send(Reply(m.id, True, error=error_of("CANCELLED", "", reason="cancelled")))

    def do_chunk_then_hang(self, m: Request) -> None:
        self.send(Reply(m.id, body={"i": 0}))
        self.do_hang(m)

    def do_fail(self, m: Request) -> None:
        code, reason = m.body.decode()
        self.send(Reply(m.id, True, error=error_of(code, "why", reason=reason, retry_after=0.25, details={"k": "v"})))

    def do_drop(self, m: Request) -> None:
        self.hang_up()

    def do_last_word(self, m: Request) -> None:
        self.send(Reply(0, True, error=error_of("INVALID_ARGUMENT", "twice", reason="duplicate_id")))
        self.hang_up()

    def do_drain(self, m: Request) -> None:
        self.send(Drain())
        self.do_echo(m)

    def do_ping(self, m: Request) -> None:
        self.send(Ping(77))
        self.do_echo(m)

    def do_answer_after_a_pong(self, m: Request) -> None:
        self.send(Ping(78))
        with self.changed:
            assert self.changed.wait_for(lambda: self.pongs > 0 or self.gone, PATIENCE)
        self.do_echo(m)

    def do_too_much(self, m: Request) -> None:
        chunk = b"".join(map(bytes, encode(Reply(m.id, body=1))))
        with self.writing:  # at once, so that none is taken before the last has come
            self.socket.sendall((len(chunk).to_bytes(4, "little") + chunk) * (m.credit + 1))

    def do_raw(self, m: Request) -> None:
        """Send the body as a frame."""
        self.send(m.body)

    def do_length(self, m: Request) -> None:
        """Send the body as a frame's length."""
        self.socket.sendall(m.body.to_bytes(4, "little"))

    def do_late(self, m: Request) -> None:
        """Answer something that was never asked, and something of an unknown kind, first."""
        self.send(Reply(1 << 40, True, body="late"))
        self.send(_codec.pack((99, 1, "what")))
        self.do_echo(m)

    def do_stream_with_tensors(self, m: Request) -> None:
        self.send(Reply(m.id, body="a", tensors=m.tensors, headers={"n": "0"}))
        self.send(Reply(m.id, True, body="b"))
