"""The records of snapshots: plain values, kept by the store and beside the machines.

A *cut* is one instant of all machines of a system; a snapshot is what was kept of it: the disks always, the
memory of what ran if it is a live one, and the system as it was declared.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from forkbed.base.ids import MachineId, SnapshotId, SystemId
from forkbed.core.operations.records import Requester
from forkbed.core.systems.spec import ResolvedSystem
from forkbed.core.systems.view import Power


class SnapshotKind(StrEnum):
    """Whether the memory of what ran is part of it."""

    LIVE = "live"
    DISKS = "disks"


class SnapshotStatus(StrEnum):
    MAKING = "making"
    COMPLETE = "complete"
    REMOVING = "removing"


class FreezeMethod(StrEnum):
    """How a machine stood still for its cut."""

    NONE = "none"  # it did not run
    BACKGROUND = (
        "background"  # memory was written while it ran on: a freeze that memory's size does not lengthen
    )
    PAUSED = "paused"  # it stood still until its memory was written
    DISKS = "disks"  # it stood still for its disks only


@dataclass(frozen=True, slots=True)
class MachineCut:
    """One machine at the cut. Times are seconds since the epoch, None where there was no such moment."""

    machine_id: MachineId
    name: str
    power: Power
    method: FreezeMethod = FreezeMethod.NONE
    frozen_at: float | None = None
    resumed_at: float | None = None
    memory_bytes: int = 0  # of its memory's file; 0 without memory
    quiesced: bool = False  # its file systems were frozen through the agent
    note: str = ""  # why it was not quiesced, or which fallback was taken and why


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A cut that was kept. `automatic`: Forkbed made it on its own account, for a fork or before a rollback."""

    id: SnapshotId
    system_id: SystemId
    name: str
    kind: SnapshotKind
    status: SnapshotStatus
    resolved: ResolvedSystem  # as it was then
    created_at: float
    requester: Requester
    machines: tuple[MachineCut, ...] = ()
    message: str = ""
    expires_at: float | None = None
    automatic: bool = False

    @property
    def cut_at(self) -> float:
        """The instant: when the last machine stood still; for machines that did not run, when it was made."""
        return max((m.frozen_at for m in self.machines if m.frozen_at is not None), default=self.created_at)

    @property
    def skew_s(self) -> float:
        """Between the first and the last machine's freeze."""
        frozen = [m.frozen_at for m in self.machines if m.frozen_at is not None]
        return max(frozen) - min(frozen) if frozen else 0.0

    @property
    def memory_bytes(self) -> int:
        return sum(machine.memory_bytes for machine in self.machines)
