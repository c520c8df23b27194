"""The Ringmaster worker: ``python -m examples.wordllama``, from the repository root, as a pool's command."""

from __future__ import annotations

import functools
from typing import Any

import ringmaster as rm

from .embedder import Embedder


@functools.cache
def embedder() -> Embedder:
    """The model, loaded at the first call."""
    return Embedder()


@rm.action("embed", idempotent=True)
def embed(request: rm.Request) -> tuple[dict[str, Any], dict[str, Any]]:
    """Answer ``{"input": [text, …]}`` with a tensor ``embeddings``, float32 of shape (texts, 256), and ``{"usage"}``.

    That is what ``POST /v1/embeddings`` asks for. Other keys are ignored.

    Raises:
        rm.InvalidArgument: there is no such list of strings.
    """
    texts = request.body.get("input") if isinstance(request.body, dict) else None
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise rm.InvalidArgument(
            'the body must be a map with input, a list of strings that is not empty: {"input": ["a"]}'
        )
    result = embedder().embed(texts)
    return {"usage": {"prompt_tokens": result.tokens, "total_tokens": result.tokens}}, {"embeddings": result.vectors}


if __name__ == "__main__":
    rm.serve(load=embedder)
