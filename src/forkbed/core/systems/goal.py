"""What an operation wants to be true of a system at its end. Stored with the operation, so it survives us."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from forkbed.base.ids import MachineId, SnapshotId


class Wanted(StrEnum):
    """The state a machine is to be in."""

    RUNNING = "running"
    STOPPED = "stopped"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class MemoryRef:
    """The memory of a machine at the cut of a snapshot."""

    snapshot_id: SnapshotId
    machine_id: MachineId


@dataclass(frozen=True, slots=True)
class Goal:
    """The state wanted, and what may be done to get there.

    `wanted` is by machine name; machines of the system that it does not name are left as they are.
    `end_boots` maps machines to the boot that has to end (a restart); any later boot satisfies it.
    `may_destroy` names machines (`boss`) or volumes (`boss/data`) whose data may be lost.
    `delete` removes the whole system with its data; `networks` says whether its networks are wanted.
    `stop_timeout_s` is the guest's time to shut down; 0 ends it at once.
    `restore` names machines that, where they do not run, go on from a memory instead of booting; their volumes
    are made anew from their origins for that.
    `seeds`: machines that are not named in `wanted` are to have their seeds, too.
    """

    wanted: Mapping[str, Wanted]
    networks: bool = True
    delete: bool = False
    may_restart: bool = False
    may_destroy: frozenset[str] = frozenset()
    end_boots: Mapping[MachineId, str] = field(default_factory=dict)
    stop_timeout_s: float = 60.0
    restore: Mapping[MachineId, MemoryRef] = field(default_factory=dict)
    seeds: bool = False

    def within(self, wanted: Mapping[str, Wanted], *, networks: bool) -> Goal:
        """The goal without what is `wanted` otherwise by now."""
        kept = {name: want for name, want in self.wanted.items() if wanted.get(name) is want}
        return replace(self, wanted=kept, networks=networks)

    def may_lose(self, machine_name: str, volume_name: str) -> bool:
        """Whether that volume's data may be destroyed."""
        return self.delete or bool({machine_name, f"{machine_name}/{volume_name}"} & self.may_destroy)
