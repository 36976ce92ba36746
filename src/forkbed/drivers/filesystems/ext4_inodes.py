"""An inode of ext4, and where its content lies: extents, or the block lists of ext2 and ext3."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from forkbed.drivers.filesystems.ext4_layout import EXTENTS
from forkbed.drivers.filesystems.places import Read
from forkbed.drivers.filesystems.problems import Unreadable
from forkbed.drivers.filesystems.trees import Piece

_FIELDS = struct.Struct("<HHIIIIIHHIII60sIIIIHHHH")
_EXTENT_HEADER = struct.Struct("<HHHHI")
_EXTENT = struct.Struct("<IHHI")
_EXTENT_INDEX = struct.Struct("<IIHH")
_EXTENT_MAGIC = 0xF30A
_DEEPEST = 5
_UNWRITTEN = 32768  # an extent longer than this is allocated, but reads as zeroes
_MOST_PIECES = 4_000_000
_MOST_TABLES = 65_536


class Inode(NamedTuple):
    """The fields that count. `blocks` are the 60 bytes that lead to the content, or are it."""

    mode: int
    uid: int
    gid: int
    size_bytes: int
    links: int
    flags: int
    blocks: bytes
    xattr_block: int


def parse_inode(data: bytes, at: int) -> Inode:
    """The inode whose bytes begin at `at`."""
    fields = _FIELDS.unpack_from(data, at)
    return Inode(
        mode=fields[0],
        uid=fields[1] | fields[19] << 16,
        gid=fields[7] | fields[20] << 16,
        size_bytes=fields[2] | fields[15] << 32,
        links=fields[8],
        flags=fields[10],
        blocks=fields[12],
        xattr_block=fields[14] | fields[18] << 32,
    )


class Mapping(NamedTuple):
    """Where a content lies. `tables` are blocks that hold nothing of it but lead to it."""

    pieces: tuple[Piece, ...]
    tables: tuple[int, ...] = ()


def mapping(inode: Inode, read: Read, block_bytes: int) -> Mapping:
    """Where the content of the inode lies, in order, without holes. Raises `Unreadable` for what cannot be."""
    tables: list[int] = []
    if inode.flags & EXTENTS:
        found = _extents(inode.blocks, read, block_bytes, tables, deepest=_DEEPEST)
    else:
        found = _listed(inode, read, block_bytes, tables)
    pieces: list[Piece] = []
    for block, length, place in found:
        start = block * block_bytes
        bytes_ = min(length * block_bytes, inode.size_bytes - start)
        if bytes_ <= 0:
            continue  # allocated beyond the end: no part of the content
        if pieces and start < pieces[-1].at + pieces[-1].length:
            raise Unreadable("its list of blocks contradicts itself")
        if len(pieces) >= _MOST_PIECES:
            raise Unreadable(f"it is in more than {_MOST_PIECES} pieces")
        pieces.append(Piece(start, place * block_bytes, bytes_))
    return Mapping(tuple(pieces), tuple(tables))


def _extents(
    node: bytes, read: Read, block_bytes: int, tables: list[int], deepest: int
) -> Iterator[tuple[int, int, int]]:
    magic, entries, _, depth, _ = _EXTENT_HEADER.unpack_from(node)
    if magic != _EXTENT_MAGIC or depth > deepest or 12 + 12 * entries > len(node):
        raise Unreadable("its tree of extents is damaged")
    for index in range(entries):
        at = 12 + 12 * index
        if depth:
            _, low, high, _ = _EXTENT_INDEX.unpack_from(node, at)
            below = low | high << 32
            tables.append(below)
            if len(tables) > _MOST_TABLES:
                raise Unreadable("its tree of extents is too large")
            child = read(below * block_bytes, block_bytes)
            yield from _extents(child, read, block_bytes, tables, deepest=depth - 1)
        else:
            block, length, high, low = _EXTENT.unpack_from(node, at)
            if length <= _UNWRITTEN:
                yield block, length, low | high << 32


def _listed(inode: Inode, read: Read, block_bytes: int, tables: list[int]) -> Iterator[tuple[int, int, int]]:
    """The lists of ext2 and ext3: twelve blocks, then lists of blocks, of lists, of lists of lists."""
    end = -(-inode.size_bytes // block_bytes)
    first = length = place = 0
    for position, block in _blocks(struct.unpack("<15I", inode.blocks), end, read, block_bytes, tables):
        if length and position == first + length and block == place + length:
            length += 1
            continue
        if length:
            yield first, length, place
        first, length, place = position, 1, block
    if length:
        yield first, length, place


def _blocks(
    numbers: tuple[int, ...], end: int, read: Read, block_bytes: int, tables: list[int]
) -> Iterator[tuple[int, int]]:
    """Each block of the content that is not a hole: its position, and where it is."""
    for position, number in enumerate(numbers[:12]):
        if number and position < end:
            yield position, number
    start, per_block = 12, block_bytes // 4
    for level, number in enumerate(numbers[12:], start=1):
        if start >= end:
            return
        if number:
            yield from _list(number, level, start, end, read, block_bytes, tables)
        start += per_block**level


def _list(
    number: int, level: int, start: int, end: int, read: Read, block_bytes: int, tables: list[int]
) -> Iterator[tuple[int, int]]:
    tables.append(number)
    if len(tables) > _MOST_TABLES:
        raise Unreadable("its lists of blocks are too large")
    step = (block_bytes // 4) ** (level - 1)
    for index, below in enumerate(array("I", read(number * block_bytes, block_bytes))):
        position = start + index * step
        if position >= end:
            return
        if below and level == 1:
            yield position, below
        elif below:
            yield from _list(below, level - 1, position, end, read, block_bytes, tables)
