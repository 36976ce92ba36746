"""Quiesced cuts of a system's disks for as long as something is looked at, or is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from forkbed.base.errors import OperationalError
from forkbed.base.ids import SnapshotId
from forkbed.core.snapshots.records import Snapshot, SnapshotKind, SnapshotStatus
from forkbed.engine.cutting import (
    CutTerms,
    complete_snapshot,
    cut_system,
    define_on_layers,
    drop_snapshot,
    take_back,
)
from forkbed.engine.forking import Forking
from forkbed.engine.life import Life
from forkbed.ports.progress import Cancelled
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


def kept_disks(life: Life, record: SystemRecord, snapshot_id: SnapshotId, name: str) -> Snapshot:
    """Cut the disks now, under that name; or what a controller before us made of it, if that is complete."""
    host, store = life.around.host, life.around.store
    present = store.snapshot(snapshot_id)
    if present is not None and present.status is SnapshotStatus.COMPLETE:
        return present
    if present is not None:
        take_back(host, store, present)
    snapshot = disks_snapshot(life, record, snapshot_id, name)
    store.save_snapshot(snapshot)
    with life.step("base", record.name) as progress:
        snapshot, cut = cut_system(host, store, record, snapshot, CutTerms())
        snapshot = complete_snapshot(host, store, snapshot, cut, progress)
    define_on_layers(host, store, snapshot.resolved)
    return snapshot


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
    snapshot, cut = forking.cut(snapshot, CutTerms())
    try:
        yield forking.complete(snapshot, cut)
    finally:
        if not life.around.stopping.is_set():
            drop_snapshot(life.around.host, life.around.store, snapshot)


@contextmanager
def earlier_cut(life: Life, record: SystemRecord) -> Iterator[Snapshot]:
    """Cut now what is to be compared with at the end of the operation; then it goes.

    A controller that takes over goes on with the cut that was made first.
    """
    host, store = life.around.host, life.around.store
    snapshot_id = SnapshotId(f"{life.operation.id}0{record.id}")
    snapshot = kept_disks(life, record, snapshot_id, f"before-{life.operation.id}")
    try:
        yield snapshot
    except (OperationalError, Cancelled):
        if not life.around.stopping.is_set():
            drop_snapshot(host, store, snapshot)
        raise
    drop_snapshot(host, store, snapshot)
