"""The arenas that a worker may look into: what the supervisor attaches over the lifeline.

A region stays mapped as long as an array in it lives, also after it was detached. Only the thread that receives comes
here.
"""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ringmaster._codec import Attach, BadMessage, Detach, decode
from ringmaster._errors import InvalidArgument
from ringmaster._pin import Pinner
from ringmaster._ring import ProtocolError, Region
from ringmaster._tensors import ALIGNMENT, Array, BadTensor, Placed, Slot, array_in

logger = logging.getLogger("ringmaster")

Packets = Callable[[], list[tuple[bytes, int | None]]]


class Regions:
    """The regions by number; packets gives what has come over the lifeline, pinner tells CUDA of them."""

    def __init__(self, packets: Packets, pinner: Pinner | None = None) -> None:
        self._packets = packets
        self._pinner = pinner
        self._regions: dict[int, Region] = {}

    def update(self) -> None:
        """Attach and detach what the supervisor has said by now."""
        for data, fd in self._packets():
            try:
                self._take_in(data, fd)
            except (BadMessage, ProtocolError, OSError) as e:
                logger.error("an arena cannot be attached: %s; requests that name it will fail", e)
            finally:
                if fd is not None:
                    os.close(fd)

    def _take_in(self, data: bytes, fd: int | None) -> None:
        match decode(data):
            case Attach(bytes=size, region=region) if fd is not None:
                pinner = self._pinner
                memory = Region(fd, size, pinner.unpin if pinner is not None else None)
                if pinner is not None:
                    pinner.pin(memory.address, memory.size)
                self._regions[region] = memory
            case Attach(region=region):
                logger.error("region %d came without its descriptor; requests that name it will fail", region)
            case Detach(region=region):
                self._regions.pop(region, None)

    def tensors(self, tensors: Mapping[str, object]) -> Mapping[str, Array]:
        """Return the arrays of a request; those in arenas are read-only. InvalidArgument/bad_region or bad_tensor."""
        for t in tensors.values():
            if type(t) is Placed:
                break
        else:
            return tensors  # type: ignore[return-value]  # arrays, as was just seen
        return {name: self._input(name, t) if type(t) is Placed else t for name, t in tensors.items()}  # type: ignore[misc]

    def _input(self, name: str, t: Placed) -> Array:
        memory = self._memory(f"tensor {name!r}", t.region, t.offset, t.length)
        try:
            a = t.over(memory, t.offset)
        except BadTensor as e:
            raise InvalidArgument(f"tensor {name!r}: {e}", reason="bad_tensor") from None
        a.flags.writeable = False
        return a

    def outputs(self, slots: Mapping[str, Slot]) -> "dict[str, Output]":
        """Return where a request's answer is wanted. InvalidArgument/bad_region."""
        return {
            name: Output(self._memory(f"output {name!r}", s.region, s.offset, s.capacity), s)
            for name, s in slots.items()
        }

    def _memory(self, what: str, region: int, offset: int, length: int) -> Region:
        memory = self._regions.get(region)
        if memory is None:
            self.update()
            memory = self._regions.get(region)
        if memory is None:
            raise InvalidArgument(f"{what}: no region {region} has been attached", reason="bad_region")
        if offset % ALIGNMENT != 0 or offset > memory.size or length > memory.size - offset:
            raise InvalidArgument(
                f"{what}: {length} bytes at {offset} of region {region}, which has {memory.size}; "
                f"it must lie inside, at a multiple of {ALIGNMENT}",
                reason="bad_region",
            )
        return memory


class Output:
    """Where one tensor of an answer is wanted. It holds one, once: what is there then belongs to the requester."""

    __slots__ = ("_memory", "_sent", "_slot")

    def __init__(self, memory: Region, slot: Slot) -> None:
        self._memory = memory
        self._slot = slot
        self._sent = False

    def array(self, kind: np.dtype[Any], shape: tuple[int, ...], nbytes: int) -> Array | None:
        """Return an array in the slot; None if it has no bytes, needs more than there are, or one was sent already."""
        if self._sent or not 0 < nbytes <= self._slot.capacity:
            return None
        return array_in(self._memory, self._slot.offset, kind, shape)

    def holds(self, a: Array) -> bool:
        """Whether a is an array as `array` returns them."""
        if self._sent or not 0 < a.nbytes <= self._slot.capacity or not (a.flags.c_contiguous and a.dtype.isnative):
            return False
        address: int = a.__array_interface__["data"][0]
        return address == self._memory.address + self._slot.offset

    def placed(self, dtype: str, a: Array) -> Placed:
        """Say that what is here, an array like a, is sent."""
        self._sent = True
        return Placed(dtype, a.shape, self._slot.region, self._slot.offset, a.nbytes)
