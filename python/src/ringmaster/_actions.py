"""Actions: what a worker can do, and the decorator that says so."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from ringmaster._codec import BATCHABLE, IDEMPOTENT, STREAM
from ringmaster._request import Request

Handler = TypeVar("Handler", bound=Callable[[Request], Any])

_ATTRIBUTE = "__ringmaster_action__"


@dataclass(frozen=True, slots=True)
class Action:
    """A named function of a request; flags as in the protocol's hello."""

    name: str
    handler: Callable[[Request], Any]
    flags: int

    @property
    def stream(self) -> bool:
        """Whether it answers in chunks."""
        return bool(self.flags & STREAM)


_registered: list[Action] = []


def action(
    name: str, *, stream: bool = False, idempotent: bool = False, batchable: bool = False
) -> Callable[[Handler], Handler]:
    """Make a function an action of this worker. The function itself stays as it was.

    stream      it is a generator (or returns an iterable): each value is a chunk of the answer
    idempotent  it may be run again if a worker dies in the middle of it
    batchable   requests to it may be put together
    """

    def register(handler: Handler) -> Handler:
        if inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler):
            raise TypeError(
                f"action {name!r} is async; an action is a plain function, run in a thread if concurrency > 1"
            )
        if inspect.isgeneratorfunction(handler) and not stream:
            raise TypeError(f"action {name!r} is a generator; say so with @action({name!r}, stream=True)")
        a = Action(name, handler, stream * STREAM | idempotent * IDEMPOTENT | batchable * BATCHABLE)
        setattr(handler, _ATTRIBUTE, a)
        _registered.append(a)
        return handler

    return register


def select(functions: Iterable[Callable[[Request], Any]] | None) -> dict[str, Action]:
    """Return the actions by name: those of the functions, or all there are. ValueError if two have one name."""
    chosen = _registered if functions is None else [getattr(f, _ATTRIBUTE) for f in functions]
    by_name: dict[str, Action] = {}
    for a in chosen:
        if a.name in by_name:
            raise ValueError(f"two actions are named {a.name!r}")
        by_name[a.name] = a
    return by_name
