"""A client's arenas: memory that it shares with the workers, and who has which part of it.

    take ─▶ Part ─ Block ◀── array ◀── views of it
                     └── when the last of them goes ─▶ _returned ─▶ Space.give, at the next take

An arena is a Region that the server made for this connection. What a request names in one is kept by its Named until
the server says that nobody uses it any more; an array keeps its part by itself. A part is given back by the garbage
collector, which may run in the midst of anything: so it takes no lock.

Nothing here sends or waits. A generator that needs another arena yields the bytes it lacks, and is sent whether there
is room now; the drivers, client.py and aio.py, see to that.
"""

import math
import threading
from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ringmaster._codec import Reply, Request
from ringmaster._errors import DataLoss, Error
from ringmaster._ring import Block, Region
from ringmaster._space import Space
from ringmaster._tensors import ALIGNMENT, Array, BadTensor, Placed, Shape, Slot, array_in, dtype_name, extent

# Bytes from which on an array that is in no arena is copied into one; a smaller one travels in the message. A call of a
# worker that does not look at the array, over rings of 1 MiB, took these microseconds (medians of 40 interleaved rounds
# of 5 calls; client, server and worker on two busy virtual CPUs):
#
#                 16 KiB   32 KiB   64 KiB  128 KiB  256 KiB    1 MiB    4 MiB
#   travels          330      327      358      396      900     2496     5189
#   is copied        342      316      305      304      305      317      585
#   lies there       306      298      285      273      285      264      286
MOVE = 64 << 10

FIRST = 2 << 20  # bytes of the first arena, if no more is needed; later ones are as large as those before them
AHEAD = 4  # times what is needed, that a new arena has at least
LARGEST = 64 << 20  # bytes, unless one array needs more
REFUSED = 5.0  # seconds for which a server that refused so many bytes is not asked for as many again
IDLE = 256  # parts taken elsewhere after which an arena that nobody has a part of is given back

ATTACH_TIMEOUT = 10.0  # seconds

Outputs = Mapping[str, tuple[Shape, DTypeLike]]


class Arena:
    """One region, and what of it is free."""

    def __init__(self, region: int, memory: Region) -> None:
        self.region = region
        self.memory = memory
        self.space = Space(memory.size)
        self.idle = 0  # parts that were taken elsewhere since somebody had one here


class Part(NamedTuple):
    """Some bytes of an arena. Who has the block has them."""

    region: int
    offset: int
    block: Block


@dataclass(slots=True)
class Named:
    """What one request names in arenas.

    keeps   holds its parts, and the caller's arrays, which hold theirs
    slots   where the answer's tensors are wanted, by name
    inline  the request's tensors as they would travel without arenas
    """

    inline: Mapping[str, ArrayLike]
    keeps: list[object] = field(default_factory=list)
    slots: dict[str, tuple[Slot, Block]] = field(default_factory=dict)

    def resolve(self, reply: Reply) -> None:
        """Replace the reply's tensors that lie in a slot with arrays there. DataLoss if one lies elsewhere."""
        reply.tensors = {
            name: self._view(name, value) if type(value) is Placed else value for name, value in reply.tensors.items()
        }

    def _view(self, name: str, t: Placed) -> Array:
        for slot, block in self.slots.values():
            at = t.offset - slot.offset
            if t.region == slot.region and at >= 0 and at + t.length <= slot.capacity:
                try:
                    return t.over(block, at)
                except BadTensor as e:
                    raise DataLoss(f"the answer's tensor {name!r}: {e}", reason="bad_tensor") from None
        raise DataLoss(
            f"the answer's tensor {name!r} is said to be {t.length} bytes at {t.offset} of region {t.region}, "
            "which the request did not offer",
            reason="bad_region",
        )


def names_arenas(reply: Reply) -> bool:
    """Whether the reply says that a tensor lies in an arena."""
    return any(type(value) is Placed for value in reply.tensors.values())


def wants_inline(error: Error | None) -> bool:
    """Whether a request failed for what it named in arenas, before a worker saw it, and may go without."""
    return error is not None and (error.code, error.reason) in (
        ("UNIMPLEMENTED", "arena"),
        ("UNAVAILABLE", "arena_busy"),
    )


