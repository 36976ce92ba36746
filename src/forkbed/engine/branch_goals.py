"""What operations on snapshots and forks are about, as stored with them. Ids are drawn before anything is done."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter

from forkbed.base.ids import SnapshotId, SystemId
from forkbed.core.systems.goal import Goal
from forkbed.ports.store import RevisionRecord


@dataclass(frozen=True, slots=True)
class SnapshotGoal:
    """Make, or remove, the snapshot."""

    snapshot_id: SnapshotId


@dataclass(frozen=True, slots=True)
class ForkGoal:
    """Make the forks from the snapshot. `own_cut`: the snapshot is made for them and goes when they run."""

    snapshot_id: SnapshotId
    own_cut: bool
    forks: tuple[SystemId, ...]
    cold: bool
    up: bool  # whether the original's networks are up


@dataclass(frozen=True, slots=True)
class RollbackGoal:
    """Keep what there is as the snapshot `kept_id`, then bring `revision`'s system to `goal`."""

    snapshot_id: SnapshotId
    kept_id: SnapshotId
    revision: RevisionRecord
    goal: Goal


@dataclass(frozen=True, slots=True)
class FoldGoal:
    """Shorten every chain of the system's volumes to at most `limit` layers, where that is possible."""

    limit: int


SNAPSHOT_GOAL = TypeAdapter(SnapshotGoal)
FORK_GOAL = TypeAdapter(ForkGoal)
ROLLBACK_GOAL = TypeAdapter(RollbackGoal)
FOLD_GOAL = TypeAdapter(FoldGoal)
