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

import importlib
from typing import TYPE_CHECKING

from ringmaster._actions import action
from ringmaster._batch import Batch
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

if TYPE_CHECKING:
    from ringmaster import aio

__version__ = "0.1.0"

__all__ = [
    "Aborted",
    "Batch",
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


def __getattr__(name: str) -> object:
    if name == "aio":  # asyncio would be a third of what a worker imports, and workers have no use for it
        return importlib.import_module("ringmaster.aio")
    raise AttributeError(f"module 'ringmaster' has no attribute {name!r}")
