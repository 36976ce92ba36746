"""Decide which snapshots and forks have had their time. Pure.

Promise: nothing expires that something else needs: a snapshot while a fork that was made of it is there (the two
are compared against it), a fork while another fork descends from it.
"""

from __future__ import annotations

from collections.abc import Sequence

from forkbed.core.snapshots.records import Snapshot, SnapshotStatus
from forkbed.core.systems.spec import ResolvedSystem


def expired_snapshots(
    now: float, snapshots: Sequence[Snapshot], systems: Sequence[ResolvedSystem]
) -> list[Snapshot]:
    """Complete snapshots whose time is over and of which no fork is left."""
    origins = {system.origin.snapshot_id for system in systems if system.origin is not None}
    return [
        snapshot
        for snapshot in snapshots
        if snapshot.status is SnapshotStatus.COMPLETE
        and snapshot.expires_at is not None
        and snapshot.expires_at <= now
        and snapshot.id not in origins
    ]


def expired_forks(
    now: float, forks: Sequence[tuple[ResolvedSystem, float | None]], systems: Sequence[ResolvedSystem]
) -> list[ResolvedSystem]:
    """Forks, each given with its expiry, whose time is over and from which none of the systems descends."""
    ancestors = {ancestor for system in systems for ancestor in system.lineage}
    return [
        fork
        for fork, expires_at in forks
        if fork.origin is not None
        and expires_at is not None
        and expires_at <= now
        and fork.id not in ancestors
    ]
