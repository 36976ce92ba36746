"""FAT, exFAT, NTFS, HFS+ and ISO 9660 through The Sleuth Kit, a library in C++ for reading file systems.

Only within the worker, which has no rights: a crafted file system may well crash it. It reports neither extended
attributes nor access control lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytsk3

from forkbed.core.diffs.entries import EntryKind
from forkbed.core.diffs.names import shown
from forkbed.drivers.filesystems.places import Read
from forkbed.drivers.filesystems.problems import Budget, Unreadable
from forkbed.drivers.filesystems.trees import Facts, Piece

_KINDS = {
    int(pytsk3.TSK_FS_META_TYPE_REG): EntryKind.FILE,
    int(pytsk3.TSK_FS_META_TYPE_DIR): EntryKind.DIRECTORY,
    int(pytsk3.TSK_FS_META_TYPE_LNK): EntryKind.LINK,
    int(pytsk3.TSK_FS_META_TYPE_CHR): EntryKind.CHARACTER_DEVICE,
    int(pytsk3.TSK_FS_META_TYPE_BLK): EntryKind.BLOCK_DEVICE,
    int(pytsk3.TSK_FS_META_TYPE_FIFO): EntryKind.PIPE,
    int(pytsk3.TSK_FS_META_TYPE_SOCK): EntryKind.SOCKET,
}
_ALLOCATED = int(pytsk3.TSK_FS_NAME_FLAG_ALLOC)
_OWN_NAMES = (b".", b"..", b"$OrphanFiles", b"$FAT1", b"$FAT2", b"$MBR")
_PIECEWISE = int(pytsk3.TSK_FS_ATTR_NONRES)
_NOT_PIECEWISE = int(pytsk3.TSK_FS_ATTR_COMP) | int(pytsk3.TSK_FS_ATTR_ENC)
_MOST_PROBLEMS = 100


class _Image(pytsk3.Img_Info):  # type: ignore[misc]  # the library has no types
    """Lets the library read a place of a disk."""

    def __init__(self, read: Read, size_bytes: int) -> None:
        self._read_place = read
        self._size_bytes = size_bytes
        super().__init__(url="", type=pytsk3.TSK_IMG_TYPE_EXTERNAL)

    def close(self) -> None:
        """Nothing: the layers' files stay open for others."""

    def read(self, offset: int, size: int) -> bytes:
        return self._read_place(offset, size)

    def get_size(self) -> int:
        return self._size_bytes


class SleuthKit:
    """One version of a file system, a `Tree`. Nothing is known of what it shares with another version."""

    suspects = None

    def __init__(self, read: Read, size_bytes: int, budget: Budget) -> None:
        self._budget = budget
        self.problems: list[str] = []
        self._image = _Image(read, size_bytes)  # the library does not keep it alive
        try:
            self._system = pytsk3.FS_Info(self._image)
        except OSError as error:
            raise Unreadable(_first_line(error)) from error
        self._paths: dict[bytes, int] | None = None

    def paths(self) -> Mapping[bytes, int]:
        if self._paths is None:
            self._paths = self._walked()
        return self._paths

    def facts(self, node: int) -> Facts:
        meta = self._meta(node)
        kind = _KINDS.get(int(meta.type))
        if kind is None:
            raise Unreadable("it is of a kind that is not known here")
        link = meta.link if kind is EntryKind.LINK else None
        return Facts(
            kind,
            int(meta.mode) & 0o7777,
            int(meta.uid),
            int(meta.gid),
            int(meta.size) if kind is EntryKind.FILE else 0,
            link if isinstance(link, bytes) else (link or "").encode("utf-8", "surrogateescape"),
        )

    def pieces(self, node: int) -> tuple[Piece, ...] | None:
        file = self._file(node)
        block_bytes, size = int(self._system.info.block_size), int(file.info.meta.size)
        attributes = [one for one in file if int(one.info.size) == size]
        if len(attributes) != 1:
            return None
        (attribute,) = attributes
        flags = int(attribute.info.flags)
        if not flags & _PIECEWISE or flags & _NOT_PIECEWISE:
            return None
        found = []
        for run in attribute:
            at = int(run.offset) * block_bytes
            length = min(int(run.len) * block_bytes, size - at)
            if int(run.flags):  # a hole, or a place holder
                return None
            if length > 0:
                found.append(Piece(at, int(run.addr) * block_bytes, length))
        return tuple(found)

    def digest(self, node: int) -> str | None:
        return None

    def content(self, node: int, offset: int, size: int) -> bytes:
        file = self._file(node)
        size = max(0, min(size, int(file.info.meta.size) - offset))
        if not size:
            return b""
        try:
            return bytes(file.read_random(offset, size))
        except OSError as error:
            raise Unreadable(_first_line(error)) from error

    def _walked(self) -> dict[bytes, int]:
        root = int(self._system.info.root_inum)
        found = {b"": root}
        seen = {root}
        pending = [(b"", root, 0)]
        while pending:
            above, node, depth = pending.pop()
            try:
                entries = list(self._entries(node))
            except Unreadable as reason:
                if above == b"":
                    raise
                self._problem(above, str(reason))
                continue
            self._budget.names(len(found) + len(entries))
            for name, inner, is_directory in entries:
                path = above + b"/" + name if above else name
                found[path] = inner
                if not is_directory:
                    continue
                if inner in seen or depth >= self._budget.depth:
                    self._problem(path, "it lies too deep, or within itself; not entered")
                else:
                    seen.add(inner)
                    pending.append((path, inner, depth + 1))
        return found

    def _entries(self, node: int) -> Iterator[tuple[bytes, int, bool]]:
        try:
            for entry in self._system.open_dir(inode=node):
                name, meta = entry.info.name, entry.info.meta
                if name.name in _OWN_NAMES or not int(name.flags) & _ALLOCATED or meta is None:
                    continue
                text = bytes(name.name)
                if b"/" in text or not text:
                    raise Unreadable(f"it holds a name that cannot be: {shown(text)!r}")
                yield text, int(meta.addr), _KINDS.get(int(meta.type)) is EntryKind.DIRECTORY
        except OSError as error:
            raise Unreadable(_first_line(error)) from error

    def _meta(self, node: int) -> Any:
        return self._file(node).info.meta

    def _file(self, node: int) -> Any:
        try:
            return self._system.open_meta(inode=node)
        except OSError as error:
            raise Unreadable(_first_line(error)) from error

    def _problem(self, path: bytes, what: str) -> None:
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(f"/{shown(path)}: {what}")


def _first_line(error: OSError) -> str:
    """The library's own words."""
    return shown((str(error).strip().splitlines() or ["it cannot be read"])[0].encode("utf-8", "replace"))
