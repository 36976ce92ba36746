"""A quiesced cut of a system's disks for as long as something is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from forkbed.base.ids import SnapshotId
from forkbed.core.snapshots.records import Snapshot, SnapshotKind, SnapshotStatus
from forkbed.engine.cutting import drop_snapshot, take_back
from forkbed.engine.forking import Forking
from forkbed.engine.life import Life
from forkbed.ports.store import SystemRecord


def disks_snapshot(life: Life, record: SystemRecord, snapshot_id: SnapshotId, name: str) -> Snapshot:
    """The record of an automatic snapshot of the disks, not made yet."""
    return Snapshot(
        id=snapshot_id,
        system_id=record.id,
        name=name,
        kind=SnapshotKind.DISKS,
        status=SnapshotStatus.MAKING,
        resolved=record.resolved,
        created_at=life.around.host.clock.now(),
        requester=life.operation.requester,
        automatic=True,
    )


def sweep_momentary(life: Life) -> None:
    """Remove the momentary cuts that an earlier controller made for this operation."""
    for snapshot in life.around.store.snapshots():
        if snapshot.name == _name(life):
            take_back(life.around.host, life.around.store, snapshot)


def _name(life: Life) -> str:
    return f"look-{life.operation.id}"


@contextmanager
def momentary_cut(life: Life, record: SystemRecord) -> Iterator[Snapshot]:
    """Cut now; what was kept of it goes at the end. What a controller that died left, `sweep_momentary` removes."""
    # one operation has one such cut of a system at a time, so its name needs no drawing
    snapshot_id = SnapshotId(f"{life.operation.id}{record.id}")
    forking = Forking(life)
    snapshot = disks_snapshot(life, record, snapshot_id, _name(life))
    life.around.store.save_snapshot(snapshot)
    snapshot, cut = forking.cut(snapshot, hold=False)
    try:
        yield forking.complete(snapshot, cut)
    finally:
        if not life.around.stopping.is_set():
            drop_snapshot(life.around.host, life.around.store, snapshot)
