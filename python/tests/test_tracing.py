"""A request's trace is OpenTelemetry's current context while its action runs."""

import importlib.util
from types import SimpleNamespace
from typing import cast

import pytest

from ringmaster import _tracing
from ringmaster._request import Request
from supervisor import Worker, body_of

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
NEEDS = pytest.mark.skipif(importlib.util.find_spec("opentelemetry.sdk") is None, reason="opentelemetry-sdk is missing")


def parent(flags: str = "01") -> str:
    return f"00-{TRACE}-{PARENT}-{flags}"


@NEEDS
@pytest.mark.parametrize("concurrency", [1, 2])
def test_spans_hang_below_the_request(concurrency: int) -> None:
    with Worker("spans.py", concurrency=concurrency) as w:
        w.start()
        for action in ("one", "batch"):
            got = body_of(w.call(action, trace_id=parent(), headers={"tracestate": "rojo=1,congo=2"}))
            assert got == {
                "trace": TRACE,
                "parent": PARENT,
                "remote": True,
                "recording": True,
                "state": "rojo=1,congo=2",
            }
            assert body_of(w.call(action, trace_id=parent("00")))["recording"] is False
            for none in ("", "rubbish", "ff" + parent()[2:]):
                got = body_of(w.call(action, trace_id=none))
                assert got["parent"] is None
                assert got["trace"] != TRACE


@NEEDS
def test_nothing_stays_behind() -> None:
    with Worker("spans.py") as w:
        w.start()
        w.call("fail", trace_id=parent())
        assert body_of(w.call("one"))["parent"] is None


def test_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tracing, "find_spec", lambda _name: None)
    request = SimpleNamespace(trace_id=parent(), headers={})
    with _tracing.Tracing().within(cast(Request, request)):
        pass
