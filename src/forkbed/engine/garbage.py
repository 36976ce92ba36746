"""What on the host bears our id and belongs to nothing that is declared, and how it is removed.

A system or a snapshot that the database does not know but that left sidecars is not garbage: the database may have
been lost, or be older than they are, and then the sidecars are all that is left of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from forkbed.base.ids import SnapshotId, SystemId, VolumeId
from forkbed.core.snapshots.records import Snapshot, SnapshotStatus
from forkbed.core.systems.planner import ALIVE
from forkbed.core.systems.spec import ResolvedSystem
from forkbed.core.systems.view import MachineView, Power, SystemView
from forkbed.engine.cutting import settle_volumes, take_back
from forkbed.engine.host import Host
from forkbed.engine.observation import observe_all
from forkbed.engine.requests import GarbageItem
from forkbed.engine.retention import forget_unused_contents
from forkbed.engine.sidecars import forget_snapshot
from forkbed.ports.progress import Progress
from forkbed.ports.store import Store, SystemRecord


@dataclass(frozen=True, slots=True)
class _Finding:
    item: GarbageItem
    remove: Callable[[], object]


@dataclass(slots=True)
class _Remains:
    """What the host has of one snapshot. `systems`: whose, as far as that is known."""

    systems: set[SystemId] = field(default_factory=set)
    prepared: set[VolumeId] = field(default_factory=set)
    size_bytes: int = 0
    told_name: str = ""  # by its sidecar
    is_there: bool = False  # more than a sidecar


class Garbage:
    """Finds and removes what nothing needs."""

    def __init__(self, host: Host, store: Store, accepting: threading.Lock) -> None:
        """`accepting` is the lock under which contents are stored, see `retention`."""
        self._host = host
        self._store = store
        self._accepting = accepting

    def find(self) -> tuple[GarbageItem, ...]:
        """What a collection would remove now."""
        return tuple(finding.item for finding in self._findings())

    def collect(self, progress: Progress) -> tuple[GarbageItem, ...]:
        """Remove it, machines first; look again just before each. Returns what was removed."""
        removed = []
        for finding in self._findings():
            progress.check_cancelled()
            if _which(finding.item) not in {_which(item) for item in self.find()}:
                continue  # its system was brought up meanwhile
            progress.tell(f"removing {finding.item.kind} {finding.item.name}")
            finding.remove()
            removed.append(finding.item)
        with self._accepting:
            forget_unused_contents(self._host, self._store)
        return tuple(removed)

    def _findings(self) -> Iterable[_Finding]:
        views = observe_all(self._host, self._store)
        remains = self._remains()
        # asked after looking: what is seen of a system or a snapshot was made after its record
        records = {record.id: record for record in self._store.systems()}
        lost = {SystemId(name) for name in self._host.sidecars.read_all("systems")} - records.keys()
        findings: list[_Finding] = []
        for system_id, view in views.items():
            record = records.get(system_id)
            # a seed whose machine is not defined has no system; it may be of one that was lost
            if record is None and (system_id in lost or (lost and not system_id)):
                continue
            if record is None or not self._is_busy(system_id):
                findings += self._of_system(system_id, record, view)
        findings += self._of_snapshots(remains, records, lost)
        order = {"machine": 0, "seed": 1, "volume": 2, "snapshot": 3, "network": 4}
        return sorted(findings, key=lambda finding: order[finding.item.kind])

    def _of_system(
        self, system_id: SystemId, record: SystemRecord | None, view: SystemView
    ) -> Iterable[_Finding]:
        host = self._host
        declared = record.resolved if record else None
        reason = f"no longer in system {record.name}" if record else f"its system {system_id} is gone"
        if not system_id:
            reason = "no machine is defined that it belongs to"
        machines = {machine.id for machine in declared.machines} if declared else set()
        volumes = {v.id for machine in declared.machines for v in machine.volumes} if declared else set()
        networks = {n.id for n in declared.networks} if declared and record and record.up else set()
        for machine_id, seen in view.machines.items():
            if machine_id in machines:
                continue
            kind = "seed" if seen.power is Power.ABSENT else "machine"
            item = GarbageItem(kind, seen.name or machine_id, reason)
            yield _Finding(item, partial(self._remove_machine, seen))
        for volume in view.volumes.values():
            in_use = view.machine(volume.machine_id).power in ALIVE and volume.machine_id in machines
            if volume.volume_id in volumes or in_use:
                continue
            item = GarbageItem("volume", f"{volume.machine_name}/{volume.name}", reason, volume.size_bytes)
            yield _Finding(item, partial(host.volumes.remove, volume.volume_id))
        for network_id in view.networks:
            if network_id not in networks:
                item = GarbageItem("network", network_id, reason)
                yield _Finding(item, partial(host.networks.remove, network_id))

    def _remains(self) -> Mapping[SnapshotId, _Remains]:
        host = self._host
        found: dict[SnapshotId, _Remains] = {}
        for name, told in host.sidecars.read_all("snapshots").items():
            remains = found.setdefault(SnapshotId(name), _Remains())
            remains.systems.add(SystemId(str(told.get("system_id", ""))))
            remains.told_name = str(told.get("name", name))
        for cut in host.volume_cuts.cuts():
            remains = found.setdefault(cut.snapshot_id, _Remains())
            if not remains.told_name:
                remains.systems.add(cut.system_id)
            remains.size_bytes += cut.own_bytes
            remains.is_there = True
        for memory in host.cuts.memories():
            remains = found.setdefault(memory.snapshot_id, _Remains())
            remains.size_bytes += memory.size_bytes
            remains.is_there = True
        owners = {volume.volume_id: volume.system_id for volume in host.volumes.volumes()}
        # generations exchange volumes, which keep the labels they were born with
        for record in self._store.systems():
            for machine in record.resolved.machines:
                owners |= dict.fromkeys((volume.id for volume in machine.volumes), record.id)
        for volume_id, snapshot_id in host.volume_cuts.prepared_cuts().items():
            remains = found.setdefault(snapshot_id, _Remains())
            remains.systems.add(owners.get(volume_id, SystemId("")))
            remains.prepared.add(volume_id)
            remains.is_there = True
        return found

    def _of_snapshots(
        self,
        remains: Mapping[SnapshotId, _Remains],
        records: Mapping[SystemId, SystemRecord],
        lost: set[SystemId],
    ) -> Iterable[_Finding]:
        known = {snapshot.id: snapshot for snapshot in self._store.snapshots()}
        for snapshot in unfinished_snapshots(self._store):
            left = remains.get(snapshot.id) or _Remains()
            reason = f"was not brought to an end ({snapshot.status}), and no operation is about it"
            name = f"{snapshot.resolved.name}@{snapshot.name}"
            item = GarbageItem("snapshot", name, reason, left.size_bytes)
            yield _Finding(item, partial(self._take_back, snapshot.id))
        for snapshot_id, left in remains.items():
            of_known = left.systems & records.keys()
            all_known = bool(left.systems) and left.systems == of_known
            if snapshot_id in known or (lost and not all_known):
                continue
            if all_known and left.told_name and left.is_there:
                continue  # the database is older than the snapshot
            if any(self._is_busy(system_id) for system_id in of_known):
                continue
            reason = "no snapshot of that id is known" if left.is_there else "nothing of it is left"
            item = GarbageItem("snapshot", left.told_name or snapshot_id, reason, left.size_bytes)
            systems = [records[system_id].resolved for system_id in of_known]
            yield _Finding(item, partial(self._remove_remains, snapshot_id, systems))

    def _is_busy(self, system_id: SystemId) -> bool:
        return bool(self._store.operations(system_id=system_id, active_only=True, limit=1))

    def _take_back(self, snapshot_id: SnapshotId) -> None:
        snapshot = self._store.snapshot(snapshot_id)
        if snapshot is not None and _is_unfinished(snapshot):
            take_back(self._host, self._store, snapshot)

    def _remove_remains(self, snapshot_id: SnapshotId, systems: Iterable[ResolvedSystem]) -> None:
        for system in systems:
            settle_volumes(self._host, system, snapshot_id)
        self._host.cuts.remove_memory(snapshot_id)
        self._host.volume_cuts.release_cut(snapshot_id)
        forget_snapshot(self._host, snapshot_id)

    def _remove_machine(self, seen: MachineView) -> None:
        if seen.power in ALIVE:
            self._host.hypervisor.force_off(seen.machine_id)
        if seen.power is not Power.ABSENT:
            self._host.hypervisor.undefine(seen.machine_id)
        self._host.guests.remove_seed(seen.machine_id)


def take_back_unfinished(host: Host, store: Store) -> None:
    """Remove the snapshots that nobody is making or removing any more; their machines run on."""
    for snapshot in unfinished_snapshots(store):
        take_back(host, store, snapshot)


def unfinished_snapshots(store: Store) -> list[Snapshot]:
    """Those that an operation was to complete or to remove, and that no active one is about."""
    return [
        snapshot
        for snapshot in store.snapshots()
        if _is_unfinished(snapshot)
        and not store.operations(system_id=snapshot.system_id, active_only=True, limit=1)
    ]


def _is_unfinished(snapshot: Snapshot) -> bool:
    return snapshot.status is not SnapshotStatus.COMPLETE


def _which(item: GarbageItem) -> tuple[str, str, str]:
    """What makes two looks speak of the same thing; its size may change while other things go."""
    return item.kind, item.name, item.reason
