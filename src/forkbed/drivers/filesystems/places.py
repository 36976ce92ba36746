"""A part of a disk that holds something: a partition, a logical volume, the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forkbed.core.diffs.ranges import Ranges, ranges

Read = Callable[[int, int], bytes]
"""Reads (offset, size); zeroes beyond the end."""


@dataclass(frozen=True, slots=True)
class Segment:
    """`length` bytes from `at` on in a place are those from `disk` on of the disk."""

    at: int
    disk: int
    length: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where something lies on its disk. Places that are equal take the same bytes of their disks.

    `where` says it to people ("partition 1"), and names the place in all versions of a disk.
    """

    where: str
    segments: tuple[Segment, ...]

    @property
    def size_bytes(self) -> int:
        return sum(segment.length for segment in self.segments)

    def reader(self, disk: Read) -> Read:
        """Reads from the place, out of its disk."""
        if len(self.segments) == 1:
            (only,) = self.segments
            start, length = only.disk, only.length

            def read_one(offset: int, size: int) -> bytes:
                held = max(0, min(size, length - offset))
                return disk(start + offset, held).ljust(size, b"\0") if held else bytes(size)

            return read_one

        def read(offset: int, size: int) -> bytes:
            content = bytearray(size)
            for segment in self.segments:
                start = max(offset, segment.at)
                end = min(offset + size, segment.at + segment.length)
                if start < end:
                    piece = disk(segment.disk + start - segment.at, end - start)
                    content[start - offset : end - offset] = piece
            return bytes(content)

        return read

    def within(self, of_disk: Ranges) -> Ranges:
        """The bytes of the place that lie in these ranges of its disk."""
        return ranges(
            (segment.at + start - segment.disk, segment.at + end - segment.disk)
            for segment in self.segments
            for start, end in of_disk.within(segment.disk, segment.disk + segment.length)
        )
