"""What both kinds of worker share: messages come in and change the open requests; actions run and answer."""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

from ringmaster import _codec
from ringmaster._actions import Action
from ringmaster._batch import Batch, Unequal
from ringmaster._codec import (
    BATCHABLE,
    STREAM,
    BadMessage,
    Hello,
    Ping,
    Reply,
    decode_any,
    encode,
    encode_answer,
    size_of,
)
from ringmaster._errors import Cancelled, Error, Internal, InvalidArgument, NotFound, ResourceExhausted
from ringmaster._failures import brief, logged, sendable
from ringmaster._launch import EXIT_PROTOCOL, Launch, leave
from ringmaster._regions import Regions
from ringmaster._request import Request
from ringmaster._ring import ProtocolError, tell_where
from ringmaster._tracing import Tracing
from ringmaster._values import Buffer

logger = logging.getLogger("ringmaster")

LOADING, READY, BUSY, DRAINING = 1, 2, 3, 4  # the segment's worker state

_decode = _codec.new_codec(Request).decode  # of the requests that are like most, at once as actions see them


class Worker(ABC):
    """What both kinds of worker share: messages come in and change the open requests; actions run and answer."""

    def __init__(self, given: Launch, actions: Mapping[str, Action], regions: Regions) -> None:
        self._segment = given.segment
        self._max_message = given.max_message
        self._actions = actions
        self._regions = regions  # who receives has them alone
        self._open: dict[int, Request] = {}
        self._held: dict[int, Request] = {}  # of them, those that wait for their batch; who receives has it alone
        self._draining = False
        self._termed = False
        self._tracing = Tracing()
        # Guards the requests' credit and _ended, and who comes to _open and leaves.
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)  # credit and cancels

    def run(self) -> None:
        """Say hello, and serve until drained."""
        actions = [a.declared for a in self._actions.values()]
        self._send(encode(Hello(_codec.VERSION, _codec.VERSION, _codec.SDK, actions, self._limits())))
        self._segment.set_status(READY, 0)
        self._loop()

    def _limits(self) -> dict[str, int]:
        """Return what the hello says beside the actions."""
        return {"arena": 1}

    def on_term(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle SIGTERM: as drain, but requests may go on coming."""
        self._draining = self._termed = True
        self._segment.nudge()

    @abstractmethod
    def _loop(self) -> None:
        """Receive, and see that what was received is run; return when drained."""

    @abstractmethod
    def _accept(self, call: list[Request]) -> None:
        """See that the requests are run: one, or several that are one call."""

    @abstractmethod
    def look(self) -> None:
        """See Ring."""

    @abstractmethod
    def wait(self, request: Request) -> None:
        """See Ring."""

    # ---- messages come in ----

    def _take_in(self, data: Buffer) -> None:
        request = _decode(data)
        if type(request) is Request:
            self._take_request(request)
            return
        try:
            m = decode_any(data)
            if type(m) is _codec.Request:
                try:
                    found = Request.of(m, self._regions.tensors(m.tensors), self._regions.outputs(m.outputs))
                except InvalidArgument as e:
                    self._refuse(m.id, e)
                else:
                    self._take_request(found)
                return
        except BadMessage as e:
            if e.kind != _codec.REQUEST or e.id == 0:
                leave(EXIT_PROTOCOL, f"a message from the supervisor is malformed: {e}")
            self._refuse(e.id, InvalidArgument(f"the request is malformed: {e}", reason=e.reason))
            return
        match m:
            case _codec.Batch():
                call = [self._held.pop(id) for id in m.ids if id in self._held]
                if call:
                    self._accept(call)
            case _codec.Cancel():
                self._cancel(m)
            case _codec.Credit():
                self._grant(m)
            case Ping(answer=False):
                self._send(encode(Ping(m.id, answer=True)))
            case _codec.Drain():
                self._draining = True
            case _codec.Stop():
                self._stop()

    def _take_request(self, request: Request) -> None:
        if request.id in self._open:
            leave(EXIT_PROTOCOL, f"the supervisor sent request {request.id} twice")
        request._ring = self
        self._begin(request)
        if request._held:
            self._held[request.id] = request
        else:
            self._accept([request])

    def _refuse(self, id: int, e: Error) -> None:
        self._send(encode(Reply(id, True, error=e)))

    def _cancel(self, m: _codec.Cancel) -> None:
        request = self._open.get(m.id)
        if request is not None:
            with self._lock:
                request._reason = m.reason or "cancelled"
                self._news.notify_all()
            if self._held.pop(m.id, None) is not None:
                self._end(request, self._failure(request, request._outcome()))

    def _grant(self, m: _codec.Credit) -> None:
        request = self._open.get(m.id)
        if request is not None:
            with self._lock:
                request._credit += m.n
                self._news.notify_all()

    def _stop(self) -> None:
        for request in list(self._open.values()):
            if self._claim_end(request):
                end = encode(Reply(request.id, True, error=Cancelled("the worker was stopped")))
                self._segment.try_send(*end)
        leave(0)

    # ---- actions run ----

    def _begin(self, request: Request) -> None:
        with self._lock:
            if not self._open:
                tell_where(True)
            self._open[request.id] = request

    def _finish(self, request: Request) -> None:
        with self._lock:
            del self._open[request.id]
            if not self._open:
                tell_where(False)

    def _run(self, call: list[Request]) -> None:
        request = call[0]
        self._segment.set_status(BUSY, request.id)
        action = self._actions.get(request.action)
        if len(call) == 1 and (action is None or not action.flags & BATCHABLE):
            self._end(request, self._answer(request, action))
        else:
            for request, end in self._answers(call):
                self._end(request, end)
        if self._goes_on():
            return
        others = list(self._open) if self._open else ()
        state = BUSY if others else DRAINING if self._draining else READY
        self._segment.set_status(state, others[0] if others else 0)

    @abstractmethod
    def _goes_on(self) -> bool:
        """Whether this thread has another call to run, whose request the status is about to show."""

    def _end(self, request: Request, end: list[Buffer]) -> None:
        if self._claim_end(request):
            self._send(end)
        self._finish(request)

    def _answers(self, call: list[Request]) -> Iterator[tuple[Request, list[Buffer]]]:
        """Run the action for the requests and yield the END of each."""
        by_action: dict[str, list[Request]] = {}
        for request in call:  # all are for one action, if the supervisor means well
            by_action.setdefault(request.action, []).append(request)
        for name, requests in by_action.items():
            action = self._actions.get(name)
            if action is not None and action.batch:
                yield from self._answer_batch(action, requests)
            else:
                yield from ((request, self._answer(request, action)) for request in requests)

    def _answer_batch(self, action: Action, requests: list[Request]) -> Iterator[tuple[Request, list[Buffer]]]:
        """Run the action for those of the requests that somebody waits for, and yield the END of each."""
        live = []
        for request in requests:
            if request.cancelled:
                yield request, self._failure(request, request._outcome())
            else:
                live.append(request)
        groups = [live] if live else []
        while groups:
            group = groups.pop(0)
            try:
                results = self._run_batch(action, group)
            except Unequal as e:
                groups[:0] = e.groups
                continue
            for request, result in zip(group, results, strict=True):
                yield request, self._result(request, result)

    def _run_batch(self, action: Action, requests: list[Request]) -> list[Any]:
        """Return each request's result, in order: what the action returned for it, or an exception.

        Unequal if they are to be run in groups.
        """
        batch = Batch(requests)
        try:
            with self._tracing.within(*requests):
                results = action.handler(batch)
        except Exception as e:
            if isinstance(e, Unequal) and sum(map(len, e.groups)) == len(requests):
                raise
            return [e if isinstance(e, Error) else logged(batch, e)] * len(requests)
        if type(results) is list and len(results) == len(requests):
            return results
        what = f"{len(results)} results" if type(results) is list else f"a {type(results).__name__}"
        wrong = Internal(
            f"the action returned {what} for a batch of {len(requests)}; "
            "it has to return a list with one result for each request, in their order",
            reason="handler",
            details={"type": "batch"},
        )
        logger.error("%r failed: %s", batch, wrong.message)
        return [wrong] * len(requests)

    def _result(self, request: Request, result: Any) -> list[Buffer]:
        """Return a request's END."""
        if isinstance(result, Exception):
            return self._raised(request, result)
        try:
            return self._encode(request, result, end=True)
        except Exception as e:
            return self._raised(request, e)

    def _answer(self, request: Request, action: Action | None) -> list[Buffer]:
        """Run the action, send its chunks, and return its END."""
        try:
            if action is None:
                known = ", ".join(sorted(self._actions)) or "none"
                raise NotFound(
                    f"this worker has no action {request.action!r}; it has: {known}", reason="unknown_action"
                )
            self.look()
            if request._reason is not None or (request.deadline is not None and time.monotonic() >= request.deadline):
                raise request._outcome()
            if request.trace_id and self._tracing.wanted:
                with self._tracing.within(request):
                    return self._act(action, request)
            return self._act(action, request)
        except Exception as e:
            return self._raised(request, e)

    def _act(self, action: Action, request: Request) -> list[Buffer]:
        if action.flags & STREAM:
            self._stream(request, action.handler(request))
            return encode(Reply(request.id, True, context=request._new_context()))
        return self._encode(request, action.handler(request), end=True)

    def _stream(self, request: Request, chunks: Iterable[Any]) -> None:
        iterator = iter(chunks)
        try:
            for chunk in iterator:
                request.check()
                parts = self._encode(request, chunk, end=False)
                self._take_credit(request)
                self._send(parts)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def _take_credit(self, request: Request) -> None:
        while True:
            with self._lock:
                if request._credit > 0:
                    request._credit -= 1
                    return
            self.wait(request)
            request.check()

    def _encode(self, request: Request, result: Any, end: bool) -> list[Buffer]:
        """Encode what an action returned or yielded: a body, or a tuple of a body and a dict of tensors."""
        body: object = result
        tensors: Mapping[str, Any] = {}
        if type(result) is tuple and len(result) == 2 and (type(result[1]) is dict or isinstance(result[1], Mapping)):
            body, tensors = result
            if request._outputs:
                tensors = request._place(tensors, end)
        if end:
            context = request.context
            parts = encode_answer(
                request.id, body, tensors, b"" if context is request._brought else request._new_context()
            )
        else:
            parts = encode(Reply(request.id, body=body, tensors=tensors))
        if (len(parts[0]) if len(parts) == 1 else size_of(parts)) > self._max_message:
            raise ResourceExhausted(
                f"the answer is {size_of(parts)} bytes, the limit is {self._max_message} bytes; "
                "answer less at a time or raise max_message",
                reason="too_large",
            )
        return parts

    def _raised(self, request: Request, e: Exception) -> list[Buffer]:
        return self._failure(request, e if isinstance(e, Error) else logged(request, e))

    def _failure(self, request: Request, e: Error) -> list[Buffer]:
        parts = encode(Reply(request.id, True, error=sendable(e)))
        if size_of(parts) > self._max_message:
            parts = encode(Reply(request.id, True, error=brief(e)))
        return parts

    def _claim_end(self, request: Request) -> bool:
        """Return True to the one who is to send the request's END."""
        with self._lock:
            claimed, request._ended = request._ended, True
        return not claimed

    def _send(self, parts: list[Buffer]) -> None:
        try:
            self._segment.send(*parts)
        except ProtocolError as e:
            leave(EXIT_PROTOCOL, str(e))
