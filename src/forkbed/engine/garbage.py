"""What a collection of garbage finds."""

from __future__ import annotations

from dataclasses import dataclass

from forkbed.core.operations.records import Operation


@dataclass(frozen=True, slots=True)
class GarbageItem:
    """One thing on the host that nothing needs: "volume", "network", "domain", "image-file", …"""

    kind: str
    name: str
    reason: str
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """What a collection would remove (`operation` is None: dry run, or nothing to do) or is removing."""

    items: tuple[GarbageItem, ...]
    operation: Operation | None = None
