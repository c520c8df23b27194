"""An app that reads the text on frames: ``python -m examples.ocr.app``, beside a server with the pool ``ocr``.

python -m examples.ocr.app              one frame, drawn here
python -m examples.ocr.app shot.png     a picture of your own
"""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image

import ringmaster as rm

from .pictures import SHAPE, draw


def main() -> None:
    """Send a frame through the arena and print what is on it."""
    parser = argparse.ArgumentParser(description="Read the text on a picture, by the pool `ocr`.")
    parser.add_argument("picture", nargs="?", help="a file that Pillow can open; without it a frame is drawn")
    parser.add_argument("--pool", default="ocr")
    args = parser.parse_args()
    with rm.connect() as client:
        if args.picture:
            with Image.open(args.picture) as file:
                pixels = np.asarray(file.convert("RGB"))
            frame = client.empty(pixels.shape, np.uint8)
            frame[:] = pixels
        else:
            # A camera or a decoder would write here: the worker reads the same memory.
            frame = client.empty(SHAPE, np.uint8)
            draw(["Read by a worker process", "from the memory of this one"], into=frame)
        for line in client.call(args.pool, "read", tensors={"image": frame}).body["lines"]:
            print(f"{line['score']:.2f}  {line['text']}")


if __name__ == "__main__":
    main()
