"""RapidOCR as it is used without any server: one picture in, lines of text out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypedDict

from rapidocr_onnxruntime import RapidOCR

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Line(TypedDict):
    """A line of text: what it says, how sure that is (0 to 1), and its corners [[x, y], …] in pixels, clockwise."""

    text: str
    score: float
    box: list[list[float]]


class Reader:
    """The three networks of PP-OCRv4 that the wheel carries: where there is text, which way up it is, what it says.

    Args:
        threads: that the networks compute with, 1 or more.
    """

    def __init__(self, threads: int = 1) -> None:
        """Load the networks, which takes about a second."""
        self._engine = RapidOCR(intra_op_num_threads=threads, inter_op_num_threads=1)

    def read(self, image: NDArray[np.uint8]) -> list[Line]:
        """Return the lines in a picture.

        Args:
            image: uint8, shape (height, width, 3), RGB. It is only read.

        Raises:
            ValueError: it is not such an array.
        """
        if image.ndim != 3 or image.shape[2] != 3 or str(image.dtype) != "uint8":
            raise ValueError(
                f"the image is {image.dtype} of shape {image.shape}; it must be uint8, (height, width, 3), RGB"
            )
        found, _ = self._engine(image[:, :, ::-1])  # it expects BGR, as OpenCV has it
        return [
            {"text": text, "score": round(float(score), 4), "box": [[float(x), float(y)] for x, y in box]}
            for box, text, score in found or []
        ]


def threads_from_environment() -> int:
    """``$OCR_THREADS``, or 1 where it is not set.

    Raises:
        ValueError: it is not a whole number from 1.
    """
    text = os.environ.get("OCR_THREADS", "").strip() or "1"
    if not (text.isascii() and text.isdecimal() and int(text) >= 1):
        raise ValueError(f"OCR_THREADS is {text!r}; it must be a whole number, 1 or more")
    return int(text)
