"""Segments as bytes: what a test reads, or damages, behind the back of the two sides."""

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from ringmaster._ring import Segment

S2W, W2S = 0x1000, 0x1400  # ring headers
TAIL, HEAD, ITEMS, SPACE = 0x000, 0x080, 0x100, 0x180
DATA = 0x2000
GEOMETRY_FORMAT = "<8sIIQQIIQQQQQ"  # 0x00 … 0x50


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def guard(length: int, kind: int, flags: int, seq: int, incarnation: int) -> int:
    return 0x5AFEC0DE ^ length ^ (kind | flags << 16) ^ seq ^ (incarnation & 0xFFFFFFFF)


def need(length: int) -> int:
    return 16 + (length + 15) // 16 * 16


class Memory:
    """A segment's bytes, mapped a third time."""

    def __init__(self, fd: int) -> None:
        self.bytes = mmap.mmap(fd, os.fstat(fd).st_size)

    def u32(self, at: int) -> int:
        return struct.unpack_from("<I", self.bytes, at)[0]

    def u64(self, at: int) -> int:
        return struct.unpack_from("<Q", self.bytes, at)[0]

    def put(self, format: str, at: int, *values: int) -> None:
        struct.pack_into("<" + format, self.bytes, at, *values)


@contextmanager
def pair(
    s2w: int = 4096, w2s: int = 4096, *, max_frame: int = 0, incarnation: int = 7, max_message: int = 1 << 20
) -> Iterator[tuple[Segment, Segment, Memory]]:
    """Yield both sides of a new segment in this process, the supervisor's first, and its bytes."""
    fd = Segment.create(s2w=s2w, w2s=w2s, incarnation=incarnation, max_frame=max_frame)
    supervisor = Segment(fd, "supervisor", max_message)
    worker = Segment(fd, "worker", max_message)
    memory = Memory(fd)
    os.close(fd)
    try:
        yield supervisor, worker, memory
    finally:
        supervisor.close()
        worker.close()
        memory.bytes.close()
