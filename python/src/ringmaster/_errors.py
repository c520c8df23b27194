"""The errors of docs/protocol.md, section 8, as exceptions. One class per code; `reason` tells more, and is as stable.

    Error ┬ InvalidArgument   ├ NotFound          ├ PermissionDenied   ├ ResourceExhausted
          ├ Unavailable       ├ DeadlineExceeded  ├ Cancelled          ├ Aborted
          ├ Internal          ├ Unimplemented     └ DataLoss

A client raises them; an action raises them to answer with that error. Anything else that an action raises becomes
Internal.
"""

from collections.abc import Mapping
from typing import ClassVar


class Error(Exception):
    """A request's failure.

    code         gRPC's name of it, e.g. "NOT_FOUND"
    reason       what exactly, e.g. "unknown_pool"
    message      for people: what happened and what to do
    retry_after  seconds after which trying again may help; None where nobody knows
    details      more for people; for Internal raised by an action: "type" and "traceback"
    """

    code: str = "INTERNAL"
    default_reason: ClassVar[str] = "internal"
    by_code: ClassVar[dict[str, type["Error"]]] = {}

    def __init__(
        self,
        message: str = "",
        *,
        reason: str | None = None,
        retry_after: float | None = None,
        details: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = self.default_reason if reason is None else reason
        self.retry_after = retry_after
        self.details = dict(details or {})

    def __init_subclass__(cls) -> None:
        Error.by_code.setdefault(cls.code, cls)

    def __str__(self) -> str:
        return f"{self.message} ({self.code}/{self.reason})"


def error_of(
    code: str, message: str, *, reason: str, retry_after: float | None = None, details: Mapping[str, str] | None = None
) -> Error:
    """Make the exception for a code; a code this version does not know gives a plain Error that carries it."""
    e = Error.by_code.get(code, Error)(message, reason=reason, retry_after=retry_after, details=details)
    e.code = code
    return e


class InvalidArgument(Error):
    """The request is malformed, or the action does not like it."""

    code = "INVALID_ARGUMENT"
    default_reason = "invalid_argument"


class NotFound(Error):
    """There is no such pool or action."""

    code = "NOT_FOUND"
    default_reason = "not_found"


class PermissionDenied(Error):
    """The caller may not do this."""

    code = "PERMISSION_DENIED"
    default_reason = "peer"


class ResourceExhausted(Error):
    """A queue is full or a message too large."""

    code = "RESOURCE_EXHAUSTED"
    default_reason = "exhausted"


class Unavailable(Error):
    """Nobody can serve this now: no server, no ready worker, or the connection was lost."""

    code = "UNAVAILABLE"
    default_reason = "unavailable"


class DeadlineExceeded(Error):
    """The request's time is over."""

    code = "DEADLINE_EXCEEDED"
    default_reason = "deadline"


class Cancelled(Error):
    """The caller has lost interest."""

    code = "CANCELLED"
    default_reason = "cancelled"


class Aborted(Error):
    """The worker died while it had the request."""

    code = "ABORTED"
    default_reason = "aborted"


class Internal(Error):
    """The action raised: see details."""

    code = "INTERNAL"
    default_reason = "handler"


class Unimplemented(Error):
    """The peer does not speak this version, or the action does not do this."""

    code = "UNIMPLEMENTED"
    default_reason = "unimplemented"


class DataLoss(Error):
    """The peer broke the protocol."""

    code = "DATA_LOSS"
    default_reason = "protocol"
