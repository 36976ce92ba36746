"""What differs between two related systems: how they are declared, and what is on their disks. Pure.

What the operation `diff` ends with. The same words tell a rehearsal's summary and what a revert would lose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from forkbed.core.diffs.records import (
    Counts,
    DiskDifference,
    MachineDifference,
    Reading,
    SideCounts,
    TextDifference,
)
from forkbed.core.systems.change_view import ChangeView


@dataclass(frozen=True, slots=True)
class VolumeTexts:
    """The files of one volume that were compared as text."""

    machine: str
    volume: str
    texts: tuple[TextDifference, ...]


@dataclass(frozen=True, slots=True)
class SystemDifference:
    """`left` and `right` as they were asked for.

    `base` tells in words what both were held against ("the cut of 14:02:11 that try was made of"); "" if the two were
    compared with each other: then left is the base, and everything is right's change.
    """

    left: str
    right: str
    base: str = ""
    declared: tuple[ChangeView, ...] = ()  # left to right, whatever the base
    machines: tuple[MachineDifference, ...] = ()
    texts: tuple[VolumeTexts, ...] = ()
    problems: tuple[str, ...] = ()  # what could not be compared at all, or is less sure than it looks


def summary(difference: SystemDifference) -> tuple[str, ...]:
    """One line for each machine and volume that differs, or of which not everything is known."""
    lines = []
    for machine in difference.machines:
        for volume in machine.volumes:
            words = "; ".join(_disk(difference, volume.disk))
            if words:
                lines.append(f"{machine.machine}/{volume.volume}: {words}")
    return tuple(lines)


def within(texts: Sequence[VolumeTexts], limit_characters: int) -> tuple[tuple[VolumeTexts, ...], int]:
    """The texts that fit together into so much, in their order, and how many do not."""
    kept, room, left_out = [], limit_characters, 0
    for volume in texts:
        fitting = []
        for text in volume.texts:
            size = sum(len(line) for line in (*text.left, *text.right))
            if size <= room:
                room -= size
                fitting.append(text)
            else:
                left_out += 1
        if fitting:
            kept.append(replace(volume, texts=tuple(fitting)))
    return tuple(kept), left_out


def total(disk: DiskDifference) -> Counts:
    """The counts of all file systems of a volume together."""
    counts = [one.counts for one in disk.file_systems]
    return Counts(
        _sum([each.left for each in counts]),
        _sum([each.right for each in counts]),
        sum(each.conflicts for each in counts),
    )


def _disk(difference: SystemDifference, disk: DiskDifference) -> Iterator[str]:
    counts = total(disk)
    if difference.base and _side(counts.left):
        yield f"{difference.left} {_side(counts.left)}"
    if _side(counts.right):
        yield f"{difference.right} {_side(counts.right)}" if difference.base else _side(counts.right)
    if counts.conflicts:
        yield _counted(counts.conflicts, "conflict")
    packages = sum(len(one.packages) for one in disk.file_systems)
    services = sum(len(one.services) for one in disk.file_systems)
    also = [
        _counted(number, word) for number, word in ((packages, "package"), (services, "service")) if number
    ]
    if also:
        yield ", ".join(also)
    yield from disk.problems
    for one in disk.file_systems:
        if one.reading is Reading.UNREADABLE:
            yield f"{one.place} ({one.kind}) could not be read"
        elif one.reading is Reading.PARTLY:
            yield f"{one.place} ({one.kind}) could be read in part only"


def _side(counts: SideCounts) -> str:
    words = ((counts.added, "added"), (counts.removed, "removed"), (counts.changed, "changed"))
    return ", ".join(f"{number} {word}" for number, word in words if number)


def _sum(counts: list[SideCounts]) -> SideCounts:
    return SideCounts(
        sum(each.added for each in counts),
        sum(each.removed for each in counts),
        sum(each.changed for each in counts),
    )


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'s' if number != 1 else ''}"
