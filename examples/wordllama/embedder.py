"""WordLlama without its package's code: a vector for each token, and their mean for a text.

The vectors are taken from a language model's first layer. The package is installed for its weights alone, as it asks
for a client of a model hub. Method and weights: https://github.com/dleemiller/WordLlama (MIT).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DIMENSIONS = 256
"""Of a vector."""


@dataclass(frozen=True)
class Embedded:
    """Vectors of texts, and how many tokens those had together."""

    vectors: NDArray[np.float32]
    tokens: int


class Embedder:
    """Turns texts into vectors; similar texts into vectors of similar direction."""

    def __init__(self) -> None:
        """Load the weights, 16 MB.

        Raises:
            ModuleNotFoundError: the package that carries them is not installed.
        """
        package = _package()
        self._tokenizer = Tokenizer.from_file(str(package / "tokenizers" / "l2_supercat_tokenizer_config.json"))
        (weights,) = load_file(str(package / "weights" / "l2_supercat_256.safetensors")).values()
        self._weights = weights.astype(np.float32)

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Return a vector for each text: float32, shape (texts, :data:`DIMENSIONS`).

        Each has length 1, that of a text without tokens 0.
        """
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        tokens = 0
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        for row, encoding in zip(vectors, encodings, strict=True):
            if encoding.ids:
                tokens += len(encoding.ids)
                mean = self._weights[encoding.ids].mean(axis=0)
                row[:] = mean / np.linalg.norm(mean)
        return Embedded(vectors, tokens)


def _package() -> Path:
    """Where the package's files are; its code is not run."""
    spec = find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("no wordllama: pip install --no-deps -r examples/wordllama/requirements.txt")
    return Path(spec.submodule_search_locations[0])
