"""The worker's side: runs actions for the requests that the supervisor sends through shared memory.

    serve ─ handshake ─ load ─ hello ─┐
                                      ▼
             ┌──────────────── receive ◀── request, cancel, credit, ping, drain, stop
             ▼
       run the action ──▶ chunk, chunk, … END

Inline (concurrency 1): one thread does it all. While an action runs the ring is looked at between chunks, by
request.cancelled, and while a chunk waits for credit. A request that is found there, sent ahead, waits for its turn,
and until then is unread to the supervisor: should this process die, it has not begun. Threaded: the main thread
receives, and runs what is quick itself; others run the rest, and one of them receives while the main thread is late.

Requests that are held wait until the supervisor says which of them are one call; that call occupies one thread. To an
action that takes batches a request that comes alone is a batch of one.

Arenas of clients, which the supervisor attaches over the lifeline, are mapped by the thread that receives, when it is
nudged or when a request names one. A request's tensors in them are views, and so is what it writes its answer to.

A request ends in exactly one END. A stream that is cancelled is closed at its yield: the generator sees
GeneratorExit, so `finally` and `with` work, and the END carries CANCELLED. An action that returns although it was
cancelled has its result sent as ever.

What ends a worker: `drain` or SIGTERM (serve returns when the open requests have ended), `stop` (status 0, at once),
end of file on the lifeline (status 1, at once, by a C thread that needs no GIL), a supervisor that breaks the
protocol (status 70), an exception that is not an Exception, such as SystemExit.

A worker that gets SIGTERM while it has a request, or does not end although it was drained, hangs or is late: first of
all it writes to standard error where each thread is (faulthandler). That is done in C and needs no GIL.

What a small request costs here is mostly Python, so what every request passes is short and does nothing that few need:
docs/decisions/0019-python-hot-path.md.
"""

import faulthandler
import logging
import os
import queue
import signal
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from threading import get_ident
from types import FrameType
from typing import Any

from ringmaster import _codec
from ringmaster._actions import Action, select
from ringmaster._batch import Batch, Unequal
from ringmaster._codec import (
    BATCHABLE,
    IDEMPOTENT,
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
from ringmaster._errors import Cancelled, Error, Internal, InvalidArgument, NotFound, ResourceExhausted, error_of
from ringmaster._launch import EXIT_PROTOCOL, Launch, launch, leave
from ringmaster._pin import new_pinner
from ringmaster._regions import Regions
from ringmaster._request import Request
from ringmaster._ring import ProtocolError, lifeline_packets, lifeline_pending, tell_on_term, tell_where
from ringmaster._tracing import Tracing
from ringmaster._values import Buffer

logger = logging.getLogger("ringmaster")

LOADING, READY, BUSY, DRAINING = 1, 2, 3, 4  # the segment's worker state

_AHEAD = 8  # requests that may wait in the ring while one is in hand
_QUICK = 20e-6  # seconds; an action that takes less, on average, is over before another thread would have begun it
_SLOW = 4 * _QUICK  # what counts of a longer one: once may be the machine's doing, three times are the action's
_LOOK = 0.005  # seconds between looks whether the main thread is late
_BURST = 64  # messages that are taken out of the ring at a time

_decode = _codec.new_codec(Request).decode  # of the requests that are like most, at once as actions see them

TRACEBACK_BYTES = 16 << 10
MESSAGE_BYTES = 4 << 10  # of an error's message


def serve(
    load: Callable[[], object] | None = None,
    actions: Iterable[Callable[..., Any]] | None = None,
    *,
    pin: bool | None = None,
) -> None:
    """Serve requests until the supervisor drains this worker.

    load     called after the handshake and before the first request: the place for what takes long, importing a
             framework and loading a model. The handshake must be made within 10 seconds of the start; load has the
             pool's start_timeout. If it raises, the process ends with status 1.
    actions  the decorated functions to serve; all there are, if None.
    pin      register clients' arenas with CUDA (cudaHostRegister), once each, so that tensors in them are copied to and
             from the GPU directly, also asynchronously. Where there is no CUDA the log says so once. None: as the
             environment's RINGMASTER_PIN=1 says, which a pool's `env` can set.

    Call it from the main thread, as the program's last statement, and print nothing before. From then on standard
    output goes to the log, as standard error does.
    """
    chosen = select(actions)
    given = launch()
    given.segment.set_status(LOADING, 0)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: leave(0))  # nothing is open yet
    os.register_at_fork(after_in_child=_forget)
    if load is not None:
        try:
            load()
        except Exception:
            traceback.print_exc()
            leave(1)
    regions = Regions(lifeline_packets, new_pinner(pin))
    worker = (Inline if given.concurrency == 1 else Threaded)(given, chosen, regions)
    signal.signal(signal.SIGTERM, worker.on_term)
    tell_on_term(lambda number: faulthandler.register(number, file=2, all_threads=True, chain=False))
    worker.run()
    tell_where(True)  # whatever keeps the program from its end now


