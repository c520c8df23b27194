"""How a connection begins: hellos over the socket, and perhaps a pair of rings that comes with the server's.

Nothing here waits: client.py and aio.py do that, each in its own way.
"""

import array
import os
import socket
import time

from ringmaster._errors import DataLoss
from ringmaster._eventfd import no_eventfd
from ringmaster._ring import ProtocolError, Segment
from ringmaster._session import Session
from ringmaster._values import Buffer

RING = 1 << 20  # bytes of each of the two rings that a client asks for

_RIGHTS = 8  # descriptors that are taken; the kernel closes others


class Greeting:
    """The hellos of one connection: send `hello`, receive until the session is greeted, then take the segment."""

    def __init__(self, session: Session, ring: int) -> None:
        self.hello = b"".join(session.hello(ring))
        self.answers: list[list[Buffer]] = []  # what is to be sent in turn
        self._session = session
        self._files = list[int]()

    def receive(self, s: socket.socket) -> None:
        """Receive once. OSError, or an Error: the server's last word, or its breach of the protocol."""
        room = socket.CMSG_SPACE(_RIGHTS * array.array("i").itemsize)
        buffer = self._session.deframer.buffer()
        n, control, _, _ = s.recvmsg_into([buffer], room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                files = array.array("i")
                files.frombytes(data[: len(data) - len(data) % files.itemsize])
                self._files += files
        if n == 0:
            raise ConnectionError("it hung up")
        for message in self._session.deframer.received(n):
            answer = self._session.receive(message)
            if answer:
                self.answers.append(answer)

    def segment(self, s: socket.socket) -> Segment | None:
        """Return the rings, of which s is the bell from now on, or None if the server gave none."""
        if self._session.ring == 0:
            return None
        if not self._files:
            raise DataLoss("the server's hello says that rings come with it, and none do")
        fd, eventfd, *_ = *self._files, -1
        try:
            segment = Segment(fd, "worker", self._session.max_message, s.fileno(), eventfd)
        except ProtocolError as e:
            raise DataLoss(f"the rings that came with the server's hello cannot be used: {e}") from e
        why = no_eventfd(eventfd) if segment.has_eventfd else ""
        if why:
            segment.close()
            raise DataLoss(f"the eventfd that came with the server's hello is none: {why}")
        return segment

    def close(self) -> None:
        """Close the descriptors that came."""
        while self._files:
            os.close(self._files.pop())


def greet(s: socket.socket, session: Session, ring: int, deadline: float) -> tuple[Segment | None, list[list[Buffer]]]:
    """Exchange hellos, and return the rings, or None, and what is to be sent.

    TimeoutError after deadline; OSError and Error as receive.
    """
    greeting = Greeting(session, ring)
    try:
        _set_timeout(s, deadline)
        s.sendall(greeting.hello)
        while not session.greeted:
            _set_timeout(s, deadline)
            greeting.receive(s)
        s.settimeout(None)
        return greeting.segment(s), greeting.answers
    finally:
        greeting.close()


def _set_timeout(s: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    s.settimeout(left)
