"""Tensors: NumPy arrays ⇄ the protocol's `[name, dtype, shape, data]`, or `[name, dtype, shape, nil, region, offset,
length]` for one that lies in an arena: a Placed.

An array that is C-contiguous and little-endian is not copied.

bfloat16 needs the package ml_dtypes, which gives NumPy the type. Where it is not installed, a bfloat16 tensor arrives
as uint16: the upper halves of float32s. Sending such an array back sends uint16.
"""

import math
import operator
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ringmaster._ring import Block, Region, split
from ringmaster._values import Buffer, Encoded, pack

Array = NDArray[Any]
Shape = SupportsIndex | Sequence[SupportsIndex]

NUMPY_NAMES = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
    | {"float16", "float32", "float64", "complex64", "complex128"}
)
_NAMES = NUMPY_NAMES | {"bfloat16"}


ALIGNMENT = 64  # bytes; what offsets in an arena are multiples of


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor that lies in an arena, and is not looked at here. Of a decoded one length is what it needs."""

    dtype: str  # the protocol's name
    shape: tuple[int, ...]
    region: int
    offset: int  # bytes, like length
    length: int

    def over(self, memory: Region | Block, offset: int) -> Array:
        """Return the array in a memory that is large enough, in which it begins at offset.

        BadTensor if NumPy has no such array.
        """
        try:
            return array_in(memory, offset, _dtype(self.dtype), self.shape)
        except ValueError as e:  # too many dimensions, or one too large beside a zero
            raise BadTensor(f"shape {list(self.shape)}: {e}") from None


@dataclass(frozen=True, slots=True)
class Slot:
    """Where in an arena a requester would like a tensor of the answer."""

    region: int
    offset: int  # bytes, like capacity
    capacity: int


def array_in(memory: Region | Block, offset: int, kind: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Return an array in a memory that is large enough, and kept by it."""
    return np.ndarray(shape, kind, memory, offset)  # type: ignore[arg-type]  # any buffer will do


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
    if name not in NUMPY_NAMES:
        raise KeyError(name)
    return np.dtype(name)


def decode_tensors(data: memoryview) -> dict[str, Array | Placed]:
    """Return views of data, the encoded array of tensors; writable if data is, perhaps not aligned to their item size.

    BadTensor if one makes no sense, ValueError if data is no array of tensors at all.
    """
    tensors: dict[str, Array | Placed] = {}
    for item in split(data, sys.maxsize):
        if type(item) is not slice:
            raise ValueError("a tensor is not an array")
        fields = split(data[item], 7)
        match fields:
            case (str(name), str(dtype), slice() as at, memoryview() | None as content, *where):
                shape = _shape(data[item][at])
                region, offset, length = (*_uints(where), 0, 0, 0)[:3]
            case _:
                raise ValueError("a tensor is neither [name, dtype, shape, data] nor […, nil, region, offset, length]")
        if region == 0:
            tensor: Array | Placed = _view(name, dtype, shape, content or memoryview(b""))
        elif not content:
            tensor = _placed(name, dtype, shape, region, offset, length)
        else:
            raise ValueError("a tensor that lies in an arena has data, too")
        if name in tensors:
            raise BadTensor(f"two tensors are named {name!r}")
        tensors[name] = tensor
    return tensors


def decode_slots(data: memoryview) -> dict[str, Slot]:
    """Return the slots of an encoded array of outputs. BadTensor, ValueError as decode_tensors."""
    slots: dict[str, Slot] = {}
    for item in split(data, sys.maxsize):
        fields = split(data[item], 4) if type(item) is slice else ()
        match fields:
            case (str(name), *where):
                if name in slots:
                    raise BadTensor(f"two outputs are named {name!r}")
                slots[name] = Slot(*(*_uints(where), 0, 0, 0)[:3])
            case _:
                raise ValueError("an output is not [name, region, offset, capacity]")
    return slots


def _uints(values: Iterable[object]) -> list[int]:
    if not all(v is None or type(v) is int for v in values):
        raise ValueError("where a tensor lies is not said in unsigned integers")
    return [v or 0 for v in values]  # type: ignore[misc]  # integers, as was just seen


def _shape(data: memoryview) -> tuple[int, ...]:
    shape = Encoded(data).decode()
    if type(shape) is not list or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("a tensor's shape is not an array of unsigned integers")
    return tuple(shape)


def _kind(name: str, dtype: str, shape: tuple[int, ...], length: int) -> np.dtype[Any]:
    """Return NumPy's type for a tensor of length bytes. BadTensor if it is none, or needs another length."""
    try:
        kind = _dtype(dtype)
    except KeyError:
        raise BadTensor(f"tensor {name!r}: unknown dtype {dtype!r}; use NumPy's names, or bfloat16") from None
    size = math.prod(shape) * kind.itemsize  # exact: Python's integers do not overflow
    if size != length:
        raise BadTensor(f"tensor {name!r}: shape {list(shape)} of {dtype} needs {size} bytes, got {length}")
    return kind


def _view(name: str, dtype: str, shape: tuple[int, ...], content: memoryview) -> Array:
    kind = _kind(name, dtype, shape, len(content))
    try:
        return np.ndarray(shape, kind, content)
    except ValueError as e:  # too many dimensions, or one too large beside a zero
        raise BadTensor(f"tensor {name!r}: shape {list(shape)}: {e}") from None


def _placed(name: str, dtype: str, shape: tuple[int, ...], region: int, offset: int, length: int) -> Placed:
    _kind(name, dtype, shape, length)
    return Placed(dtype, shape, region, offset, length)


def extent(name: str, shape: Shape, dtype: DTypeLike) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return NumPy's type for what a user gives, which may be "bfloat16", the lengths, and the bytes of such an array.

    TypeError for a dtype the protocol lacks, ValueError for a negative length; name is the tensor's.
    """
    kind = _dtype("bfloat16") if type(dtype) is str and dtype == "bfloat16" else np.dtype(dtype)
    dtype_name(name, kind)
    lengths = lengths_of(shape)
    if any(n < 0 for n in lengths):
        raise ValueError(f"tensor {name!r}: the shape {lengths} has a negative length")
    return kind, lengths, math.prod(lengths) * kind.itemsize


def lengths_of(shape: Shape) -> tuple[int, ...]:
    """Return a shape as a tuple; a number is a shape of one dimension."""
    return tuple(map(operator.index, shape)) if isinstance(shape, Sequence) else (operator.index(shape),)


def dtype_name(name: str, dtype: np.dtype[Any]) -> str:
    """Return the protocol's name for a type. TypeError for one it lacks; name is the tensor's."""
    if dtype.name not in _NAMES:
        raise TypeError(f"tensor {name!r}: {dtype} cannot be sent; use one of {', '.join(sorted(_NAMES))}")
    return dtype.name


def encode_tensors(tensors: Mapping[str, ArrayLike | Placed]) -> Iterator[Buffer]:
    """Yield the encoded array of tensors in parts, the arrays' memory among them.

    TypeError for an array of a dtype the protocol lacks.
    """
    head = array_head(len(tensors))
    for name, value in tensors.items():
        if type(value) is Placed:
            where = pack((name, value.dtype, value.shape, None, value.region, value.offset, value.length))
            yield head + where
            head = b""
            continue
        a = np.asarray(value)
        dtype = dtype_name(name, a.dtype)
        if not (a.flags.c_contiguous and a.dtype.isnative):
            a = a.astype(a.dtype.newbyteorder("="), order="C")
        yield head + b"\x94" + pack(name) + pack(dtype) + pack(a.shape) + _bin_head(a.nbytes)
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
