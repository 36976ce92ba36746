"""Sets of bytes of a disk, as ranges. Pure.

Promise: the ranges of a `Ranges` are sorted, not empty, and neither overlap nor touch; so two sets of the same
bytes are equal.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ranges:
    """Bytes from `starts[i]` up to, not including, `ends[i]`. Made with `ranges`."""

    starts: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.starts, self.ends, strict=True)

    def __bool__(self) -> bool:
        return bool(self.starts)

    @property
    def total_bytes(self) -> int:
        return sum(self.ends) - sum(self.starts)

    def meets(self, start: int, end: int) -> bool:
        """Whether any byte from `start` up to `end` is in the set."""
        index = bisect_right(self.ends, start)
        return index < len(self.starts) and self.starts[index] < end and start < end

    def within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of the set from `start` up to `end`."""
        for index in range(bisect_right(self.ends, start), bisect_left(self.starts, end)):
            yield max(start, self.starts[index]), min(end, self.ends[index])

    def union(self, other: Ranges) -> Ranges:
        """The bytes that are in either."""
        if not self or not other:
            return self or other
        return ranges((*self, *other))


def ranges(pairs: Iterable[tuple[int, int]]) -> Ranges:
    """The set of the bytes of all `pairs` (start, end), which may overlap and come in any order."""
    starts: list[int] = []
    ends: list[int] = []
    for start, end in sorted(pairs):
        if start >= end:
            continue
        if ends and start <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            starts.append(start)
            ends.append(end)
    return Ranges(tuple(starts), tuple(ends))