def _forget() -> None:
    """Let SIGTERM end a child that an action forked, as it ends any process: the child is no worker."""
    tell_where(False)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
            return [e if isinstance(e, Error) else _logged(batch, e)] * len(requests)
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
        return self._failure(request, e if isinstance(e, Error) else _logged(request, e))

    def _failure(self, request: Request, e: Error) -> list[Buffer]:
        parts = encode(Reply(request.id, True, error=_sendable(e)))
        if size_of(parts) > self._max_message:
            parts = encode(Reply(request.id, True, error=_brief(e)))
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


class Threaded(Worker):
    """Several requests at a time, in the main thread or in others.

    The main thread receives. To hand a request to another costs more than a quick action takes, so it runs those
    itself. What it has received and not run, and the receiving, another thread takes over should it be late:

        main     receive ─▶ quick? ─▶ run ─▶ receive …
        watcher  every 5 ms: is it the same one as before?  ─▶ receive for it ─▶ until it is back
        action-N run what is slow, and what comes while the watcher receives

    Who receives has _reading; the watcher sleeps while nothing comes.
    """

    def __init__(self, given: Launch, actions: Mapping[str, Action], regions: Regions) -> None:
        super().__init__(given, actions, regions)
        self._reading = threading.Lock()
        self._quick: deque[list[Request]] = deque()  # who receives has it
        self._paces: dict[str, float] = {}  # how long actions take on average, seconds
        self._turns = 0  # of the main thread: odd while it runs an action
        self._running = ""  # that action
        self._relief = False  # the watcher receives
        self._back = False  # the main thread wants to receive again
        self._over = False
        self._asleep = False  # the watcher waits for _bell
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._queue: queue.SimpleQueue[list[Request] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"action-{i}", daemon=True) for i in range(given.concurrency)
        ]

    def _loop(self) -> None:
        for t in self._threads:
            t.start()
        self._watcher.start()
        quick = self._quick
        with self._reading:
            while not (self._draining and not self._open):
                self._receive_many()
                while quick:
                    self._run_here(quick.popleft())
        for _ in self._threads:
            self._queue.put(None)
        self._over = True
        self._bell.put(None)
        for t in self._threads:
            t.join()
        self._watcher.join()

    def _run_here(self, call: list[Request]) -> None:
        self._running = call[0].action
        self._turns += 1
        if self._asleep:
            self._asleep = False
            self._bell.put(None)
        self._reading.release()
        try:
            self._run(call)
        except BaseException:
            traceback.print_exc()
            leave(1)
        self._turns += 1
        if not self._reading.acquire(blocking=False):
            self._back = True
            self._segment.nudge()
            self._reading.acquire()
            self._back = False

    def _watch(self) -> None:
        try:
            seen = 0
            while not self._over:
                self._sleep(_LOOK)
                if seen == self._turns:
                    if seen % 2 == 1:
                        self._relieve()
                    else:
                        self._asleep = True
                        if seen == self._turns and not self._over:  # else it may not have seen that we sleep
                            self._sleep(None)
                        self._asleep = False
                seen = self._turns
        except BaseException:
            traceback.print_exc()
            leave(1)

    def _sleep(self, timeout: float | None) -> None:
        with suppress(queue.Empty):
            self._bell.get(timeout=timeout)

    def _relieve(self) -> None:
        """Receive in the main thread's place, until it is back."""
        if not self._reading.acquire(blocking=False):
            return
        if self._running in self._actions:
            self._paces[self._running] = _SLOW
        self._relief = True
        while self._quick:
            self._queue.put(self._quick.popleft())
        while not self._back:
            self._receive_many()
        self._relief = False
        self._reading.release()

    def _receive_many(self) -> None:
        """Take in what there is, after waiting for it: all at once, so that this thread asks less often for the GIL."""
        try:
            messages = self._segment.recv_many(None, _BURST, False)
        except ProtocolError as e:
            leave(EXIT_PROTOCOL, str(e))
        if lifeline_pending():
            self._regions.update()
        for data in messages:
            self._take_in(data)

    def _work(self) -> None:
        try:
            while (call := self._queue.get()) is not None:
                self._run(call)
                call.clear()  # a thread that waits holds nobody's arrays, nor the arena in which they lie
                if self._draining:
                    self._segment.nudge()  # it may have been the last
        except BaseException:
            traceback.print_exc()
            leave(1)

    def _accept(self, call: list[Request]) -> None:
        if len(call) == 1 and not self._relief and self._is_quick(call[0].action):
            self._quick.append(call)
        else:
            self._queue.put(call)

    def _is_quick(self, name: str) -> bool:
        """Whether an action is over soon. One that nothing is known of is taken to be."""
        action = self._actions.get(name)
        return action is None or (action.flags & ~IDEMPOTENT == 0 and self._paces.get(name, 0.0) < _QUICK)

    def _goes_on(self) -> bool:
        return bool(self._quick)  # those of the thread that receives; for the others it may be wrong for a moment

    def _act(self, action: Action, request: Request) -> list[Buffer]:
        if action.flags & STREAM:
            return super()._act(action, request)
        begin = time.monotonic()
        try:
            result = action.handler(request)
        finally:
            pace = self._paces.get(action.name, 0.0)
            self._paces[action.name] = pace + (min(time.monotonic() - begin, _SLOW) - pace) / 8
        return self._encode(request, result, end=True)

    def look(self) -> None:
        """See Ring. Who receives looks."""

    def wait(self, request: Request) -> None:
        """See Ring."""
        with self._lock:
            if request._credit == 0 and request._reason is None:
                self._news.wait(request.time_left())


