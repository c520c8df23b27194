"""Ringmaster for Python: serve models as workers, and call them.

A worker::

    import ringmaster as rm

    @rm.action("chat", stream=True)
    def chat(request):
        yield {"text": "hi"}

    rm.serve(load=load_model)
"""

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
from ringmaster.worker import serve

__version__ = "0.1.0"

__all__ = [
    "Aborted",
    "Cancelled",
    "DataLoss",
    "DeadlineExceeded",
    "Error",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "PermissionDenied",
    "Request",
    "ResourceExhausted",
    "Unavailable",
    "Unimplemented",
    "action",
    "serve",
]
