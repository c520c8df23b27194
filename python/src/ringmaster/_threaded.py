"""A worker that has several requests at a time."""

import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping
from contextlib import suppress

from ringmaster._actions import Action
from ringmaster._codec import IDEMPOTENT, STREAM
from ringmaster._launch import EXIT_PROTOCOL, Launch, leave
from ringmaster._regions import Regions
from ringmaster._request import Request
from ringmaster._ring import ProtocolError, lifeline_pending
from ringmaster._serving import Worker
from ringmaster._values import Buffer

_QUICK = 20e-6  # seconds; an action that takes less, on average, is over before another thread would have begun it
_SLOW = 4 * _QUICK  # what counts of a longer one: once may be the machine's doing, three times are the action's
_LOOK = 0.005  # seconds between looks whether the main thread is late
_BURST = 64  # messages that are taken out of the ring at a time


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
