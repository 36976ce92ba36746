"""What on the host bears our id and belongs to nothing that is declared, and how it is removed.

A system that the database does not know but that left sidecars is not garbage: the database may have been
lost, and then the sidecars are all that is left of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from forkbed.base.ids import SystemId
from forkbed.core.systems.planner import ALIVE
from forkbed.core.systems.view import MachineView, Power, SystemView
from forkbed.engine.host import Host
from forkbed.engine.observation import observe_all
from forkbed.engine.requests import GarbageItem
from forkbed.engine.retention import forget_unused_contents
from forkbed.ports.progress import Progress
from forkbed.ports.store import Store, SystemRecord


@dataclass(frozen=True, slots=True)
class _Finding:
    item: GarbageItem
    remove: Callable[[], object]


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
            if finding.item not in self.find():
                continue  # its system was brought up meanwhile
            progress.tell(f"removing {finding.item.kind} {finding.item.name}")
            finding.remove()
            removed.append(finding.item)
        with self._accepting:
            forget_unused_contents(self._host, self._store)
        return tuple(removed)

    def _findings(self) -> Iterable[_Finding]:
        views = observe_all(self._host, self._store)
        # asked after looking: what is seen of a system was made after its record
        records = {record.id: record for record in self._store.systems()}
        lost = set(self._host.sidecars.read_all("systems")) - records.keys()
        findings: list[_Finding] = []
        for system_id, view in views.items():
            record = records.get(system_id)
            # a seed whose machine is not defined has no system; it may be of one that was lost
            if record is None and (system_id in lost or (lost and not system_id)):
                continue
            busy = record is not None and self._store.operations(
                system_id=system_id, active_only=True, limit=1
            )
            if not busy:
                findings += self._of_system(system_id, record, view)
        order = {"machine": 0, "seed": 1, "volume": 2, "network": 3}
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

    def _remove_machine(self, seen: MachineView) -> None:
        if seen.power in ALIVE:
            self._host.hypervisor.force_off(seen.machine_id)
        if seen.power is not Power.ABSENT:
            self._host.hypervisor.undefine(seen.machine_id)
        self._host.guests.remove_seed(seen.machine_id)
