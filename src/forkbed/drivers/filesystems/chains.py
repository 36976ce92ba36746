"""The content of a disk, read from its chain of files: qcow2 over qcow2 over an image, qcow2 or raw.

Read here and not through QEMU because the question is which bytes two chains cannot have in common, and that is in
the tables of the layers that they do not share. Layout of qcow2: docs/interop/qcow2.txt of QEMU. The header's name
of a backing file is never looked at. A layer is read only, and must not be written to meanwhile.
"""

from __future__ import annotations

import os
import struct
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from forkbed.core.diffs.ranges import Ranges, ranges
from forkbed.drivers.filesystems.problems import Unreadable

_MAGIC = b"QFI\xfb"
_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_ZERO = 1
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED = 1, 2, 4, 8, 16
_MOST_L1_BYTES = 32 * 1024 * 1024  # QEMU's own bound
_TABLES_KEPT = 64


class _Is(Enum):
    ABSENT = auto()  # look in the layer below
    ZERO = auto()
    DATA = auto()
    COMPRESSED = auto()


@dataclass(frozen=True, slots=True)
class _Run:
    """What a layer says of a place: how many bytes from there on are alike, and where in the file they are.

    Of a compressed cluster: `at` is the entry of its table, `within` how far into the cluster the place is.
    """

    state: _Is
    length: int
    at: int = 0
    within: int = 0


class _Raw:
    """A file that is the disk, byte by byte."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size_bytes = os.fstat(descriptor).st_size

    def run(self, offset: int) -> _Run:
        return _Run(_Is.DATA, self.size_bytes - offset, offset)

    def allocated(self) -> Iterator[tuple[int, int]]:
        position = 0
        while position < self.size_bytes:
            try:
                start = os.lseek(self.descriptor, position, os.SEEK_DATA)
            except OSError:  # nothing but holes from here on
                return
            position = os.lseek(self.descriptor, start, os.SEEK_HOLE)
            yield start, position

    def unpacked(self, at: int) -> bytes:
        raise AssertionError("a raw file compresses nothing")


class _Qcow2:
    """A qcow2 file without looking below it."""

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self._path = path
        header = os.pread(descriptor, 104, 0).ljust(104, b"\0")
        if header[:4] != _MAGIC:
            raise Unreadable(f"{path} is not a qcow2 file")
        version, bits = struct.unpack_from(">I", header, 4)[0], struct.unpack_from(">I", header, 20)[0]
        (self.size_bytes,) = struct.unpack_from(">Q", header, 24)
        encrypted, entries, table = struct.unpack_from(">IIQ", header, 32)
        features = struct.unpack_from(">Q", header, 72)[0] if version >= 3 else 0
        self._refuse(version, bits, encrypted, features)
        self._bits = bits
        self.cluster_bytes = 1 << bits
        self._per_table = self.cluster_bytes // 8
        needed = -(-self.size_bytes // (self.cluster_bytes * self._per_table))
        if not needed <= entries <= _MOST_L1_BYTES // 8:
            raise Unreadable(f"{path} has a table of {entries} entries for {self.size_bytes} bytes")
        self._top = self._table(table, needed)
        self._tables: OrderedDict[int, array[int]] = OrderedDict()

    def _refuse(self, version: int, bits: int, encrypted: int, features: int) -> None:
        reason = ""
        if version not in (2, 3) or not 9 <= bits <= 21:
            reason = f"a qcow2 file of version {version} with clusters of 2^{bits} bytes"
        elif encrypted:
            reason = "encrypted"
        elif features & _CORRUPT:
            reason = "marked as damaged"
        elif features & _DATA_FILE:
            reason = "kept in an external data file"
        elif features & ~(_DIRTY | _COMPRESSION):
            reason = f"written with features that are not known here ({features:#x})"
        if reason:
            raise Unreadable(f"{self._path} is {reason}")
        self._deflated = not features & _COMPRESSION

    def run(self, offset: int) -> _Run:
        within = offset & (self.cluster_bytes - 1)
        left = self.cluster_bytes - within
        index = offset >> self._bits
        above = self._top[index // self._per_table] & _OFFSET
        if not above:
            whole = self.cluster_bytes * self._per_table
            return _Run(_Is.ABSENT, whole - offset % whole)
        entry = self._second(above)[index % self._per_table]
        if entry & _COMPRESSED:
            return _Run(_Is.COMPRESSED, left, entry, within)
        if entry & _ZERO:
            return _Run(_Is.ZERO, left)
        start = entry & _OFFSET
        return _Run(_Is.DATA, left, start + within) if start else _Run(_Is.ABSENT, left)

    def allocated(self) -> Iterator[tuple[int, int]]:
        whole = self.cluster_bytes * self._per_table
        absent = array("Q", bytes(self.cluster_bytes))
        for number, entry in enumerate(self._top):
            if not (above := entry & _OFFSET):
                continue
            table = self._table(above, self._per_table)
            if table == absent:
                continue
            for index, cluster in enumerate(table):
                if cluster:
                    start = number * whole + (index << self._bits)
                    yield start, start + self.cluster_bytes

    def unpacked(self, at: int) -> bytes:
        """The compressed cluster that this table entry is of."""
        if not self._deflated:
            raise Unreadable(f"{self._path} is compressed with zstd; `qemu-img convert` makes it plain")
        shift = 62 - (self._bits - 8)
        start = at & ((1 << shift) - 1)
        sectors = ((at & (_COMPRESSED - 1)) >> shift) + 1
        packed = os.pread(self.descriptor, sectors * 512 - start % 512, start)
        try:
            content = zlib.decompressobj(-12).decompress(packed, self.cluster_bytes)
        except zlib.error as error:
            raise Unreadable(f"{self._path} has a compressed cluster that is damaged: {error}") from error
        return content.ljust(self.cluster_bytes, b"\0")

    def _second(self, at: int) -> array[int]:
        table = self._tables.get(at)
        if table is None:
            table = self._table(at, self._per_table)
            self._tables[at] = table
            if len(self._tables) > _TABLES_KEPT:
                self._tables.popitem(last=False)
        return table

    def _table(self, at: int, entries: int) -> array[int]:
        held = os.pread(self.descriptor, entries * 8, at)
        if len(held) != entries * 8:
            raise Unreadable(f"{self._path} is shorter than its tables say")
        table = array("Q", held)
        table.byteswap()
        return table


@dataclass(frozen=True, slots=True)
class OpenLayer:
    """A layer's file, opened for reading."""

    path: str
    format: str
    descriptor: int


