"""The embedder without a server; e2e/embeddings_test.go has the rest."""

from __future__ import annotations

import numpy as np
import pytest

from .embedder import DIMENSIONS, Embedder


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


def test_vectors_have_length_one_and_do_not_depend_on_company(embedder: Embedder) -> None:
    alone = embedder.embed(["I went to the car"])
    both = embedder.embed(["I went to the car", "pawn"])
    assert both.vectors.shape == (2, DIMENSIONS)
    assert both.vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(both.vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(alone.vectors[0], both.vectors[0])
    assert alone.tokens >= 5


def test_what_is_alike_is_near(embedder: Embedder) -> None:
    texts = ["a dog in the garden", "a puppy on the lawn", "the tax return of last year"]
    dog, puppy, tax = embedder.embed(texts).vectors
    assert dog @ puppy > dog @ tax + 0.2


def test_nothing_is_nothing(embedder: Embedder) -> None:
    empty = embedder.embed([""])
    assert empty.tokens == 0
    assert not empty.vectors.any()
