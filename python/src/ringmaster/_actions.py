"""Actions: what a worker can do, and the decorator that says so."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

from ringmaster._batch import Batch
from ringmaster._codec import BATCHABLE, IDEMPOTENT, STREAM
from ringmaster._request import Request

Handler = TypeVar("Handler", bound=Callable[[Request], Any])
BatchHandler = TypeVar("BatchHandler", bound=Callable[[Batch], list[Any]])

_ATTRIBUTE = "__ringmaster_action__"


@dataclass(frozen=True, slots=True)
class Action:
    """A named function of a request, or of a batch of them; flags as in the protocol's hello."""

    name: str
    handler: Callable[[Any], Any]
    flags: int

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
def action(name: str, *, stream: bool = False, idempotent: bool = False) -> Callable[[Handler], Handler]: ...
@overload
def action(name: str, *, batch: Literal[True], idempotent: bool = False) -> Callable[[BatchHandler], BatchHandler]: ...
def action(
    name: str, *, stream: bool = False, idempotent: bool = False, batch: bool = False
) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Make a function an action of this worker. The function itself stays as it was.

    stream      it is a generator (or returns an iterable): each value is a chunk of the answer
    idempotent  it may be run again if a worker dies in the middle of it
    batch       it takes a Batch, and returns a list with one result for each of its requests in their order: a body, or
                a body and a dict of tensors, or an exception for that one. What it raises is the outcome of all.
                How many come together, the pool's configuration says: actions: {NAME: {batch: {max: 32, delay: 2ms}}}
    """
    if stream and batch:
        raise TypeError(f"action {name!r}: what streams cannot be a batch's; choose stream=True or batch=True")

    def register(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
        if inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler):
            raise TypeError(
                f"action {name!r} is async; an action is a plain function, run in a thread if concurrency > 1"
            )
        if inspect.isgeneratorfunction(handler) and not stream:
            raise TypeError(f"action {name!r} is a generator; say so with @action({name!r}, stream=True)")
        a = Action(name, handler, stream * STREAM | idempotent * IDEMPOTENT | batch * BATCHABLE)
        setattr(handler, _ATTRIBUTE, a)
        _registered.append(a)
        return handler

    return register


def select(functions: Iterable[Callable[..., Any]] | None) -> dict[str, Action]:
    """Return the actions by name: those of the functions, or all there are. ValueError if two have one name."""
    chosen = _registered if functions is None else [getattr(f, _ATTRIBUTE) for f in functions]
    by_name: dict[str, Action] = {}
    for a in chosen:
        if a.name in by_name:
            raise ValueError(f"two actions are named {a.name!r}")
        by_name[a.name] = a
    return by_name