class Chain:
    """A disk: its layers, top first."""

    def __init__(self, layers: Sequence[OpenLayer]) -> None:
        if not layers:
            raise Unreadable("a disk without files")
        self._layers = [_opened(layer, last=layer is layers[-1]) for layer in layers]
        self._files = [_file(layer.descriptor) for layer in layers]
        self.size_bytes = self._layers[0].size_bytes

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; zeroes beyond the end of the disk."""
        pieces = []
        while size > 0:
            piece = self._piece(offset, size)
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def differing(self, other: Chain) -> Ranges:
        """The bytes that can differ between the two: whatever is held by a layer that they do not share."""
        mine = list(zip(self._layers, self._files, strict=True))
        others = list(zip(other._layers, other._files, strict=True))
        while mine and others and mine[-1][1] == others[-1][1]:
            mine.pop()
            others.pop()
        size = max(self.size_bytes, other.size_bytes)
        found: list[tuple[int, int]] = []
        for layer, _ in (*mine, *others):
            found.extend(layer.allocated())
            found.append((layer.size_bytes, size))  # a short layer hides what is below its end
        found.append((min(self.size_bytes, other.size_bytes), size))
        return ranges((start, min(end, size)) for start, end in found)

    def _piece(self, offset: int, size: int) -> bytes:
        if offset >= self.size_bytes:
            return bytes(size)
        size = min(size, self.size_bytes - offset)
        for layer in self._layers:
            if offset >= layer.size_bytes:
                break
            run = layer.run(offset)
            size = min(size, run.length, layer.size_bytes - offset)
            if run.state is _Is.ZERO:
                break
            if run.state is _Is.DATA:
                # a file may end within its last cluster
                return os.pread(layer.descriptor, size, run.at).ljust(size, b"\0")
            if run.state is _Is.COMPRESSED:
                return layer.unpacked(run.at)[run.within : run.within + size]
        return bytes(size)


def _opened(layer: OpenLayer, *, last: bool) -> _Raw | _Qcow2:
    if layer.format == "qcow2":
        return _Qcow2(layer.descriptor, layer.path)
    if layer.format == "raw" and last:
        return _Raw(layer.descriptor)
    raise Unreadable(f"{layer.path}: a layer cannot be {layer.format} here")


def _file(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
