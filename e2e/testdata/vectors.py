"""A worker that embeds texts: the counts of their letters, as a unit vector. It also echoes, counts, and doubles an array."""

import numpy as np
import ringmaster as rm

LETTERS = 26


def vector(text: str) -> np.ndarray:
    counts = np.zeros(LETTERS, np.float32)
    for c in text.lower():
        if "a" <= c <= "z":
            counts[ord(c) - ord("a")] += 1
    return counts / max(float(np.linalg.norm(counts)), 1e-9)


@rm.action("embed", idempotent=True)
def embed(request):
    texts = request.body["input"]
    return {"usage": {"prompt_tokens": len(texts), "total_tokens": len(texts)}}, {"embeddings": np.stack([vector(t) for t in texts])}


@rm.action("infer", idempotent=True)
def infer(request):
    body = request.body or {}
    return {**body, "seen": len(request.tensors)}, {name: 2 * t for name, t in request.tensors.items()}


@rm.action("count", stream=True)
def count(request):
    for i in range(3):
        yield {"i": i}


@rm.action("fail")
def fail(request):
    raise ValueError("it was asked to")


rm.serve()
