"""Whether a descriptor is what it should be: what is written to wake the other side is not to end up elsewhere."""

import os
import stat
from pathlib import Path


def no_eventfd(fd: int, links: str = "/proc/self/fd") -> str:
    """Return why fd is no eventfd, or "" if it is one.

    links is where descriptors are told; in a sandbox without /proc it has to do that this one is of no type, like an
    eventfd.
    """
    try:
        kind = str(Path(links, str(fd)).readlink())
    except OSError:
        try:
            return "" if stat.S_IFMT(os.fstat(fd).st_mode) == 0 else "it is something else"
        except OSError as e:
            return str(e)
    return "" if kind == "anon_inode:[eventfd]" else kind
