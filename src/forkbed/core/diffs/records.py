"""What a comparison of disks found, as it is kept, sent and shown. Pure.

A *side* is one of two versions of a volume, left and right; both are held against their common base. Where there is
no third version, the left one is the base.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from forkbed.core.diffs.entries import Change, How
from forkbed.core.diffs.threeway import FileChange, Standing


@dataclass(frozen=True, slots=True)
class PackageChange:
    """A Debian package: its version in each version of the file system, "" where it is not installed.

    A version is followed by the package's state in brackets if it is another than "installed".
    """

    name: str  # with ":arch" for one of a foreign architecture
    standing: Standing
    base: str
    left: str
    right: str


@dataclass(frozen=True, slots=True)
class ServiceChange:
    """A unit of systemd or a script of init: how the file system wants it, "" if it says nothing.

    One of "enabled", "masked", "masked, enabled".
    """

    name: str
    standing: Standing
    base: str
    left: str
    right: str


@dataclass(frozen=True, slots=True)
class SideCounts:
    """How many paths one side changed."""

    added: int = 0
    removed: int = 0
    changed: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a whole file system, also where not every change is listed."""

    left: SideCounts = SideCounts()
    right: SideCounts = SideCounts()
    conflicts: int = 0


class Reading(StrEnum):
    """How far a file system could be compared."""

    SAME = "same"  # no byte of it can differ; not read
    COMPARED = "compared"
    PARTLY = "partly"  # compared, but for what `problems` says
    UNREADABLE = "unreadable"  # `problems` says why; nothing is known of it


@dataclass(frozen=True, slots=True)
class FileSystemDifference:
    """What differs in one file system of a volume.

    `place` says where it lies ("partition 1", "whole disk", "logical volume vg/root"), `kind` what it is ("ext4",
    "swap", "unknown"). `hidden` counts changed paths that the rules for noise left out, `unlisted` those beyond the
    limit of what is listed; they are in `counts`, hidden ones are not.
    """

    place: str
    kind: str
    label: str
    reading: Reading
    counts: Counts = Counts()
    files: tuple[FileChange, ...] = ()
    hidden: int = 0
    unlisted: int = 0
    packages: tuple[PackageChange, ...] = ()
    services: tuple[ServiceChange, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        return bool(self.files or self.hidden or self.unlisted or self.packages or self.services)


@dataclass(frozen=True, slots=True)
class DiskDifference:
    """What differs on one volume. `problems` are those of the disk as a whole: its partitions, its layers.

    `differing_bytes` were written in layers that the versions do not share: no more than that can differ.
    """

    file_systems: tuple[FileSystemDifference, ...] = ()
    differing_bytes: int = 0
    problems: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything could be compared."""
        return not self.problems and all(
            one.reading in (Reading.SAME, Reading.COMPARED) for one in self.file_systems
        )


@dataclass(frozen=True, slots=True)
class VolumeDifference:
    """A volume of a machine, by its name, with what differs on it."""

    volume: str
    disk: DiskDifference


@dataclass(frozen=True, slots=True)
class MachineDifference:
    """All volumes of one machine that both systems have."""

    machine: str
    volumes: tuple[VolumeDifference, ...]


@dataclass(frozen=True, slots=True)
class TextDifference:
    """How the content of one file differs, as a unified diff, or in one line why it cannot be shown so."""

    path: str
    place: str
    left: tuple[str, ...]  # base to left; () if left has it as the base
    right: tuple[str, ...]  # base to right


def count(changes: Iterable[FileChange]) -> Counts:
    """The counts of these changes."""
    left: dict[How, int] = dict.fromkeys(How, 0)
    right: dict[How, int] = dict.fromkeys(How, 0)
    conflicts = 0
    for one in changes:
        _note(left, one.left_change)
        _note(right, one.right_change)
        conflicts += one.standing is Standing.CONFLICT
    return Counts(_side(left), _side(right), conflicts)


def _note(counted: dict[How, int], change: Change | None) -> None:
    if change is not None:
        counted[change.how] += 1


def _side(counted: dict[How, int]) -> SideCounts:
    return SideCounts(counted[How.ADDED], counted[How.REMOVED], counted[How.CHANGED])
