"""A worker that makes spans of its own, as a program with OpenTelemetry does."""

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import ringmaster as rm

trace.set_tracer_provider(TracerProvider())
tracer = trace.get_tracer("spans")


def mine():
    with tracer.start_as_current_span("mine") as span:
        context = span.get_span_context()
        above = getattr(span, "parent", None)  # one that is not sampled has none
        return {
            "trace": f"{context.trace_id:032x}",
            "parent": None if above is None else f"{above.span_id:016x}",
            "remote": None if above is None else above.is_remote,
            "recording": span.is_recording(),
            "state": context.trace_state.to_header(),
        }


@rm.action("one")
def one(request):
    return mine()


@rm.action("stream", stream=True)
def stream(request):
    for _ in range(2):
        yield mine()


@rm.action("fail")
def fail(request):
    raise ValueError("no")


@rm.action("batch", batch=True)
def batch(requests):
    return [mine() for _ in requests]


rm.serve()
