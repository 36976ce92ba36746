"""How much of a guest's file system is read at most: it may be made to hurt whoever reads it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one comparison of one volume. What lies beyond is told, never silently left out."""

    seconds: float = 600.0
    memory_bytes: int = 3 * 1024 * _MIB
    entries: int = 3_000_000  # names in all directories of a file system
    listed: int = 50_000  # changes told one by one
    depth: int = 256  # of directories
    packages_bytes: int = 64 * _MIB  # of the list of packages
    text_bytes: int = _MIB  # of a file whose differences are shown as text
    text_lines: int = 2_000  # of such a difference
