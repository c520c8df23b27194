"""The Ringmaster worker: ``python -m examples.smollm2``, from the repository root, as a pool's command.

``$SMOLLM2_GGUF`` names another model file, ``$SMOLLM2_THREADS`` the CPU threads (a quarter of the CPUs, 4 at most).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import ringmaster as rm

from .engine import Engine, InvalidInputError, Piece, default_model_path

OPTIONS = ("max_tokens", "temperature", "seed", "stop")


@functools.cache
def engine() -> Engine:
    """The model, loaded at the first call. What it raises is the reason the worker did not start."""
    return Engine(os.environ.get("SMOLLM2_GGUF") or default_model_path(), threads=threads_from_environment())


def threads_from_environment() -> int | None:
    """``$SMOLLM2_THREADS``, or None where it is not set.

    Raises:
        ValueError: it is not a whole number from 1.
    """
    if not (text := os.environ.get("SMOLLM2_THREADS", "").strip()):
        return None
    if not (text.isascii() and text.isdecimal() and int(text) >= 1):
        raise ValueError(f"SMOLLM2_THREADS is {text!r}; it must be a whole number, 1 or more")
    return int(text)


@rm.action("chat", stream=True)
def chat(request: rm.Request) -> Iterator[dict[str, Any]]:
    """Answer ``{"messages": [{"role", "content"}, …], "max_tokens", "temperature", "seed", "stop"}``.

    Only messages is needed; see :meth:`Engine.chat` for the rest. Other keys are ignored, so that a body made for
    OpenAI passes. Chunks are ``{"text"}``; the last has no text but ``finish_reason`` and ``usage``.

    Raises:
        rm.InvalidArgument: the body is not such a map, or the messages are longer than the model's context.
    """
    body = request.body
    if not isinstance(body, dict) or "messages" not in body:
        raise rm.InvalidArgument(
            f"the body is {_outline(body)}; it must be a map with messages: [{{'role': 'user', 'content': 'Hello'}}]"
        )
    options = {name: body[name] for name in OPTIONS if body.get(name) is not None}
    try:
        with closing(engine().chat(body["messages"], **options, check=request.check)) as pieces:
            for piece in pieces:
                yield _chunk(piece)
    except InvalidInputError as error:
        raise rm.InvalidArgument(str(error)) from error


def _chunk(piece: Piece) -> dict[str, Any]:
    if piece.usage is None:
        return {"text": piece.text}
    return {
        "text": piece.text,
        "finish_reason": piece.finish_reason,
        "usage": {
            "prompt_tokens": piece.usage.prompt_tokens,
            "completion_tokens": piece.usage.completion_tokens,
            "total_tokens": piece.usage.total_tokens,
            "prompt_tokens_details": {"cached_tokens": piece.usage.cached_tokens},
        },
    }


def _outline(body: object) -> str:
    if isinstance(body, dict):
        return f"a map with {', '.join(map(repr, body)) or 'no keys'}"
    return f"of type {type(body).__name__}"


if __name__ == "__main__":
    rm.serve(load=engine)
    engine().close()
