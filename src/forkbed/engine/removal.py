"""What goes with a system that is deleted, and what others keep of it."""

from __future__ import annotations

from forkbed.engine.cutting import drop_snapshot
from forkbed.engine.retention import forget_unused_contents
from forkbed.engine.sidecars import forget_system
from forkbed.engine.surroundings import Surroundings
from forkbed.ports.store import Store, SystemRecord


def dependents(store: Store, record: SystemRecord) -> list[str]:
    """The systems that descend from this one: what they stand on of its layers stays."""
    return [other.name for other in store.systems() if record.id in other.resolved.lineage]


def forget_deleted(around: Surroundings, record: SystemRecord) -> None:
    """Remove the snapshots and records of a system whose machines, volumes and networks are gone."""
    for snapshot in around.store.snapshots(record.id):
        drop_snapshot(around.host, around.store, snapshot)
    with around.accepting:  # no `up` is accepted against a record that is about to go
        forget_system(around.host, around.store, record)
        forget_unused_contents(around.host, around.store)
