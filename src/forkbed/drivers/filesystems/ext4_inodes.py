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
        found = _listed(inode.blocks, read, block_bytes, tables)
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
            if len(tables) > _MOST_PIECES // 64:
                raise Unreadable("its tree of extents is too large")
            child = read(below * block_bytes, block_bytes)
            yield from _extents(child, read, block_bytes, tables, deepest=depth - 1)
        else:
            block, length, high, low = _EXTENT.unpack_from(node, at)
            if length <= _UNWRITTEN:
                yield block, length, low | high << 32


def _listed(blocks: bytes, read: Read, block_bytes: int, tables: list[int]) -> Iterator[tuple[int, int, int]]:
    per_block = block_bytes // 4
    numbers = struct.unpack("<15I", blocks)
    run = (0, 0, 0)
    position = 0
    for level, number in [(0, number) for number in numbers[:12]] + list(enumerate(numbers[12:], start=1)):
        for place in _below(number, level, read, block_bytes, tables):
            if place is None:
                position += per_block**level
                continue
            start, length, first = run
            if place == 0:
                pass
            elif length and place == first + length and position == start + length:
                run = (start, length + 1, first)
            else:
                if length:
                    yield run
                run = (position, 1, place)
            position += 1
    if run[1]:
        yield run


def _below(number: int, level: int, read: Read, block_bytes: int, tables: list[int]) -> Iterator[int | None]:
    """The blocks that a block of this level lists, 0 for a hole; None stands for a whole list left out."""
    if level == 0:
        yield number
        return
    if number == 0:
        yield None
        return
    tables.append(number)
    if len(tables) > _MOST_PIECES // 64:
        raise Unreadable("its lists of blocks are too large")
    listed = array("I", read(number * block_bytes, block_bytes))
    for below in listed:
        if level > 1 and below == 0:
            for _ in range(block_bytes // 4 if level == 2 else (block_bytes // 4) ** 2):
                yield 0
        else:
            yield from _below(below, level - 1, read, block_bytes, tables)
