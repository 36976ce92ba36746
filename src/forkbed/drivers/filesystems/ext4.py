"""ext2, ext3 and ext4, read from their blocks.

A reader of its own, because the question is which inodes can differ from those of another version: those whose
bytes in the inode tables differ, and those of which a block lies where the versions' disks can differ. All others
are neither looked at nor read. Every number in the file system is the guest's and is checked before it is used.
"""

from __future__ import annotations

import stat
import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import islice
from operator import attrgetter

from forkbed.core.diffs.entries import EntryKind
from forkbed.core.diffs.names import shown
from forkbed.core.diffs.ranges import Ranges
from forkbed.drivers.filesystems import ext4_xattrs
from forkbed.drivers.filesystems.ext4_inodes import Inode, mapping, parse_inode
from forkbed.drivers.filesystems.ext4_inodes import Mapping as Where
from forkbed.drivers.filesystems.ext4_journal import read_journal
from forkbed.drivers.filesystems.ext4_layout import (
    ENCRYPTED,
    EXTENTS,
    INLINE_DATA,
    ROOT,
    read_groups,
    read_superblock,
)
from forkbed.drivers.filesystems.places import Read
from forkbed.drivers.filesystems.problems import Budget, Unreadable
from forkbed.drivers.filesystems.trees import Facts, Piece

KINDS = {
    stat.S_IFREG: EntryKind.FILE,
    stat.S_IFDIR: EntryKind.DIRECTORY,
    stat.S_IFLNK: EntryKind.LINK,
    stat.S_IFCHR: EntryKind.CHARACTER_DEVICE,
    stat.S_IFBLK: EntryKind.BLOCK_DEVICE,
    stat.S_IFIFO: EntryKind.PIPE,
    stat.S_IFSOCK: EntryKind.SOCKET,
}
_ENTRY = struct.Struct("<IHBB")
_MOST_DIRECTORY_BYTES = 1 << 30
_MOST_LINK_BYTES = 4096
_MOST_VALUE_BYTES = 1 << 16
_MOST_PROBLEMS = 100
_COMPARED_AT_ONCE = 4096

Names = tuple[tuple[bytes, int], ...]


