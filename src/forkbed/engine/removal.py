"""What goes with a system that is deleted, and what others keep of it."""

from __future__ import annotations

from forkbed.core.snapshots.records import Snapshot
from forkbed.engine.cutting import take_back
from forkbed.engine.retention import forget_unused_contents
from forkbed.engine.sidecars import forget_system
from forkbed.engine.surroundings import Surroundings
from forkbed.ports.store import Store, SystemRecord


def dependents(store: Store, record: SystemRecord) -> list[str]:
    """The systems that descend from this one: what they stand on of its layers stays."""
    return [other.name for other in store.systems() if record.id in other.resolved.lineage]


def _kept_for(store: Store, record: SystemRecord) -> list[Snapshot]:
    """Snapshots of other systems that were kept for this one: the cut that a rehearsal's fork is compared with, and
    how the live generation's disks were when it took over from this one."""
    wanted = {rehearsal.base_id for rehearsal in store.rehearsals() if rehearsal.fork_id == record.id}
    found = [snapshot for snapshot in store.snapshots() if snapshot.id in wanted]
    if record.kept_of is not None and not any(o.kept_of == record.kept_of for o in _others(store, record)):
        found += [
            s for s in store.snapshots(record.kept_of) if s.automatic and s.name.startswith("generation-")
        ]
    return found


def _others(store: Store, record: SystemRecord) -> list[SystemRecord]:
    return [other for other in store.systems() if other.id != record.id]


def forget_deleted(around: Surroundings, record: SystemRecord) -> None:
    """Remove the snapshots and records of a system whose machines, volumes and networks are gone."""
    doomed = [*around.store.snapshots(record.id), *_kept_for(around.store, record)]
    for snapshot in doomed:
        take_back(around.host, around.store, snapshot)  # it may never have been completed
    with around.accepting:  # no `up` is accepted against a record that is about to go
        forget_system(around.host, around.store, record)
        forget_unused_contents(around.host, around.store)
