"""The Ringmaster worker: ``python -m examples.ocr``, from the repository root, as a pool's command.

``$OCR_THREADS`` is how many CPU threads the networks compute with (1).
"""

from __future__ import annotations

import functools

import ringmaster as rm

from .reader import Line, Reader, threads_from_environment


@functools.cache
def reader() -> Reader:
    """The model, loaded at the first call."""
    return Reader(threads_from_environment())


@rm.action("read", idempotent=True)
def read(request: rm.Request) -> dict[str, list[Line]]:
    """Answer ``{"lines": [{"text", "score", "box"}, …]}`` for the tensor ``image``: uint8, (height, width, 3), RGB.

    Where the client has put the picture into its arena, this is the client's own memory.

    Raises:
        rm.InvalidArgument: there is no such tensor, or it is not a picture.
    """
    if "image" not in request.tensors:
        raise rm.InvalidArgument("there is no tensor `image`; send the picture as uint8, (height, width, 3), RGB")
    try:
        return {"lines": reader().read(request.tensors["image"])}
    except ValueError as error:
        raise rm.InvalidArgument(str(error)) from error


if __name__ == "__main__":
    rm.serve(load=reader)
