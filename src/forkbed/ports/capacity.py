"""What a host has left."""

from __future__ import annotations

from typing import Protocol


class Capacity(Protocol):
    def available_memory_bytes(self) -> int:
        """Memory that new machines could take without pushing others out."""
