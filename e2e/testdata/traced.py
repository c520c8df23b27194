"""A worker that says which trace its requests are part of."""

import ringmaster as rm

try:
    from opentelemetry import trace
except ImportError:
    trace = None


def current():
    """The span that OpenTelemetry takes for the current one, if it is there."""
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}-{context.span_id:016x}"


@rm.action("told")
def told(request):
    return {"trace_id": request.trace_id, "current": current(), "state": request.headers.get("tracestate", "")}


@rm.action("chat", stream=True)
def chat(request):
    yield {"text": request.trace_id}
    yield {"text": "", "finish_reason": "stop", "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}}


rm.serve()
