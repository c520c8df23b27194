"""Arenas as a server makes them: sealed memfds."""

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def arena(size: int, seals: int = SEALS) -> int:
    """Make one, and return its descriptor."""
    fd = os.memfd_create("ringmaster-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.posix_fallocate(fd, 0, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def mappings(process: int | str = "self") -> list[range]:
    """Return the addresses at which a process has arenas mapped."""
    lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    ends = [line.split(maxsplit=1)[0].split("-") for line in lines if "memfd:ringmaster-arena" in line]
    return [range(int(start, 16), int(end, 16)) for start, end in ends]


@contextmanager
def mapped(size: int) -> Iterator[tuple[int, mmap.mmap]]:
    """Yield the descriptor of one, which is whoever takes it's to close, and its bytes."""
    fd = arena(size)
    memory = mmap.mmap(fd, size)
    try:
        yield fd, memory
    finally:
        memory.close()
