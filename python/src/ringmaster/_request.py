"""A request as its handler sees it."""

import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from ringmaster import _codec
from ringmaster._errors import Cancelled, DeadlineExceeded, Error, InvalidArgument
from ringmaster._regions import Output
from ringmaster._tensors import Array, Shape, dtype_name, extent
from ringmaster._values import Buffer, Encoded


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
    context   the session's opaque bytes. An action that assigns others sends them back with the end of its answer, and
              the session's next request brings them
    headers   strings by name
    tensors   NumPy arrays by name, without a copy. Those that came in the message are views of it, writable; where
              alignment to their item size matters, np.require(a, requirements="A") copies if it must. Those that lie in
              the client's arena are read-only, aligned to 64 bytes, and what the client wrote only until the action
              returns: then the memory is the client's again, so copy what is to be kept
    deadline  on time.monotonic's clock, in seconds; None if there is none
    """

    __slots__ = (
        "_body", "_brought", "_credit", "_ended", "_held", "_outputs", "_reason", "_ring",
        "action", "context", "deadline", "headers", "id", "pool", "tensors", "trace_id",
    )  # fmt: skip

    _ring: Ring  # set by the worker

    # As the codec calls it: the fields of _codec.Request in their order.
    def __init__(
        self,
        id: int,
        pool: str,
        action: str,
        trace_id: str,
        context: Buffer,
        timeout_us: int,
        credit: int,
        headers: Mapping[str, str],
        body: object,
        tensors: Mapping[str, Array],
        held: bool,
        outputs: Mapping[str, Output],
    ) -> None:
        self.id = id
        self.pool = pool
        self.action = action
        self.trace_id = trace_id
        self.context = self._brought = context
        self.headers = headers
        self.tensors = tensors
        self.deadline = time.monotonic() + timeout_us / 1e6 if timeout_us else None
        self._body = body
        self._credit = credit  # guarded by the worker's lock
        self._held = held  # until its batch comes
        self._reason: str | None = None  # why it was cancelled; set once
        self._ended = False  # guarded by the worker's lock: somebody sends, or has sent, its END
        self._outputs = outputs

    @classmethod
    def of(cls, m: _codec.Request, tensors: Mapping[str, Array], outputs: Mapping[str, Output]) -> "Request":
        """Return the request of a message whose tensors and outputs have been found."""
        return cls(
            m.id, m.pool, m.action, m.trace_id, m.context, m.timeout_us, m.credit, m.headers, m.body, tensors, m.held,
            outputs,
        )  # fmt: skip

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

    def output(self, name: str, shape: Shape, dtype: DTypeLike = float) -> Array:
        """Return an array of that shape and dtype for the tensor of the answer that is named so.

        It is a view of the client's memory if the client has set aside enough for it (outputs=); when it is returned
        under this name, nothing is copied. Otherwise it is an ordinary array. What it holds at first is undefined, and
        what is in it when the action fails or does not return it, nobody sees. Once it is returned it is the client's:
        do not keep it. The same name asked for again is the same memory, and of a stream's chunks one may have it.
        """
        kind, lengths, nbytes = extent(name, shape, dtype)
        output = self._outputs.get(name)
        there = None if output is None else output.array(kind, lengths, nbytes)
        return np.empty(lengths, kind) if there is None else there

    def _place(self, tensors: Mapping[str, Any], end: bool) -> Mapping[str, Any]:
        """Return an answer's tensors, those that lie where the client wants them, or are copied there, as Placed.

        Only the last answer is copied there: each output holds one tensor.
        """
        if not self._outputs:
            return tensors
        placed = dict(tensors)
        for name, output in self._outputs.items():
            if name in placed:
                a = np.asarray(placed[name])
                dtype = dtype_name(name, a.dtype)
                if not output.holds(a):
                    to = output.array(a.dtype.newbyteorder("="), a.shape, a.nbytes) if end else None
                    if to is None:
                        continue
                    np.copyto(to, a)
                placed[name] = output.placed(dtype, a)
        return placed

    def time_left(self) -> float | None:
        """Return the seconds until the deadline, at least 0; None if there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more: the caller has gone, or the deadline has passed."""
        self._ring.look()
        return self._reason is not None or (self.deadline is not None and time.monotonic() >= self.deadline)

    def check(self) -> None:
        """Raise Cancelled or DeadlineExceeded if nobody waits any more; a long action calls it now and then."""
        if self.cancelled:
            raise self._outcome()

    def _new_context(self) -> Buffer:
        """Return what the action made of the session's bytes; nothing if they are what they were."""
        if self.context is self._brought:
            return b""
        if not isinstance(self.context, bytes | bytearray | memoryview):
            raise TypeError(f"request.context is a {type(self.context).__name__}; it must be bytes")
        return self.context

    def _outcome(self) -> Error:
        """Return the error of a request that nobody waits for any more."""
        if self._reason in (None, "deadline"):
            return DeadlineExceeded("the request's deadline has passed")
        return Cancelled("the request was cancelled by its caller")
