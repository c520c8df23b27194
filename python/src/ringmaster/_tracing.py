"""The trace that a request is part of, as OpenTelemetry's current context, where its API is installed.

Ringmaster does not need OpenTelemetry. An action that makes spans finds them below the span of its request.
"""

import contextlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any

from ringmaster._request import Request

_TRACEPARENT = re.compile("(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Tracing:
    """Puts actions into their requests' traces."""

    def __init__(self) -> None:
        self._api: tuple[Any, Any] | None = None
        with contextlib.suppress(ImportError, ValueError):  # ValueError: somebody's stand-in, without a spec
            if find_spec("opentelemetry") is not None:
                from opentelemetry import context, trace

                self._api = context, trace

    @property
    def wanted(self) -> bool:
        """Whether anybody could look."""
        return self._api is not None

    def within(self, *requests: Request) -> AbstractContextManager[None]:
        """Return what makes the request's span the current one; several requests have none in common."""
        if self._api is None or len(requests) != 1 or not requests[0].trace_id:
            return contextlib.nullcontext()
        return self._current(requests[0])

    @contextlib.contextmanager
    def _current(self, request: Request) -> Iterator[None]:
        assert self._api is not None
        context, trace = self._api
        parts = _TRACEPARENT.fullmatch(request.trace_id)
        if parts is None:
            yield
            return
        span = trace.SpanContext(
            trace_id=int(parts[1], 16),
            span_id=int(parts[2], 16),
            is_remote=True,
            trace_flags=trace.TraceFlags(int(parts[3], 16)),
            trace_state=trace.TraceState.from_header([request.headers.get("tracestate", "")]),
        )
        token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(span)))
        try:
            yield
        finally:
            context.detach(token)
