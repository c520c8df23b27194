"""Bodies: any Python value that MessagePack can say, and back.

NumPy scalars become numbers. Arrays are refused: they belong in `tensors`, which carry them without a copy. Strings
that are not UTF-8 survive a round trip (surrogateescape, as for file names).
"""

import threading
from typing import Any, cast

import msgpack
import numpy as np

Buffer = bytes | bytearray | memoryview


class Encoded:
    """A MessagePack value that is still encoded: one well-formed value, scanned if it came from a peer."""

    __slots__ = ("data",)

    def __init__(self, data: Buffer) -> None:
        self.data = data

    def decode(self) -> Any:
        """Decode it; ValueError if that is impossible, e.g. for a map with a list as key."""
        try:
            # The scan bounded depth and lengths; unpackb bounds the lengths by len(data) once more.
            return msgpack.unpackb(self.data, strict_map_key=False, unicode_errors="surrogateescape")
        except TypeError as e:
            raise ValueError(str(e)) from e


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        raise TypeError("a NumPy array in a body; pass it in tensors instead, or call .tolist()")
    raise TypeError(f"{type(value).__name__!r} cannot be in a body; use None, bool, int, float, str, bytes, list, dict")


class _Local(threading.local):
    """A packer per thread: `_plain` may let another thread run in the middle of one."""

    def __init__(self) -> None:
        self.pack = msgpack.Packer(default=_plain, unicode_errors="surrogateescape").pack


_local = _Local()


def pack(value: object) -> bytes:
    """Encode a value in its shortest form. TypeError, ValueError or OverflowError say why it cannot be."""
    return cast(bytes, _local.pack(value))
