"""Partition tables: MBR with its chain of logical partitions, and GPT (UEFI specification, chapter 5)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from forkbed.drivers.filesystems.places import Place, Read, Segment
from forkbed.drivers.filesystems.problems import Unreadable

_SECTOR = 512
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE
_MOST_LOGICAL = 128
_MOST_ENTRIES = 1024
_NO_TYPE = bytes(16)


@dataclass(frozen=True, slots=True)
class Partition:
    number: int
    start: int
    length: int


def partitions(read: Read, size_bytes: int) -> tuple[Place, ...] | None:
    """The partitions of a disk by their numbers; None if it has no partition table.

    Raises `Unreadable` for a table that is damaged or leads out of the disk.
    """
    head = read(0, _SECTOR)
    if head[510:512] != b"\x55\xaa" or not _is_table(head):
        return None
    entries = [head[446 + 16 * index : 462 + 16 * index] for index in range(4)]
    if any(entry[4] == _PROTECTIVE for entry in entries):
        found = sorted(_gpt(read), key=lambda one: one.number)
    else:
        found = list(_mbr(read, entries))
    for one in found:
        if one.start + one.length > size_bytes or one.length <= 0 or one.start < _SECTOR:
            raise Unreadable(f"partition {one.number} leads out of the disk")
    return tuple(Place(f"partition {one.number}", (Segment(0, one.start, one.length),)) for one in found)


def _is_table(head: bytes) -> bool:
    """A boot sector of a file system has the same mark: there the four entries make no sense."""
    entries = [head[446 + 16 * index : 462 + 16 * index] for index in range(4)]
    used = [entry for entry in entries if entry[4]]
    return bool(used) and all(
        entry[0] in (0, 0x80) and struct.unpack_from("<II", entry, 8) > (0, 0) for entry in used
    )


def _mbr(read: Read, entries: list[bytes]) -> Iterator[Partition]:
    for number, entry in enumerate(entries, start=1):
        start, length = struct.unpack_from("<II", entry, 8)
        if entry[4] in _EXTENDED:
            yield from _logical(read, start)
        elif entry[4]:
            yield Partition(number, start * _SECTOR, length * _SECTOR)


def _logical(read: Read, extended: int) -> Iterator[Partition]:
    place, seen = extended, set[int]()
    for number in range(5, 5 + _MOST_LOGICAL):
        head = read(place * _SECTOR, _SECTOR)
        if head[510:512] != b"\x55\xaa" or place in seen:
            raise Unreadable("its chain of logical partitions is damaged")
        seen.add(place)
        start, length = struct.unpack_from("<II", head, 454)
        if head[450]:
            yield Partition(number, (place + start) * _SECTOR, length * _SECTOR)
        following = struct.unpack_from("<I", head, 470)[0]
        if not head[466] or not following:
            return
        place = extended + following
    raise Unreadable(f"it has more than {_MOST_LOGICAL} logical partitions")


def _gpt(read: Read) -> Iterator[Partition]:
    for sector_bytes in (512, 4096):
        header = read(sector_bytes, sector_bytes)
        if header[:8] == b"EFI PART":
            yield from _gpt_entries(read, header, sector_bytes)
            return
    raise Unreadable("its partition table (GPT) is damaged")


def _gpt_entries(read: Read, header: bytes, sector_bytes: int) -> Iterator[Partition]:
    length, summed = struct.unpack_from("<II", header, 12)
    if not 92 <= length <= sector_bytes:
        raise Unreadable("its partition table (GPT) is damaged")
    plain = header[:16] + bytes(4) + header[20:length]
    place, count, size, entries_summed = struct.unpack_from("<QIII", header, 72)
    if zlib.crc32(plain) != summed or count > _MOST_ENTRIES or not 128 <= size <= 4096:
        raise Unreadable("its partition table (GPT) is damaged")
    table = read(place * sector_bytes, count * size)
    if zlib.crc32(table) != entries_summed:
        raise Unreadable("its partition table (GPT) is damaged")
    for index in range(count):
        entry = table[index * size : (index + 1) * size]
        if entry[:16] != _NO_TYPE:
            first, last = struct.unpack_from("<QQ", entry, 32)
            yield Partition(index + 1, first * sector_bytes, (last - first + 1) * sector_bytes)
