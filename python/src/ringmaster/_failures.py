"""What a requester is told of an action's exception: bounded, and fit to send."""

import logging
import traceback
from pathlib import Path

from ringmaster._errors import Error, Internal, error_of

logger = logging.getLogger("ringmaster")

TRACEBACK_BYTES = 16 << 10
MESSAGE_BYTES = 4 << 10  # of an error's message

_HERE = Path(__file__).parent  # of a traceback, the frames in these files come before the action's


def logged(what: object, e: Exception) -> Error:
    error = sendable(_internal(e))
    logger.error("%r failed\n%s", what, error.details["traceback"])
    return error


def _internal(e: Exception) -> Internal:
    tb = e.__traceback__
    while tb is not None and tb.tb_next is not None and Path(tb.tb_frame.f_code.co_filename).parent == _HERE:
        tb = tb.tb_next
    kind = type(e).__qualname__
    if type(e).__module__ != "builtins":
        kind = f"{type(e).__module__}.{kind}"
    text = "".join(traceback.format_exception(type(e), e, tb))
    return Internal(f"the action raised {kind}: {e}", reason="handler", details={"type": kind, "traceback": text})


def sendable(e: Error) -> Error:
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


def brief(e: Error) -> Error:
    return error_of(e.code, "the error is too large to be sent", reason=_clip(e.reason, 32))


def _clip(text: str, limit: int, *, keep_end: bool = False) -> str:
    data = text.encode("utf-8", "backslashreplace")
    data = data[-limit:] if keep_end else data[:limit]
    return data.decode("utf-8", "ignore")
