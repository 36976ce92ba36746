"""What every reader of a file system offers to the comparison."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Protocol

from forkbed.core.diffs.entries import EntryKind


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file system says of one of its nodes, except for the content."""

    kind: EntryKind
    mode: int
    uid: int
    gid: int
    size_bytes: int = 0
    target: bytes = b""
    device: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` bytes of a content from `at` on, found in the place of the file system from `place` on."""

    at: int
    place: int
    length: int


class Tree(Protocol):
    """A file system, read. A node is a number (an inode); paths are as the guest has them, without a leading slash.

    The root has the path b"".
    """

    @property
    def problems(self) -> list[str]:
        """What could not be read, as far as it was met."""

    @property
    def suspects(self) -> Container[int] | None:
        """The nodes that can differ from those of the same number in the tree this one was held against.

        None if every node can.
        """

    def paths(self) -> Mapping[bytes, int]:
        """Every path with its node."""

    def facts(self, node: int) -> Facts:
        """Raises `Unreadable` if the node is damaged."""

    def pieces(self, node: int) -> tuple[Piece, ...] | None:
        """Where a file's content lies, in order, holes left out; None if only `content` knows.

        Raises `Unreadable` if it is damaged.
        """

    def digest(self, node: int) -> str | None:
        """A hash of a file's content, if the reader has one anyway; equal for equal contents of all versions."""

    def content(self, node: int, offset: int, size: int) -> bytes:
        """`size` bytes of a file; fewer at its end. Raises `Unreadable` if it is damaged."""
