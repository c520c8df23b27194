"""Which parts of an arena are free: a pure thing, of numbers only."""

from bisect import bisect


class Space:
    """Which of so many bytes are free.

    Invariants: the free ranges [start, end) are in order, not empty, and do not touch.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._starts = [0]
        self._ends = [size]

    def fits(self, n: int) -> int | None:
        """Return the index of the first range of n bytes."""
        for i, start in enumerate(self._starts):
            if self._ends[i] - start >= n:
                return i
        return None

    def take(self, n: int) -> int | None:
        """Take n bytes, and return where they are; None if there are not so many in one piece."""
        i = self.fits(n)
        if i is None:
            return None
        start = self._starts[i]
        self.free -= n
        self._starts[i] += n
        if self._starts[i] == self._ends[i]:
            del self._starts[i], self._ends[i]
        return start

    def give(self, start: int, n: int) -> None:
        """Give back what was taken."""
        end, i = start + n, bisect(self._starts, start)
        self.free += n
        joins_left = i > 0 and self._ends[i - 1] == start
        joins_right = i < len(self._starts) and self._starts[i] == end
        if joins_left and joins_right:
            self._ends[i - 1] = self._ends[i]
            del self._starts[i], self._ends[i]
        elif joins_left:
            self._ends[i - 1] = end
        elif joins_right:
            self._starts[i] = start
        else:
            self._starts.insert(i, start)
            self._ends.insert(i, end)
