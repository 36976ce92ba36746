"""What the journal of ext3 and ext4 holds and the file system does not have in place yet.

Where a disk was cut without quiescing, or a machine was switched off, the newest committed changes are in the journal
only. They are laid over what is read, in memory; nothing is written. Format: jbd2, the kernel's
Documentation/filesystems/ext4/journal.rst. A transaction counts if its commit block is there.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from forkbed.core.diffs.ranges import Ranges, ranges
from forkbed.drivers.filesystems.places import Read
from forkbed.drivers.filesystems.problems import Budget, Unreadable
from forkbed.drivers.filesystems.trees import Piece

_MAGIC = 0xC03B3998
_DESCRIPTOR, _COMMIT, _REVOKE = 1, 2, 5
_SUPERBLOCKS = (3, 4)
_REVOKES, _64BIT, _ASYNC, _CSUM_V2, _CSUM_V3, _FAST = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
_KNOWN = _REVOKES | _64BIT | _ASYNC | _CSUM_V2 | _CSUM_V3
_ESCAPED, _SAME_UUID, _LAST = 1, 2, 8


@dataclass(frozen=True, slots=True)
class Journal:
    """Blocks of the file system with where their newest content is, in bytes of the place; the escaped ones among
    them begin with four bytes that stand for the journal's own mark."""

    block_bytes: int
    blocks: Mapping[int, int]
    escaped: frozenset[int]

    @property
    def touched(self) -> Ranges:
        """The bytes of the place that are read from the journal."""
        size = self.block_bytes
        return ranges((block * size, (block + 1) * size) for block in self.blocks)

    def over(self, read: Read) -> Read:
        """`read`, with the journal's blocks in their places."""
        size = self.block_bytes

        def read_newest(offset: int, length: int) -> bytes:
            content = bytearray(read(offset, length))
            for block in range(offset // size, -(-(offset + length) // size)):
                if (place := self.blocks.get(block)) is None:
                    continue
                newest = read(place, size)
                if block in self.escaped:
                    newest = struct.pack(">I", _MAGIC) + newest[4:]
                start, end = max(offset, block * size), min(offset + length, (block + 1) * size)
                content[start - offset : end - offset] = newest[start - block * size : end - block * size]
            return bytes(content)

        return read_newest


@dataclass(frozen=True, slots=True)
class _Log:
    """The journal's blocks: a ring behind its superblock. `places` are those of its blocks, in bytes."""

    read: Read
    places: Sequence[int]
    block_bytes: int
    features: int
    first: int
    sequence: int
    start: int

    def block(self, number: int) -> bytes:
        return self.read(self.places[number], self.block_bytes)

    def after(self, number: int, steps: int = 1) -> int:
        return self.first + (number - self.first + steps) % (len(self.places) - self.first)


def read_journal(read: Read, pieces: Sequence[Piece], block_bytes: int, budget: Budget) -> Journal:
    """The journal in these pieces of the place. Raises `Unreadable` if it is damaged."""
    log = _opened(read, pieces, block_bytes)
    newest: dict[int, tuple[int, int, bool]] = {}  # block: (transaction, place, escaped)
    revoked: dict[int, int] = {}
    for transaction, written, given_up in _transactions(log, budget) if log is not None else ():
        for block, place, escaped in written:
            newest[block] = transaction, place, escaped
        for block in given_up:
            revoked[block] = transaction
    kept = {block: found for block, found in newest.items() if revoked.get(block, -1) < found[0]}
    return Journal(
        block_bytes,
        {block: place for block, (_, place, _) in kept.items()},
        frozenset(block for block, (_, _, escaped) in kept.items() if escaped),
    )


def _opened(read: Read, pieces: Sequence[Piece], block_bytes: int) -> _Log | None:
    """None if there is nothing to replay."""
    places = [
        place for piece in pieces for place in range(piece.place, piece.place + piece.length, block_bytes)
    ]
    head = read(places[0], 1024) if places else bytes(1024)
    magic, kind, _, size, length, first, sequence, start = struct.unpack_from(">8I", head)
    features = struct.unpack_from(">I", head, 40)[0] if kind == 4 else 0
    if magic != _MAGIC or kind not in _SUPERBLOCKS or size != block_bytes:
        raise Unreadable("its journal is damaged")
    if features & ~_KNOWN:
        raise Unreadable(f"its journal has features that are not known here ({features & ~_KNOWN:#x})")
    if start == 0:
        return None
    if not 0 < first <= start < length <= len(places):
        raise Unreadable("its journal is damaged")
    return _Log(read, places[:length], block_bytes, features, first, sequence, start)


def _transactions(log: _Log, budget: Budget) -> Iterator[tuple[int, list[tuple[int, int, bool]], list[int]]]:
    """Each committed transaction: its number, the blocks it wrote, those it gave up."""
    number, transaction = log.start, log.sequence
    written: list[tuple[int, int, bool]] = []
    given_up: list[int] = []
    passed = 0
    while passed < len(log.places):  # once around the ring
        budget.check()
        block = log.block(number)
        magic, kind, sequence = struct.unpack_from(">3I", block)
        if magic != _MAGIC or sequence != transaction:
            return
        taken = 1
        if kind == _DESCRIPTOR:
            for target, escaped in _tags(log, block):
                written.append((target, log.places[log.after(number, taken)], escaped))
                taken += 1
        elif kind == _REVOKE:
            given_up.extend(_revoked(log, block))
        elif kind == _COMMIT:
            yield transaction, written, given_up
            transaction = (transaction + 1) & 0xFFFFFFFF
            written, given_up = [], []
        else:
            return
        number = log.after(number, taken)
        passed += taken


def _tags(log: _Log, block: bytes) -> Iterator[tuple[int, bool]]:
    """The blocks whose contents follow a descriptor, and whether each is escaped."""
    wide = bool(log.features & _64BIT)
    newest = bool(log.features & _CSUM_V3)
    size = 16 if newest else 8 + (4 if wide else 0) + (2 if log.features & _CSUM_V2 else 0)
    at, end = 12, len(block) - (4 if log.features & (_CSUM_V2 | _CSUM_V3) else 0)
    while at + size <= end:
        (target,) = struct.unpack_from(">I", block, at)
        (flags,) = (
            struct.unpack_from(">I", block, at + 4) if newest else struct.unpack_from(">H", block, at + 6)
        )
        if wide:
            target |= struct.unpack_from(">I", block, at + 8)[0] << 32
        yield target, bool(flags & _ESCAPED)
        if flags & _LAST:
            return
        at += size + (0 if flags & _SAME_UUID else 16)


def _revoked(log: _Log, block: bytes) -> Sequence[int]:
    (used,) = struct.unpack_from(">I", block, 12)
    if not 16 <= used <= len(block):
        raise Unreadable("its journal is damaged")
    wide = bool(log.features & _64BIT)
    width = 8 if wide else 4
    held = array("Q" if wide else "I", block[16 : 16 + (used - 16) // width * width])
    held.byteswap()
    return held
