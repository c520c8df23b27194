"""Several requests, as the handler of an action with batch=True sees them."""

from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy as np

from ringmaster._errors import InvalidArgument
from ringmaster._request import Request
from ringmaster._tensors import Array


class Unequal(ValueError):
    """Tensors that are to be stacked differ. The worker runs the handler again for each group of like ones."""

    def __init__(self, name: str, groups: list[list[Request]], kinds: str) -> None:
        super().__init__(f"tensor {name!r} differs between the requests of a batch and cannot be stacked: {kinds}")
        self.groups = groups


class Batch(Sequence[Request]):
    """The requests of one call, in the order in which the results are to be returned; there is at least one.

    A request that came alone is a batch of one. Each has its own body, tensors, headers and deadline.
    """

    __slots__ = ("_requests",)

    def __init__(self, requests: Iterable[Request]) -> None:
        self._requests = tuple(requests)

    def __len__(self) -> int:
        return len(self._requests)

    @overload
    def __getitem__(self, i: int) -> Request: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Request]: ...
    def __getitem__(self, i: int | slice) -> Request | Sequence[Request]:
        return self._requests[i]

    def __repr__(self) -> str:
        return f"<Batch of {len(self)}: {self[0].pool}.{self[0].action}>"

    @property
    def bodies(self) -> list[Any]:
        """The requests' bodies, decoded. InvalidArgument/bad_body, for all, if one cannot be."""
        return [r.body for r in self._requests]

    def stack(self, name: str) -> Array:
        """Return the requests' tensors of this name as one array: n of shape (…) make one of shape (n, …).

        Only arrays of one dtype and shape can be stacked. Where they differ, this raises: leave the exception alone,
        and the handler is run once for each group of requests that are alike (those without such a tensor are told so,
        with InvalidArgument), as if they had not come together. So call it before anything that must not happen twice.
        The array is a copy, unless there is one request: then it is a view of its tensor, perhaps a read-only one, so
        write to neither.
        """
        groups: dict[tuple[Any, ...] | None, list[Request]] = {}
        for r in self._requests:
            a = r.tensors.get(name)
            groups.setdefault(None if a is None else (a.dtype, a.shape), []).append(r)
        if len(groups) > 1:
            kinds = ", ".join("none" if k is None else f"{k[0]}{list(k[1])}" for k in groups)
            raise Unequal(name, list(groups.values()), kinds)
        if None in groups:
            sent = ", ".join(map(repr, self[0].tensors)) or "none"
            raise InvalidArgument(f"there is no tensor {name!r} in the request; it has {sent}")
        arrays = [r.tensors[name] for r in self._requests]
        return arrays[0][np.newaxis] if len(arrays) == 1 else np.stack(arrays)

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for any of the answers any more. One request may be: see request.cancelled."""
        return all(r.cancelled for r in self._requests)

    def check(self) -> None:
        """Raise Cancelled or DeadlineExceeded if nobody waits any more; a long action calls it now and then."""
        if self.cancelled:
            self._requests[-1].check()
