"""`ports.disks` in memory: a block of a simulated disk is a file, by its name; what it holds is its content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forkbed.core.diffs.entries import Entry, EntryKind
from forkbed.core.diffs.records import DiskDifference, FileSystemDifference, Reading, TextDifference, count
from forkbed.core.diffs.texts import unified
from forkbed.core.diffs.threeway import FileChange, classify, with_conflicts_of_places
from forkbed.drivers.simulated.disks import BLOCK_BYTES
from forkbed.drivers.simulated.world import SimulatedWorld
from forkbed.ports.disks import DiskQuestion, DiskVersion

PLACE = "whole disk"


class SimulatedDisks:
    """Versions of disks of the simulated world, compared. Only the layers of the question are looked at."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world

    def compare(self, question: DiskQuestion, subject: str) -> DiskDifference:
        """Compare the blocks."""
        self._world.call("disks.compare", subject)
        base, left, right = self._contents(question)
        matcher = question.selection.matcher()
        hidden, found = 0, []
        for name in sorted({*base, *left, *right}):
            path = f"/{name}"
            change = _change(path, base.get(name), left.get(name), right.get(name))
            if change is None or not matcher.wanted(path):
                continue
            if matcher.noisy(path):
                hidden += 1
            else:
                found.append(change)
        changes = with_conflicts_of_places(found)
        reading = Reading.COMPARED if changes or hidden else Reading.SAME
        one = FileSystemDifference(PLACE, "simulated", "", reading, count(changes), changes, hidden)
        return DiskDifference((one,), BLOCK_BYTES * (len(changes) + hidden))

    def texts(self, question: DiskQuestion, subject: str, paths: Sequence[str]) -> Sequence[TextDifference]:
        """Compare the blocks' contents as lines of text."""
        self._world.call("disks.texts", subject)
        base, left, right = self._contents(question)
        found = []
        for path in paths:
            old, *new = (held.get(path.strip("/")) for held in (base, left, right))
            if any(content is not None for content in (old, *new)):
                texts = (unified(_bytes(old), _bytes(content), question.limits) for content in new)
                found.append(TextDifference(path, PLACE, *texts))
        return found

    def _contents(
        self, question: DiskQuestion
    ) -> tuple[Mapping[str, str], Mapping[str, str], Mapping[str, str]]:
        with self._world.lock:
            left, right = self._content(question.left), self._content(question.right)
            return (self._content(question.base) if question.base else left), left, right

    def _content(self, version: DiskVersion) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for layer in reversed(version.layers):
            if layer.path in self._world.disks.layers:
                found |= self._world.disks.layers[layer.path].blocks
        return found


def _change(path: str, base: str | None, left: str | None, right: str | None) -> FileChange | None:
    numbers = {content: number for number, content in enumerate(dict.fromkeys((base, left, right)))}
    entries = (
        None if content is None else Entry(EntryKind.FILE, 0o644, 0, 0, len(content), numbers[content])
        for content in (base, left, right)
    )
    return classify(path, *entries)


def _bytes(content: str | None) -> bytes | None:
    return None if content is None else content.encode()
