"""What operations of upgrades are about, as stored with them. Ids are drawn before anything is done."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter

from forkbed.base.ids import RehearsalId, SnapshotId, SystemId
from forkbed.core.systems.goal import Goal
from forkbed.core.systems.spec import ResolvedSystem


@dataclass(frozen=True, slots=True)
class RehearseGoal:
    """Try the rehearsal's steps on the forks, which are made from the snapshot for that."""

    rehearsal_id: RehearsalId
    snapshot_id: SnapshotId
    forks: tuple[SystemId, ...]
    up: bool


@dataclass(frozen=True, slots=True)
class PromoteGoal:
    """Replay the rehearsal in `attempt`, made from the snapshot of a system that stands still, and let it take over."""

    rehearsal_id: RehearsalId
    snapshot_id: SnapshotId
    base_id: SnapshotId  # the new generation's disks as it takes over
    attempt: SystemId
    up: bool
    max_freeze_s: float | None
    keep_attempt: bool


@dataclass(frozen=True, slots=True)
class Waking:
    """How a kept generation comes back from the snapshot it was saved as: `resolved`, brought to `goal`."""

    snapshot_id: SnapshotId
    resolved: ResolvedSystem
    goal: Goal


@dataclass(frozen=True, slots=True)
class RevertGoal:
    """Let the kept generation, which has that number, take over again. `base_id`: its disks as it does.

    `waking` is for the case that it is not in memory then; None if it was not saved.
    """

    kept: SystemId
    generation: int
    base_id: SnapshotId
    accept_loss: bool
    waking: Waking | None = None


@dataclass(frozen=True, slots=True)
class MaintenanceGoal:
    """Run the hooks one way."""

    on: bool


@dataclass(frozen=True, slots=True)
class DiffGoal:
    """Compare two systems as they are now, or as they were at a snapshot, if one is named."""

    left: SystemId
    right: SystemId
    left_name: str  # as asked for
    right_name: str
    base: bool = False
    left_snapshot: str = ""
    right_snapshot: str = ""
    paths: tuple[str, ...] = ()
    texts: bool = False
    everything: bool = False


REHEARSE_GOAL = TypeAdapter(RehearseGoal)
PROMOTE_GOAL = TypeAdapter(PromoteGoal)
REVERT_GOAL = TypeAdapter(RevertGoal)
MAINTENANCE_GOAL = TypeAdapter(MaintenanceGoal)
DIFF_GOAL = TypeAdapter(DiffGoal)
