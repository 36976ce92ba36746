"""`ports.disks` in memory: blocks of simulated disks stand for files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forkbed.core.diffs.entries import Entry, EntryKind
from forkbed.core.diffs.records import (
    DiskDifference,
    FileSystemDifference,
    Reading,
    TextDifference,
    count,
)
from forkbed.core.diffs.threeway import classify
from forkbed.drivers.simulated.disks import BLOCK_BYTES
from forkbed.drivers.simulated.world import SimulatedWorld
from forkbed.ports.disks import DiskQuestion, DiskVersion

_PLACE = "whole disk"


class SimulatedDisks:
    """Compares what layers hold, block by block; a block named `count` is the file `/count`."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world

    def compare(self, question: DiskQuestion, subject: str) -> DiskDifference:
        """Every block that differs."""
        self._world.call("disks.compare", subject)
        left, right = self._content(question.left), self._content(question.right)
        base = self._content(question.base) if question.base is not None else left
        numbers: dict[str, int] = {}
        found = []
        for name in sorted({*base, *left, *right}):
            entries = [_entry(content.get(name), numbers) for content in (base, left, right)]
            change = classify(f"/{name}", *entries)
            if change is not None:
                found.append(change)
        if not found:
            return DiskDifference((FileSystemDifference(_PLACE, "simulated", "", Reading.SAME),))
        system = FileSystemDifference(
            _PLACE, "simulated", "", Reading.COMPARED, counts=count(found), files=tuple(found)
        )
        return DiskDifference((system,), differing_bytes=BLOCK_BYTES * len(found))

    def texts(self, question: DiskQuestion, subject: str, paths: Sequence[str]) -> Sequence[TextDifference]:
        """The blocks' words."""
        self._world.call("disks.texts", subject)
        left, right = self._content(question.left), self._content(question.right)
        return [
            TextDifference(path, _PLACE, (), (f"-{left.get(path[1:], '')}", f"+{right.get(path[1:], '')}"))
            for path in paths
            if path[1:] in left or path[1:] in right
        ]

    def _content(self, version: DiskVersion) -> Mapping[str, str]:
        with self._world.lock:
            return self._world.disks.content(version.layers[0].path)


def _entry(word: str | None, numbers: dict[str, int]) -> Entry | None:
    if word is None:
        return None
    content = numbers.setdefault(word, len(numbers))
    return Entry(EntryKind.FILE, 0o644, 0, 0, size_bytes=len(word), content=content)
