"""Pictures to read: frames of 1920 by 1080 with a few lines of text, drawn with Pillow's own font."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHAPE = (1080, 1920, 3)
"""Of a frame: height, width, RGB; uint8, 6 220 800 bytes."""


def draw(lines: list[str], into: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Return a frame with these lines in black on white.

    Args:
        lines: at most eight, of Latin letters and digits.
        into: where to draw, uint8 of :data:`SHAPE`; a new array without it.
    """
    picture = Image.new("RGB", (SHAPE[1], SHAPE[0]), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=56)
    for i, line in enumerate(lines):
        pen.text((160, 100 + 115 * i), line, fill="black", font=font)
    if into is None:
        return np.array(picture)
    into[:] = np.asarray(picture)
    return into
