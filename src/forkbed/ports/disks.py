"""Comparing versions of one disk: what differs in its file systems, without starting the machine.

Nothing of a guest's is mounted in the host's kernel, or trusted: whoever reads it is bounded in memory and time,
and can at worst fail. A file system that cannot be read is told, never passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from forkbed.core.diffs.limits import Limits
from forkbed.core.diffs.records import DiskDifference, TextDifference
from forkbed.core.diffs.rules import Selection


@dataclass(frozen=True, slots=True)
class DiskLayer:
    """One file of a disk's chain. The format is told, never guessed; a path in the file's header is never followed."""

    path: str
    format: str = "qcow2"  # or "raw", for the last layer only


@dataclass(frozen=True, slots=True)
class DiskVersion:
    """A version of a disk: its layers, top first. None of them may be written to while it is read."""

    layers: tuple[DiskLayer, ...]


@dataclass(frozen=True, slots=True)
class DiskQuestion:
    """Two versions of one disk, and the version both come from, where it is known.

    Layers that versions share are recognised as the same file, and what lies in them only is not read twice: the
    time that an answer takes follows what was written since.
    """

    left: DiskVersion
    right: DiskVersion
    base: DiskVersion | None = None
    selection: Selection = field(default_factory=Selection)
    limits: Limits = field(default_factory=Limits)


class Disks(Protocol):
    def compare(self, question: DiskQuestion, subject: str) -> DiskDifference:
        """What differs. `subject` names the volume in errors.

        FAULT if a layer's file cannot be read or is damaged; whatever is wrong inside the disk is in the answer.
        """

    def texts(self, question: DiskQuestion, subject: str, paths: Sequence[str]) -> Sequence[TextDifference]:
        """The contents of these paths compared as text, in each file system that has one of them.

        A path that is a file in none of the versions is passed over.
        """
