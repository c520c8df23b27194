"""The reader and its pictures, without a server; e2e/ocr_test.go has the rest."""

from __future__ import annotations

import numpy as np
import pytest

from .pictures import SHAPE, draw
from .reader import Reader


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


def test_it_reads_what_was_drawn(reader: Reader) -> None:
    frame = np.zeros(SHAPE, np.uint8)
    assert draw(["The quick brown fox", "jumps over 13 lazy dogs"], into=frame) is frame
    lines = reader.read(frame)
    assert [line["text"] for line in lines] == ["The quick brown fox", "jumps over 13 lazy dogs"]
    for line in lines:
        assert 0.8 < line["score"] <= 1
        assert all(0 <= x < SHAPE[1] and 0 <= y < SHAPE[0] for x, y in line["box"])


def test_an_empty_picture_has_no_lines(reader: Reader) -> None:
    assert reader.read(draw([])) == []


@pytest.mark.parametrize("wrong", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_what_is_no_picture(reader: Reader, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be uint8"):
        reader.read(wrong)
