"""Tensors: NumPy arrays ⇄ the protocol's `[name, dtype, shape, data]`.

An array that is C-contiguous and little-endian is not copied.

bfloat16 needs the package ml_dtypes, which gives NumPy the type. Where it is not installed, a bfloat16 tensor arrives
as uint16: the upper halves of float32s. Sending such an array back sends uint16.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ringmaster._ring import split
from ringmaster._values import Buffer, Encoded, pack

Array = NDArray[Any]

_NUMPY_NAMES = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
    | {"float16", "float32", "float64", "complex64", "complex128"}
)
_NAMES = _NUMPY_NAMES | {"bfloat16"}


class BadTensor(ValueError):
    """A peer's tensor does not make sense."""


@cache
def _dtype(name: str) -> np.dtype[Any]:
    """Return NumPy's type for one of the protocol's; KeyError if it has none such."""
    if name == "bfloat16":
        try:
            import ml_dtypes  # tens of milliseconds, for those who need it
        except ImportError:
            return np.dtype("uint16")
        result: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return result
    if name not in _NUMPY_NAMES:
        raise KeyError(name)
    return np.dtype(name)


def decode_tensors(data: memoryview) -> dict[str, Array]:
    """Return views of data, the encoded array of tensors; writable if data is, perhaps not aligned to their item size.

    BadTensor if one makes no sense, ValueError if data is no array of tensors at all.
    """
    tensors = {}
    for item in split(data, sys.maxsize):
        if type(item) is not slice:
            raise ValueError("a tensor is not an array")
        fields = split(data[item], 4)
        match fields:
            case (str(name), str(dtype), slice() as shape, memoryview() as content):
                if name in tensors:
                    raise BadTensor(f"two tensors are named {name!r}")
                tensors[name] = _view(name, dtype, Encoded(data[item][shape]).decode(), content)
            case _:
                raise ValueError("a tensor is not [name, dtype, shape, data]")
    return tensors


def _view(name: str, dtype: str, shape: Any, content: memoryview) -> Array:
    if type(shape) is not list or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("a tensor's shape is not an array of unsigned integers")
    try:
        kind = _dtype(dtype)
    except KeyError:
        raise BadTensor(f"tensor {name!r}: unknown dtype {dtype!r}; use NumPy's names, or bfloat16") from None
    size = math.prod(shape) * kind.itemsize  # exact: Python's integers do not overflow
    if size != len(content):
        raise BadTensor(f"tensor {name!r}: shape {shape} of {dtype} needs {size} bytes, got {len(content)}")
    try:
        return np.ndarray(shape, kind, content)
    except ValueError as e:  # too many dimensions, or one too large beside a zero
        raise BadTensor(f"tensor {name!r}: shape {shape}: {e}") from None


def encode_tensors(tensors: Mapping[str, ArrayLike]) -> Iterator[Buffer]:
    """Yield the encoded array of tensors in parts, the arrays' memory among them.

    TypeError for an array of a dtype the protocol lacks.
    """
    head = array_head(len(tensors))
    for name, value in tensors.items():
        a = np.asarray(value)
        if a.dtype.name not in _NAMES:
            raise TypeError(f"tensor {name!r}: {a.dtype} cannot be sent; use one of {', '.join(sorted(_NAMES))}")
        if not (a.flags.c_contiguous and a.dtype.isnative):
            a = a.astype(a.dtype.newbyteorder("="), order="C")
        yield head + b"\x94" + pack(name) + pack(a.dtype.name) + pack(a.shape) + _bin_head(a.nbytes)
        yield a.reshape(-1).view(np.uint8).data
        head = b""


def array_head(n: int) -> bytes:
    """Return the shortest head of an array of n elements."""
    if n < 16:
        return bytes((0x90 | n,))
    return b"\xdc" + n.to_bytes(2, "big") if n < 1 << 16 else b"\xdd" + n.to_bytes(4, "big")


def _bin_head(n: int) -> bytes:
    if n < 1 << 8:
        return b"\xc4" + n.to_bytes(1, "big")
    return b"\xc5" + n.to_bytes(2, "big") if n < 1 << 16 else b"\xc6" + n.to_bytes(4, "big")