# ---- errors for the wire ----


def _logged(what: object, e: Exception) -> Error:
    error = _sendable(_internal(e))
    logger.error("%r failed\n%s", what, error.details["traceback"])
    return error


def _internal(e: Exception) -> Internal:
    tb = e.__traceback__
    while tb is not None and tb.tb_next is not None and tb.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next
    kind = type(e).__qualname__
    if type(e).__module__ != "builtins":
        kind = f"{type(e).__module__}.{kind}"
    text = "".join(traceback.format_exception(type(e), e, tb))
    return Internal(f"the action raised {kind}: {e}", reason="handler", details={"type": kind, "traceback": text})


def _sendable(e: Error) -> Error:
    """Return e with what a handler may have put there made fit to send: strings, UTF-8, bounded.

    Of a traceback the end is kept, which tells most.
    """
    details = {_clip(str(k), 256): _clip(str(v), TRACEBACK_BYTES, keep_end=True) for k, v in e.details.items()}
    return error_of(
        e.code,
        _clip(str(e.message), MESSAGE_BYTES),
        reason=_clip(e.reason, 256),
        retry_after=e.retry_after,
        details=details,
    )


def _brief(e: Error) -> Error:
    return error_of(e.code, "the error is too large to be sent", reason=_clip(e.reason, 32))


def _clip(text: str, limit: int, *, keep_end: bool = False) -> str:
    data = text.encode("utf-8", "backslashreplace")
    data = data[-limit:] if keep_end else data[:limit]
    return data.decode("utf-8", "ignore")
