"""Ringmaster for Python: serve models as workers, and call them.

A worker::

    import ringmaster as rm

    @rm.action("chat", stream=True)
    def chat(request):
        yield {"text": "hi"}

    rm.serve(load=load_model)

An app::

    with rm.connect() as c:
        for chunk in c.stream("smollm2", "chat", {"messages": [...]}):
            print(chunk["text"], end="", flush=True)

and `rm.aio.connect()` is the same for asyncio.
"""

from ringmaster import aio
from ringmaster._actions import action
from ringmaster._errors import (
    Aborted,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    Error,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from ringmaster._request import Request
from ringmaster._session import Result
from ringmaster.client import Client, Stream, connect
from ringmaster.worker import serve

__version__ = "0.1.0"

__all__ = [
    "Aborted",
    "Cancelled",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "Error",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "PermissionDenied",
    "Request",
    "ResourceExhausted",
    "Result",
    "Stream",
    "Unavailable",
    "Unimplemented",
    "action",
    "aio",
    "connect",
    "serve",
]
