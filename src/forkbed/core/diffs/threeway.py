"""Who changed what: each of two sides against their common base. Pure.

Promises: a path is told if, and only if, a side has it otherwise than the base; without conflicts, applying both
sides' changes to the base gives a tree (whatever stands in a directory has that directory) in which every change of
either side is found. So a path can be a conflict because of one above it: one side removed the directory in which
the other one wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from forkbed.core.diffs.entries import Change, Entry, EntryKind, How, change

T = TypeVar("T")


class Standing(StrEnum):
    """Which side changed it. With two versions only, the older is base and left at once: all is RIGHT."""

    LEFT = "left"
    RIGHT = "right"
    BOTH = "both"  # alike
    CONFLICT = "conflict"  # both, each in its own way


@dataclass(frozen=True, slots=True)
class FileChange:
    """A path that differs: what it holds in each version (None: nothing), and each side's change."""

    path: str
    standing: Standing
    base: Entry | None
    left: Entry | None
    right: Entry | None
    left_change: Change | None
    right_change: Change | None


def standing(base: T, left: T, right: T) -> Standing | None:
    """Who changed a value that has `==`; None if nobody did."""
    if left == right:
        return None if left == base else Standing.BOTH
    if left == base:
        return Standing.RIGHT
    if right == base:
        return Standing.LEFT
    return Standing.CONFLICT


def classify(path: str, base: Entry | None, left: Entry | None, right: Entry | None) -> FileChange | None:
    """The path's change, looked at by itself; None if no side changed it."""
    stands = standing(base, left, right)
    if stands is None:
        return None
    return FileChange(path, stands, base, left, right, change(base, left), change(base, right))


def with_conflicts_of_places(changes: Sequence[FileChange]) -> tuple[FileChange, ...]:
    """The same changes, those marked as conflicts too whose place the other side took away.

    `changes` must hold everything that differs in the file system: what is left out cannot collide.
    """
    closed_left = {one.path for one in changes if one.left_change and not _holds(one.left)}
    closed_right = {one.path for one in changes if one.right_change and not _holds(one.right)}
    clashing: set[str] = set()
    for one in changes:
        for mine, entry, closed in (
            (one.left_change, one.left, closed_right),
            (one.right_change, one.right, closed_left),
        ):
            if mine is None or mine.how is How.REMOVED or entry is None:
                continue
            above = [place for place in _above(one.path) if place in closed]
            if above:
                clashing.update((one.path, *above))
    if not clashing:
        return tuple(changes)
    return tuple(replace(one, standing=Standing.CONFLICT) if one.path in clashing else one for one in changes)


def conflicts(changes: Iterable[FileChange]) -> tuple[FileChange, ...]:
    """Those that both sides changed, each in its own way."""
    return tuple(one for one in changes if one.standing is Standing.CONFLICT)


def _holds(entry: Entry | None) -> bool:
    return entry is not None and entry.kind is EntryKind.DIRECTORY


def _above(path: str) -> Iterator[str]:
    end = path.rfind("/")
    while end > 0:
        yield path[:end]
        end = path.rfind("/", 0, end)
