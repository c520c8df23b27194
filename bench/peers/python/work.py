"""What every Python worker does, and how its answers are checked.

What is asked follows from the size of the payload, so that every peer needs one action only.
"""

import functools
import itertools

import numpy as np

FRAME = 6 << 20  # bytes
MODEL = 784  # bytes: a grey picture of 28 by 28
LINE = 64  # bytes
WIDTHS = (784, 1024, 1024, 10)


def handle(payload):
    """Answer a request, bytes or an array of them.

    A frame is answered with the sum of its cache lines, a picture with what a network
    makes of it, the rest with itself.
    """
    size = len(payload)
    if size == FRAME:
        return frame(payload)
    if size == MODEL:
        return model(payload)
    return bytes(payload)


def frame(payload):
    """Read the first eight bytes of every cache line."""
    lines = np.frombuffer(payload, dtype="<u8")[:: LINE // 8]
    total = int(lines.sum(dtype=np.uint64))
    return int(lines[0]).to_bytes(8, "little") + total.to_bytes(8, "little") + bytes(48)


@functools.cache
def weights():
    """The network's: three layers of float32, the same in every process."""
    random = np.random.default_rng(7)
    return [
        random.standard_normal((n, m), dtype=np.float32) / np.float32(np.sqrt(n)) for n, m in itertools.pairwise(WIDTHS)
    ]


def model(payload):
    """A perceptron of three layers."""
    x = np.frombuffer(payload, dtype=np.uint8).astype(np.float32) / 255
    for layer in weights():
        x = np.maximum(x @ layer, 0)
    return x.astype("<f4").tobytes()


def right(payload, answer, whole):
    """Whether an answer is right. Without whole it is a look that costs nothing: length, and the request's stamp."""
    size = len(payload)
    if size == FRAME:
        return len(answer) == LINE and answer[:8] == payload[:8] and (not whole or answer == frame(payload))
    if size == MODEL:
        return len(answer) == 4 * WIDTHS[-1] and (not whole or close(answer, model(payload)))
    ends = answer[:8] == payload[:8] and answer[-8:] == payload[-8:]
    return len(answer) == size and ends and (not whole or answer == payload)


def close(a, b):
    return np.allclose(np.frombuffer(a, dtype="<f4"), np.frombuffer(b, dtype="<f4"), rtol=1e-4)
