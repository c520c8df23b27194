"""A worker of concurrency 1: one thread receives, acts and answers."""

from collections import deque
from collections.abc import Mapping
from threading import get_ident

from ringmaster._actions import Action
from ringmaster._launch import EXIT_PROTOCOL, Launch, leave
from ringmaster._regions import Regions
from ringmaster._request import Request
from ringmaster._ring import ProtocolError, lifeline_pending, tell_where
from ringmaster._serving import Worker
from ringmaster._values import Buffer

_AHEAD = 8  # requests that may wait in the ring while one is in hand


class Inline(Worker):
    """One request at a time, everything in the main thread.

    What comes while an action runs is peeked at: to the supervisor all is read up to the last call that has begun.
    """

    def __init__(self, given: Launch, actions: Mapping[str, Action], regions: Regions) -> None:
        super().__init__(given, actions, regions)
        self._waiting: deque[tuple[list[Request], int]] = deque()  # each with the ring's position behind it
        self._thread = get_ident()

    def _loop(self) -> None:
        while True:
            while self._waiting:
                call, end = self._waiting.popleft()
                if self._termed and not self._held and self._unread(end):
                    return  # another worker gets it
                self._segment.settle(end if self._waiting else None)
                self._run(call)
                call.clear()  # an idle worker holds nobody's arrays, nor the arena in which they lie
            if self._draining and not self._held:
                return
            self._receive()

    def _accept(self, call: list[Request]) -> None:
        self._waiting.append((call, self._segment.received))

    def _unread(self, end: int) -> bool:
        return end > self._segment.read

    def _limits(self) -> dict[str, int]:
        return {**super()._limits(), "ahead": _AHEAD}

    def _stop(self) -> None:
        for call, end in self._waiting:
            if self._unread(end):
                for request in call:
                    del self._open[request.id]  # another worker gets it
        super()._stop()

    # One thread opens and ends requests, so nothing has to be locked for that.

    def _begin(self, request: Request) -> None:
        if not self._open:
            tell_where(True)
        self._open[request.id] = request

    def _end(self, request: Request, end: list[Buffer]) -> None:
        if not request._ended:
            request._ended = True
            self._send(end)
        del self._open[request.id]
        if not self._open:
            tell_where(False)

    def _goes_on(self) -> bool:
        return bool(self._waiting)

    def _claim_end(self, request: Request) -> bool:
        claimed, request._ended = request._ended, True
        return not claimed

    def look(self) -> None:
        """See Ring. A thread that the action started sees what the main thread has seen."""
        if get_ident() == self._thread:
            while self._peek(0.0):
                pass

    def wait(self, request: Request) -> None:
        """See Ring."""
        self._peek(request.time_left())

    def _peek(self, timeout: float | None) -> bool:
        """Take in one message, waiting for it no longer than timeout seconds; False if there was none."""
        try:
            data = self._segment.peek(timeout)
        except ProtocolError as e:
            leave(EXIT_PROTOCOL, str(e))
        if lifeline_pending():
            self._regions.update()
        if data is None:
            return False
        self._take_in(data)
        if not self._waiting:
            self._segment.settle(None)
        return True

    def _receive(self) -> None:
        try:
            data = self._segment.recv(None)
        except ProtocolError as e:
            leave(EXIT_PROTOCOL, str(e))
        if lifeline_pending():
            self._regions.update()
        if data is not None:
            self._take_in(data)
