"""Arenas as page-locked memory of CUDA's: copies between them and a GPU take one step less, and may be asynchronous.

What cudaHostRegister does to memory is undone by cudaHostUnregister, which has to come before the memory is unmapped.
Where there is no CUDA, that is said once, and arenas are ordinary memory.
"""

import ctypes
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("ringmaster")

PORTABLE = 1  # cudaHostRegisterPortable: pinned for every context
_LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")


class Cuda:
    """The two functions, each of which takes addresses and sizes as integers and returns CUDA's error, 0 for none."""

    def __init__(self, register: Callable[[int, int, int], int], unregister: Callable[[int], int]) -> None:
        self.register = register
        self.unregister = unregister


def find_cuda() -> Cuda:
    """Return CUDA's runtime: torch's where there is torch, the library otherwise. OSError if there is neither."""
    torch = sys.modules.get("torch") or _torch()
    if torch is not None and torch.cuda.is_available():
        runtime = torch.cuda.cudart()
        return Cuda(
            lambda address, size, flags: int(runtime.cudaHostRegister(address, size, flags)),
            lambda address: int(runtime.cudaHostUnregister(address)),
        )
    failures = []
    for name in _LIBRARIES:
        try:
            return _from_library(ctypes.CDLL(name))
        except (OSError, AttributeError) as e:
            failures.append(str(e))
    raise OSError(f"neither torch with a GPU nor a CUDA runtime: {'; '.join(failures)}")


def _torch() -> Any:
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]  # seconds, which who asks to pin is ready to wait
    except ImportError:
        return None
    return torch


def _from_library(library: ctypes.CDLL) -> Cuda:
    register, unregister = library.cudaHostRegister, library.cudaHostUnregister
    register.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
    unregister.argtypes = (ctypes.c_void_p,)
    return Cuda(register, unregister)


class Pinner:
    """Registers regions with CUDA, and knows which it has registered.

    CUDA is looked for when this is made, which may take seconds: before the first request. What fails is logged once,
    and nothing is tried again.
    """

    def __init__(self, find: Callable[[], Cuda] = find_cuda) -> None:
        self._over = False  # it does not work here
        self._pinned: set[int] = set()  # addresses
        self._cuda: Cuda | None = None
        try:
            self._cuda = find()
        except Exception as e:  # whatever a driver or a framework comes up with
            self._give_up(str(e) or type(e).__name__)

    def pin(self, address: int, size: int) -> None:
        """Register memory."""
        if self._over or self._cuda is None:
            return
        try:
            error = self._cuda.register(address, size, PORTABLE)
        except Exception as e:
            self._give_up(str(e) or type(e).__name__)
            return
        if error == 0:
            self._pinned.add(address)
        else:
            self._give_up(f"cudaHostRegister of {size} bytes returned error {error}")

    def unpin(self, address: int, _size: int) -> None:
        """Undo pin, before the memory is unmapped. The garbage collector may do this."""
        if address in self._pinned and self._cuda is not None:
            self._pinned.discard(address)
            error = self._cuda.unregister(address)
            if error != 0:
                logger.warning("cudaHostUnregister returned error %d", error)

    def _give_up(self, why: str) -> None:
        self._over = True
        logger.warning("arenas are not pinned: %s. They are used as ordinary memory", why)


def new_pinner(pin: bool | None) -> Pinner | None:
    """Return a pinner if pin says so, or, where it says nothing, RINGMASTER_PIN=1."""
    wanted = os.environ.get("RINGMASTER_PIN", "") == "1" if pin is None else pin
    return Pinner() if wanted else None
