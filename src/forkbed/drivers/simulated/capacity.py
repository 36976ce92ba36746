"""`ports.capacity` of the simulated host: as much as a test says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SimulatedCapacity:
    """Memory that nothing uses up."""

    memory_bytes: int = 64 * 1024**3

    def available_memory_bytes(self) -> int:
        """What was given."""
        return self.memory_bytes