class Arenas:
    """The arenas of one connection. Any number of threads may use it at once."""

    def __init__(self) -> None:
        self.limit = 0  # bytes that the server gives, all arenas together; 0: it has none
        self.inline: set[str] = set()  # pools whose workers have no arenas
        self._lock = threading.Lock()
        self._arenas: list[Arena] = []  # guarded by _lock, like what follows
        self._returned: deque[tuple[Arena, int, int]] = deque()  # only this is touched without it
        self._refused: tuple[int, float] | None = None  # how many bytes, and when

    # ---- parts ----

    def take(self, n: int) -> Part | None:
        """Take n bytes of any arena; None if there are not so many in one piece."""
        n = _rounded(n)
        with self._lock:
            self._take_back()
            for arena in self._arenas:
                offset = arena.space.take(n)
                if offset is not None:
                    for a in self._arenas:
                        a.idle = a.idle + 1 if a.space.free == a.space.size else 0
                    done = partial(self._returned.append, (arena, offset, n))
                    return Part(arena.region, offset, arena.memory.block(offset, n, done))
        return None

    def _take_back(self) -> None:
        while self._returned:
            arena, offset, n = self._returned.popleft()
            arena.space.give(offset, n)

    def part(self, n: int) -> Generator[int, bool, Part | None]:
        """Take n bytes, of a new arena if need be; None if there is to be no more."""
        if n > self.limit:
            return None
        while (part := self.take(n)) is None:
            if not (yield n):
                return None
        return part

    def find(self, a: Array) -> Placed | None:
        """Say where in an arena an array lies that can be sent from there; None if it lies elsewhere, or crookedly."""
        if not self._arenas or a.nbytes == 0 or not (a.flags.c_contiguous and a.dtype.isnative):
            return None
        address: int = a.__array_interface__["data"][0]
        with self._lock:
            for arena in self._arenas:
                offset = address - arena.memory.address
                if offset >= 0 and offset + a.nbytes <= arena.memory.size:
                    if offset % ALIGNMENT != 0:
                        return None
                    return Placed(a.dtype.name, a.shape, arena.region, offset, a.nbytes)
        return None

    # ---- arenas ----

    def fits(self, n: int) -> bool:
        """Whether take would find n bytes now."""
        with self._lock:
            self._take_back()
            return any(arena.space.fits(_rounded(n)) is not None for arena in self._arenas)

    def sizes(self, n: int, now: float) -> list[int]:
        """Return what to ask the server for, the first first, so that n bytes fit. Nothing if it lately refused."""
        with self._lock:
            refused = self._refused[0] if self._refused is not None and now - self._refused[1] < REFUSED else math.inf
            total = sum(arena.space.size for arena in self._arenas)
        least, left = _rounded(n), self.limit - total
        generous = max(least, min(max(total, FIRST, AHEAD * least), LARGEST, left))
        return [size for size in dict.fromkeys((generous, least)) if size <= left and size < refused]

    def refuse(self, n: int, now: float) -> None:
        """Note that the server gives no n bytes."""
        with self._lock:
            self._refused = (n, now)

    def add(self, region: int, memory: Region) -> None:
        """Use another arena."""
        with self._lock:
            self._arenas.append(Arena(region, memory))

    def remove_idle(self) -> list[int]:
        """Forget the arenas that nobody has used for long, the first aside, and return their regions."""
        with self._lock:
            idle = [arena for arena in self._arenas[1:] if arena.idle >= IDLE and arena.space.free == arena.space.size]
            for arena in idle:
                self._arenas.remove(arena)
            return [arena.region for arena in idle]

    # ---- requests ----

    def concern(self, tensors: Mapping[str, ArrayLike | Placed]) -> bool:
        """Whether `place` may do something with these: most requests have nothing for arenas."""
        if self.limit == 0 or not tensors:
            return False
        return bool(self._arenas) or any(type(a) is not np.ndarray or a.nbytes >= MOVE for a in tensors.values())

    def place(self, request: Request, outputs: Outputs | None) -> Generator[int, bool, Named | None]:
        """Move what a request is better off with into arenas, and offer slots; None if it names nothing there."""
        if self.limit == 0 or request.pool in self.inline:
            return None
        named = Named(request.tensors)  # type: ignore[arg-type]  # nothing is placed yet
        tensors = {}
        for name, value in named.inline.items():
            tensors[name] = yield from self._place(name, np.asarray(value), named)
        for name, (shape, dtype) in (outputs or {}).items():
            nbytes = extent(name, shape, dtype)[2]
            part = (yield from self.part(nbytes)) if nbytes > 0 else None
            if part is not None:
                named.slots[name] = Slot(part.region, part.offset, nbytes), part.block
                named.keeps.append(part.block)
        if not named.keeps:
            return None
        request.tensors = tensors
        request.outputs = {name: slot for name, (slot, _) in named.slots.items()}
        return named

    def _place(self, name: str, a: Array, named: Named) -> Generator[int, bool, Array | Placed]:
        dtype = dtype_name(name, a.dtype)
        placed = self.find(a)
        if placed is not None:
            named.keeps.append(a)
            return placed
        if a.nbytes < MOVE:
            return a
        part = yield from self.part(a.nbytes)
        if part is None:
            return a
        np.copyto(array_in(part.block, 0, a.dtype.newbyteorder("="), a.shape), a)
        named.keeps.append(part.block)
        return Placed(dtype, a.shape, part.region, part.offset, a.nbytes)

    def empty(self, shape: Shape, dtype: DTypeLike) -> Generator[int, bool, Array]:
        """Make an array in an arena; an ordinary one if there is no room, or no arena."""
        kind, lengths, nbytes = extent("", shape, dtype)
        part = (yield from self.part(nbytes)) if nbytes > 0 else None
        return np.empty(lengths, kind) if part is None else array_in(part.block, 0, kind, lengths)


def _rounded(n: int) -> int:
    return max(n + ALIGNMENT - 1, ALIGNMENT) // ALIGNMENT * ALIGNMENT
