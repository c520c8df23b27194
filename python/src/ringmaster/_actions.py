"""Actions: what a worker can do, and the decorator that says so."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

import numpy as np
from numpy.typing import DTypeLike

from ringmaster._batch import Batch
from ringmaster._codec import BATCHABLE, IDEMPOTENT, STREAM
from ringmaster._request import Request
from ringmaster._tensors import Shape, dtype_name, lengths_of

Handler = TypeVar("Handler", bound=Callable[[Request], Any])
BatchHandler = TypeVar("BatchHandler", bound=Callable[[Batch], list[Any]])

Ports = Mapping[str, tuple[Shape, DTypeLike]]  # inputs or outputs, by name

_ATTRIBUTE = "__ringmaster_action__"
_MAX_PORTS, _MAX_NAME, _MAX_DIMS = 1024, 128, 32  # of a worker; bytes of a name; of a shape


@dataclass(frozen=True, slots=True)
class Action:
    """A named function of a request, or of a batch of them; flags as in the protocol's hello."""

    name: str
    handler: Callable[[Any], Any]
    flags: int
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...] = ()  # name, dtype and shape of each
    outputs: tuple[tuple[str, str, tuple[int, ...]], ...] = ()

    @property
    def declared(self) -> tuple[Any, ...]:
        """What the hello says of it."""
        if self.outputs:
            return self.name, self.flags, self.inputs, self.outputs
        return (self.name, self.flags, self.inputs) if self.inputs else (self.name, self.flags)

    @property
    def stream(self) -> bool:
        """Whether it answers in chunks."""
        return bool(self.flags & STREAM)

    @property
    def batch(self) -> bool:
        """Whether it answers several requests in one call."""
        return bool(self.flags & BATCHABLE)


_registered: list[Action] = []


@overload
def action(
    name: str,
    *,
    stream: bool = False,
    idempotent: bool = False,
    inputs: Ports | None = None,
    outputs: Ports | None = None,
) -> Callable[[Handler], Handler]: ...
@overload
def action(
    name: str,
    *,
    batch: Literal[True],
    idempotent: bool = False,
    inputs: Ports | None = None,
    outputs: Ports | None = None,
) -> Callable[[BatchHandler], BatchHandler]: ...
def action(
    name: str,
    *,
    stream: bool = False,
    idempotent: bool = False,
    batch: bool = False,
    inputs: Ports | None = None,
    outputs: Ports | None = None,
) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Make a function an action of this worker. The function itself stays as it was.

    stream      it is a generator (or returns an iterable): each value is a chunk of the answer
    idempotent  it may be run again if a worker dies in the middle of it
    batch       it takes a Batch, and returns a list with one result for each of its requests in their order: a body, or
                a body and a dict of tensors, or an exception for that one. What it raises is the outcome of all.
                How many come together, the pool's configuration says: actions: {NAME: {batch: {max: 32, delay: 2ms}}}
    inputs      what one request has, each a shape and a dtype by name, for those who ask how to call it: a tensor, or
                with the dtype str strings in the body. -1 in a shape is any length. Requests are not held against it
    outputs     what its answer has, likewise
    """
    if stream and batch:
        raise TypeError(f"action {name!r}: what streams cannot be a batch's; choose stream=True or batch=True")

    takes, gives = _ports(name, "input", inputs), _ports(name, "output", outputs)

    def register(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
        if inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler):
            raise TypeError(
                f"action {name!r} is async; an action is a plain function, run in a thread if concurrency > 1"
            )
        if inspect.isgeneratorfunction(handler) and not stream:
            raise TypeError(f"action {name!r} is a generator; say so with @action({name!r}, stream=True)")
        flags = stream * STREAM | idempotent * IDEMPOTENT | batch * BATCHABLE
        a = Action(name, handler, flags, takes, gives)
        setattr(handler, _ATTRIBUTE, a)
        _registered.append(a)
        return handler

    return register


def _ports(action: str, what: str, declared: Ports | None) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """Return what is declared as the protocol has it. TypeError, ValueError: it makes no sense."""
    ports = []
    for name, (shape, dtype) in (declared or {}).items():
        where = f"action {action!r}, {what} {name!r}"
        lengths = lengths_of(shape)
        if not 0 < len(name.encode()) <= _MAX_NAME:
            raise ValueError(f"{where}: a name has 1 to {_MAX_NAME} bytes")
        if len(lengths) > _MAX_DIMS or any(not -1 <= n < 1 << 63 for n in lengths):
            raise ValueError(f"{where}: the shape {lengths} has more than {_MAX_DIMS} lengths, or one that is none")
        ports.append((name, _kind_of(where, dtype), lengths))
    return tuple(ports)


def _kind_of(where: str, dtype: DTypeLike) -> str:
    if type(dtype) is str and dtype == "bfloat16":  # for which NumPy may have no type
        return dtype
    kind = np.dtype(dtype)
    if kind.kind in "US":
        return "str"
    try:
        return dtype_name("", kind)
    except TypeError:
        raise TypeError(f"{where}: there are no tensors of {kind}; use a number's type, bool or str") from None


def select(functions: Iterable[Callable[..., Any]] | None) -> dict[str, Action]:
    """Return the actions by name: those of the functions, or all there are. ValueError if two have one name."""
    chosen = _registered if functions is None else [getattr(f, _ATTRIBUTE) for f in functions]
    by_name: dict[str, Action] = {}
    for a in chosen:
        if a.name in by_name:
            raise ValueError(f"two actions are named {a.name!r}")
        by_name[a.name] = a
    if sum(len(a.inputs) + len(a.outputs) for a in by_name.values()) > _MAX_PORTS:
        raise ValueError(f"the actions have more than {_MAX_PORTS} inputs and outputs")
    return by_name
