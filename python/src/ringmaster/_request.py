"""A request as its handler sees it."""

import time
from collections.abc import Mapping
from typing import Any, Protocol

from ringmaster import _codec
from ringmaster._errors import Cancelled, DeadlineExceeded, Error, InvalidArgument
from ringmaster._tensors import Array
from ringmaster._values import Encoded


class Ring(Protocol):
    """What a request needs of its worker."""

    def look(self) -> None:
        """Take in what the supervisor has said by now, where that is this thread's part."""

    def wait(self, request: "Request") -> None:
        """Wait until the supervisor has said something more, or the request's deadline."""


class Request:
    """One request.

    id        the supervisor's number for it
    pool      the pool that was asked, and action, the action
    trace_id  W3C traceparent, or "": which trace the request is part of, and the span that the worker's own spans are
              below. Where opentelemetry is installed its current context says the same while the action runs, so that
              tracer.start_as_current_span needs nothing more; in a batch of several each request has its own
    context   the session's opaque bytes
    headers   strings by name
    tensors   NumPy arrays by name: views of the message, without a copy, writable; where alignment to their item size
              matters, np.require(a, requirements="A") copies if it must
    deadline  on time.monotonic's clock, in seconds; None if there is none
    """

    __slots__ = (
        "_body", "_credit", "_ended", "_reason", "_ring",
        "action", "context", "deadline", "headers", "id", "pool", "tensors", "trace_id",
    )  # fmt: skip

    def __init__(self, message: _codec.Request, ring: Ring) -> None:
        self.id = message.id
        self.pool = message.pool
        self.action = message.action
        self.trace_id = message.trace_id
        self.context = message.context
        self.headers: Mapping[str, str] = message.headers
        self.tensors: Mapping[str, Array] = message.tensors  # type: ignore[assignment]  # decoded ones are arrays
        self.deadline = time.monotonic() + message.timeout_us / 1e6 if message.timeout_us else None
        self._body = message.body
        self._credit = message.credit  # guarded by the worker's lock
        self._reason: str | None = None  # why it was cancelled; set once
        self._ended = False  # guarded by the worker's lock: somebody sends, or has sent, its END
        self._ring = ring

    def __repr__(self) -> str:
        return f"<Request {self.id} {self.pool}.{self.action}>"

    @property
    def body(self) -> Any:
        """The body, decoded when it is first asked for. InvalidArgument/bad_body if it cannot be."""
        if type(self._body) is Encoded:
            try:
                self._body = self._body.decode()
            except ValueError as e:
                raise InvalidArgument(f"the body cannot be decoded: {e}", reason="bad_body") from e
        return self._body

    def time_left(self) -> float | None:
        """Return the seconds until the deadline, at least 0; None if there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more: the caller has gone, or the deadline has passed."""
        self._ring.look()
        return self._reason is not None or self.time_left() == 0

    def check(self) -> None:
        """Raise Cancelled or DeadlineExceeded if nobody waits any more; a long action calls it now and then."""
        if self.cancelled:
            raise self._outcome()

    def _outcome(self) -> Error:
        """Return the error of a request that nobody waits for any more."""
        if self._reason in (None, "deadline"):
            return DeadlineExceeded("the request's deadline has passed")
        return Cancelled("the request was cancelled by its caller")