class Ext4:
    """One version of a file system, a `Tree`.

    `like` is the version it is held against and `differing` the bytes of the place in which the two can differ;
    what cannot differ is taken from there. `replayed` are bytes that are read from the journal: there, it can differ
    from another version whatever the layers say.
    """

    def __init__(
        self, read: Read, budget: Budget, like: Ext4 | None = None, differing: Ranges | None = None
    ) -> None:
        self._read = read
        self._budget = budget
        self._super = read_superblock(read)
        self._groups = read_groups(read, self._super)
        self.problems: list[str] = []
        self.replayed = Ranges()
        self._like: Ext4 | None = None
        self._differing = Ranges()
        self._tables: dict[int, bytes] = {}
        self._names: dict[int, Names] = {}
        self._mapped: tuple[Inode, Where] | None = None  # of the file read last, whose next piece comes soon
        self._paths: Mapping[bytes, int] | None = None
        if self._super.needs_recovery:
            self._replay()
        if like is not None and differing is not None and like._shape == self._shape:
            self._like = like
            self._differing = differing.union(self.replayed).union(like.replayed)
        self.suspects = None if self._like is None else frozenset(self._suspected(self._like))

    @property
    def label(self) -> str:
        return shown(self._super.label.encode())

    def paths(self) -> Mapping[bytes, int]:
        if self._paths is None:
            self._paths = self._walked()
        return self._paths

    def facts(self, node: int) -> Facts:
        inode = self._inode(node)
        kind = KINDS.get(stat.S_IFMT(inode.mode))
        if kind is None:
            raise Unreadable(f"it is of no kind that there is (mode {inode.mode:o})")
        target, device = b"", ""
        if kind is EntryKind.LINK:
            target = self._target(node, inode)
        elif kind in (EntryKind.CHARACTER_DEVICE, EntryKind.BLOCK_DEVICE):
            device = _device(inode.blocks)
        return Facts(
            kind,
            stat.S_IMODE(inode.mode),
            inode.uid,
            inode.gid,
            inode.size_bytes if kind is EntryKind.FILE else 0,
            target,
            device,
            tuple(sorted(item for item in self._xattrs(node, inode) if item[0] != ext4_xattrs.INLINE_DATA)),
        )

    def pieces(self, node: int) -> tuple[Piece, ...] | None:
        inode = self._inode(node)
        if inode.flags & INLINE_DATA:
            return None
        return self._where(inode).pieces

    def digest(self, node: int) -> str | None:
        return None

    def content(self, node: int, offset: int, size: int) -> bytes:
        inode = self._inode(node)
        size = max(0, min(size, inode.size_bytes - offset))
        if inode.flags & INLINE_DATA:
            rest = dict(self._xattrs(node, inode)).get(ext4_xattrs.INLINE_DATA, b"")
            return (inode.blocks + rest)[offset : offset + size].ljust(size, b"\0")
        content = bytearray(size)
        pieces = self._where(inode).pieces
        first = max(0, bisect_right(pieces, offset, key=attrgetter("at")) - 1)
        for piece in islice(pieces, first, None):
            if piece.at >= offset + size:
                break
            start, end = max(offset, piece.at), min(offset + size, piece.at + piece.length)
            if start < end:
                held = self._read(piece.place + start - piece.at, end - start)
                content[start - offset : end - offset] = held
        return bytes(content)

    def _replay(self) -> None:
        """Lay over it what only its journal holds."""
        try:
            pieces = self.pieces(self._super.journal) if self._super.journal else None
            if pieces is None:
                raise Unreadable("its journal lies on another disk")
            journal = read_journal(self._read, pieces, self._super.block_bytes, self._budget)
        except Unreadable as reason:
            self._problem(
                f"it was cut while mounted and not quiesced, and what its journal holds is missing: {reason}"
            )
            return
        self._read = journal.over(self._read)
        self.replayed = journal.touched
        self._super = read_superblock(self._read)
        self._groups = read_groups(self._read, self._super)
        self._tables.clear()
        self._mapped = None

    @property
    def _shape(self) -> tuple[int, ...]:
        return (self._super.block_bytes, self._super.inode_bytes, self._super.inodes_per_group)

    def _table(self, group: int) -> bytes:
        """The inodes of a group as far as they were ever used."""
        table = self._tables.get(group)
        if table is None:
            self._budget.check()
            start, size = self._table_at(group)
            like = self._like
            alike = like is not None and group < len(like._groups) and like._table_at(group) == (start, size)
            if like is not None and alike and not self._differing.meets(start, start + size):
                table = like._table(group)
            elif start + size > self._super.blocks * self._super.block_bytes:
                raise Unreadable("its inodes lie beyond its end")
            else:
                table = self._read(start, size)
            self._tables[group] = table
        return table

    def _table_at(self, group: int) -> tuple[int, int]:
        found = self._groups[group]
        return found.inode_table * self._super.block_bytes, found.used * self._super.inode_bytes

    def _raw_inode(self, node: int) -> bytes:
        group, index = divmod(node - 1, self._super.inodes_per_group)
        if not (node > 0 and group < len(self._groups) and index < self._groups[group].used):
            raise Unreadable(f"it names inode {node}, which was never used")
        size = self._super.inode_bytes
        return self._table(group)[index * size : (index + 1) * size]

    def _inode(self, node: int) -> Inode:
        return parse_inode(self._raw_inode(node), 0)

    def _where(self, inode: Inode) -> Where:
        if self._mapped is None or self._mapped[0] != inode:
            self._mapped = inode, mapping(inode, self._read, self._super.block_bytes)
        return self._mapped[1]

    def _suspected(self, like: Ext4) -> Iterator[int]:
        """The inodes that can differ from those of `like`."""
        size = self._super.inode_bytes
        for group in range(len(self._groups)):
            first = group * self._super.inodes_per_group + 1
            mine = self._table(group)
            others = like._table(group) if group < len(like._groups) else b""
            changed = set() if mine is others else set(_differing_records(mine, others, size))
            for index in changed:
                yield first + index
            if not self._differing:
                continue
            for index in range(len(mine) // size):
                if index in changed or (first + index < self._super.first_inode and first + index != ROOT):
                    continue
                if self._lies_in_differing(mine, index * size):
                    yield first + index

    def _lies_in_differing(self, table: bytes, at: int) -> bool:
        """Whether a block of this inode, equal in both versions, is where the disks can differ."""
        if not table[at + 26] and not table[at + 27]:  # no links: not in use
            return False
        inode = parse_inode(table, at)
        block_bytes = self._super.block_bytes
        meets = self._differing.meets
        if inode.xattr_block and meets(*_bytes_of(inode.xattr_block, block_bytes)):
            return True
        if not _has_blocks(inode):
            return False
        try:
            where = self._where(inode)
        except Unreadable:
            return True
        return any(meets(piece.place, piece.place + piece.length) for piece in where.pieces) or any(
            meets(*_bytes_of(block, block_bytes)) for block in where.tables
        )

    def _walked(self) -> Mapping[bytes, int]:
        like = self._like
        if like is not None and self.suspects is not None and not self._directories_differ(like):
            self.problems.extend(problem for problem in like.problems if problem not in self.problems)
            return like.paths()
        found: dict[bytes, int] = {b"": ROOT}
        seen = {ROOT}
        pending: list[tuple[bytes, int, int]] = [(b"", ROOT, 0)]
        while pending:
            above, node, depth = pending.pop()
            try:
                entries = self._entries(node)
            except Unreadable as reason:
                if above == b"":
                    raise
                self._problem(f"/{shown(above)}: {reason}")
                continue
            self._budget.names(len(found) + len(entries))
            for name, inner in entries:
                path = above + b"/" + name if above else name
                found[path] = inner
                if not self._is_directory(inner):
                    continue
                if inner in seen:
                    self._problem(f"/{shown(path)}: this directory has a second name; not entered")
                elif depth >= self._budget.depth:
                    self._problem(
                        f"/{shown(path)}: more than {self._budget.depth} directories deep; not entered"
                    )
                else:
                    seen.add(inner)
                    pending.append((path, inner, depth + 1))
        return found

    def _directories_differ(self, like: Ext4) -> bool:
        assert self.suspects is not None
        return any(self._is_directory(node) or like._is_directory(node) for node in self.suspects)

    def _is_directory(self, node: int) -> bool:
        try:
            return stat.S_ISDIR(struct.unpack_from("<H", self._raw_inode(node))[0])
        except Unreadable:
            return False

    def _entries(self, node: int) -> Names:
        names = self._names.get(node)
        if names is None:
            like = self._like
            if like is not None and self.suspects is not None and node not in self.suspects:
                names = like._entries(node)
            else:
                names = tuple(self._read_entries(node))
            self._names[node] = names
        return names

    def _read_entries(self, node: int) -> Iterator[tuple[bytes, int]]:
        inode = self._inode(node)
        if not stat.S_ISDIR(inode.mode):
            raise Unreadable("it is no directory")
        if inode.size_bytes > _MOST_DIRECTORY_BYTES:
            raise Unreadable(f"it is a directory of {inode.size_bytes} bytes")
        if inode.flags & ENCRYPTED:
            raise Unreadable("it is encrypted")
        if inode.flags & INLINE_DATA:
            held = self.content(node, 0, inode.size_bytes)
            yield from self._names_in(held[4:60])  # after the inode of the directory above
            yield from self._names_in(held[60:])
            return
        block_bytes = self._super.block_bytes
        for piece in self._where(inode).pieces:
            self._budget.check()
            held = self._read(piece.place, piece.length)
            for start in range(0, len(held), block_bytes):
                yield from self._names_in(held[start : start + block_bytes])

    def _names_in(self, block: bytes) -> Iterator[tuple[bytes, int]]:
        at, end = 0, len(block)
        while at + 8 <= end:
            inode, length, name_bytes, high = _ENTRY.unpack_from(block, at)
            if not self._super.types_in_names:
                name_bytes |= high << 8
            if length in (0, 65535):
                length = 65536 if end == 65536 else 0  # the one length that two bytes cannot hold
            if length < 8 or length % 4 or at + length > end or 8 + name_bytes > length:
                raise Unreadable("its list of names is damaged")
            if inode:
                name = block[at + 8 : at + 8 + name_bytes]
                if b"/" in name or b"\0" in name or not name:
                    self._problem(f"a name that cannot be, of inode {inode}: {shown(name)!r}; left out")
                elif name not in (b".", b".."):
                    yield name, inode
            at += length

    def _target(self, node: int, inode: Inode) -> bytes:
        if inode.size_bytes > _MOST_LINK_BYTES:
            raise Unreadable(f"it is a link of {inode.size_bytes} bytes")
        if inode.flags & ENCRYPTED:
            raise Unreadable("it is encrypted")
        if not _has_blocks(inode) and not inode.flags & INLINE_DATA:
            return inode.blocks[: inode.size_bytes]
        return self.content(node, 0, inode.size_bytes)

    def _xattrs(self, node: int, inode: Inode) -> Iterator[tuple[str, bytes]]:
        yield from ext4_xattrs.in_inode(self._raw_inode(node), self._large_value)
        if inode.xattr_block:
            size = self._super.block_bytes
            held = self._read(inode.xattr_block * size, size)
            yield from ext4_xattrs.in_block(held, self._large_value)

    def _large_value(self, node: int) -> bytes:
        inode = self._inode(node)
        if inode.size_bytes > _MOST_VALUE_BYTES:
            raise Unreadable(f"it has an attribute of {inode.size_bytes} bytes")
        return self.content(node, 0, inode.size_bytes)

    def _problem(self, what: str) -> None:
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(what)


def _differing_records(mine: bytes, others: bytes, size: int) -> Iterator[int]:
    """The indices of records of `size` bytes that differ, or that only one has."""
    common = min(len(mine), len(others))
    step = max(size, _COMPARED_AT_ONCE)
    for start in range(0, common, step):
        end = min(common, start + step)
        if mine[start:end] != others[start:end]:
            for at in range(start, end, size):
                if mine[at : at + size] != others[at : at + size]:
                    yield at // size
    yield from range(common // size, max(len(mine), len(others)) // size)


def _bytes_of(block: int, block_bytes: int) -> tuple[int, int]:
    return block * block_bytes, (block + 1) * block_bytes


def _has_blocks(inode: Inode) -> bool:
    """Whether its 60 bytes lead to blocks, rather than being a link's target, a device's numbers or a small file."""
    if inode.flags & INLINE_DATA:
        return False
    if stat.S_ISLNK(inode.mode):
        return bool(inode.flags & EXTENTS) or inode.size_bytes >= 60
    return stat.S_ISREG(inode.mode) or stat.S_ISDIR(inode.mode)


def _device(blocks: bytes) -> str:
    old, new = struct.unpack_from("<II", blocks)
    if old:
        return f"{old >> 8 & 0xFF}:{old & 0xFF}"
    return f"{(new & 0xFFF00) >> 8}:{(new & 0xFF) | (new >> 12 & 0xFFF00)}"
