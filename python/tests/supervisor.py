"""The supervisor's side of one worker process, as small as a test needs it: docs/protocol.md, sections 1 and 6."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from ringmaster import _codec
from ringmaster._codec import Attach, Cancel, Credit, Detach, Message, Reply, Request, decode, encode
from ringmaster._launch import COOKIE
from ringmaster._ring import Segment

M = TypeVar("M")

WORKERS = Path(__file__).parent / "workers"
PATIENCE = 20.0  # seconds after which a test has failed


class Worker:
    """A real worker process with its segment and its lifeline; use it in a with statement."""

    def __init__(
        self,
        program: str,
        *,
        concurrency: int = 1,
        max_message: int = 1 << 20,
        s2w: int = 1 << 16,
        w2s: int = 1 << 16,
        max_frame: int = 0,
        env: Mapping[str, str] | None = None,
        damage: Callable[[int], None] | None = None,
    ) -> None:
        self.fd = Segment.create(s2w=s2w, w2s=w2s, incarnation=0x1234_5678_9ABC, max_frame=max_frame)
        self.segment = Segment(self.fd, "supervisor", max_message)
        if damage is not None:
            damage(self.fd)
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 - until __exit__
        self.lifeline, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = subprocess.Popen(
            [sys.executable, str(WORKERS / "exec34.py"), str(self.fd), str(theirs.fileno()), str(WORKERS / program)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            pass_fds=(self.fd, theirs.fileno()),
            env={
                **os.environ,
                "RINGMASTER_COOKIE": COOKIE,
                "PLUGIN_PROTOCOL_VERSIONS": "1",
                "RINGMASTER_POOL": "test",
                "RINGMASTER_SLOT": "0",
                "RINGMASTER_CONCURRENCY": str(concurrency),
                "RINGMASTER_MAX_MESSAGE": str(max_message),
                **(env or {}),
            },
        )
        theirs.close()
        self.next_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.stderr.close()
        self.lifeline.close()
        self.segment.close()
        os.close(self.fd)

    def handshake(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def start(self) -> _codec.Hello:
        """Take the handshake and the hello."""
        assert self.handshake() == "1|1|unix|fd:4|netrpc\n"
        return self.expect(_codec.Hello)

    def send(self, m: Message) -> None:
        self.segment.send(*encode(m))

    def receive(self) -> Message | None:
        """Return the next message; fail if none comes."""
        data = self.segment.recv(PATIENCE)
        assert data is not None, f"no message; the worker {self.end_if_dead()}"
        return decode(data)

    def attach(self, region: int, fd: int, size: int) -> None:
        """Send the worker a region's descriptor, and close it here."""
        try:
            socket.send_fds(self.lifeline, [b"".join(map(bytes, encode(Attach(0, size, region))))], [fd])
        finally:
            os.close(fd)

    def detach(self, region: int) -> None:
        self.lifeline.send(b"".join(map(bytes, encode(Detach(region)))))

    def expect(self, kind: type[M]) -> M:
        m = self.receive()
        assert isinstance(m, kind), m
        return m

    def request(self, action: str, body: object = None, **more: Any) -> int:
        """Send a request and return its id."""
        self.next_id += 1
        self.send(Request(self.next_id, "test", action, body=body, **more))
        return self.next_id

    def call(self, action: str, body: object = None, **more: Any) -> Reply:
        """Send a request and return its only reply."""
        id = self.request(action, body, **more)
        reply = self.expect(Reply)
        assert reply.id == id
        assert reply.end
        return reply

    def cancel(self, id: int, reason: str = "cancelled") -> None:
        self.send(Cancel(id, reason))

    def credit(self, id: int, n: int) -> None:
        self.send(Credit(id, n))

    def wait(self) -> int:
        """Return the exit status, -9 for SIGKILL."""
        return self.process.wait(PATIENCE)

    def log(self) -> str:
        """Return what it has written to standard error."""
        fd = self.stderr.fileno()
        return os.pread(fd, os.fstat(fd).st_size, 0).decode()  # not read: the offset is the worker's, too

    def end_if_dead(self) -> str:
        status = self.process.poll()
        return "lives" if status is None else f"ended with {status}: {self.log()}"


def body_of(reply: Reply) -> Any:
    """Return a reply's body, decoded."""
    assert reply.error is None, (reply.error, reply.error and reply.error.details)
    return reply.body.decode() if isinstance(reply.body, _codec.Encoded) else reply.body
