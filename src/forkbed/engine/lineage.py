"""Answer what descends from what: snapshots, the tree of systems and forks, and what forks tried to do."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence

from forkbed.base.ids import SnapshotId
from forkbed.core.networks.intents import Intent
from forkbed.core.snapshots.records import Snapshot, SnapshotStatus
from forkbed.core.systems.spec import ResolvedNetwork, UplinkKind
from forkbed.core.systems.view import SystemView
from forkbed.engine.branching import IntentView, SnapshotSummary, TreeKind, TreeNode
from forkbed.engine.cutting import machine_summary
from forkbed.engine.description import Description
from forkbed.engine.host import Host
from forkbed.engine.observation import observe_all
from forkbed.ports.store import Store, SystemRecord

_POLL_S = 0.5
# A cursor holds how far each network's recorder was read, so that a slow one is not passed over.
_CURSOR_BITS = 24
_CURSOR_MASK = (1 << _CURSOR_BITS) - 1


class Lineage:
    """Describes the lineages of one host's systems."""

    def __init__(self, host: Host, store: Store, description: Description) -> None:
        self._host = host
        self._store = store
        self._description = description

    def snapshots(self, record: SystemRecord) -> Sequence[SnapshotSummary]:
        """The system's snapshots, oldest first."""
        cut_bytes = self._cut_bytes()
        systems = self._store.systems()
        return [
            self._snapshot(record, snapshot, cut_bytes.get(snapshot.id, 0), systems)
            for snapshot in self._store.snapshots(record.id)
        ]

    def tree(self, record: SystemRecord | None) -> Sequence[TreeNode]:
        """The roots with all that descends from them; with `record`, the one tree that it belongs to."""
        growing = _Growing(self._host, self._store, self._description, self._cut_bytes())
        if record is None:
            return growing.roots()
        return [growing.root_of(record)]

    def intents(self, record: SystemRecord, *, after: int, limit: int) -> Sequence[IntentView]:
        """What the fork's machines tried, in the order in which its recorders noted it."""
        networks = [n for n in record.resolved.networks if n.spec.uplink is UplinkKind.RECORDED]
        seen = [(after >> (_CURSOR_BITS * position)) & _CURSOR_MASK for position in range(len(networks))]
        found = [
            [
                (position, network, intent)
                for intent in self._host.recorder.intents(network.id, after=last, limit=limit)
            ]
            for position, (network, last) in enumerate(zip(networks, seen, strict=True))
        ]
        views = []
        for position, network, intent in heapq.merge(*found, key=lambda entry: entry[2].at):
            seen[position] = intent.sequence
            cursor = sum(last << (_CURSOR_BITS * place) for place, last in enumerate(seen))
            machine = self._machine_name(record, network, intent)
            views.append(IntentView(cursor, network.spec.name, machine, intent))
        return views[:limit]

    def wait_intents(self, record: SystemRecord, after: int, timeout_s: float) -> Sequence[IntentView]:
        """`intents` as soon as there is one, or nothing when time is up."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.intents(record, after=after, limit=1000)
            if found or time.monotonic() >= deadline:
                return found
            time.sleep(_POLL_S)

    def _machine_name(self, record: SystemRecord, network: ResolvedNetwork, intent: Intent) -> str:
        for machine in record.resolved.machines:
            for nic in machine.nics:
                if nic.network_id == network.id and str(nic.address) == intent.source:
                    return machine.name
        return intent.source

    def _cut_bytes(self) -> Mapping[SnapshotId, int]:
        sizes: dict[SnapshotId, int] = {}
        for cut in self._host.volume_cuts.cuts():
            sizes[cut.snapshot_id] = sizes.get(cut.snapshot_id, 0) + cut.own_bytes
        return sizes

    def _snapshot(
        self, record: SystemRecord, snapshot: Snapshot, disk_bytes: int, systems: Sequence[SystemRecord]
    ) -> SnapshotSummary:
        return SnapshotSummary(
            name=snapshot.name,
            id=snapshot.id,
            system=record.name,
            kind=snapshot.kind,
            status=snapshot.status,
            revision=snapshot.resolved.revision,
            created_at=snapshot.created_at,
            cut_at=snapshot.cut_at,
            skew_s=snapshot.skew_s,
            message=snapshot.message,
            expires_at=snapshot.expires_at,
            automatic=snapshot.automatic,
            own_bytes=disk_bytes + snapshot.memory_bytes,
            memory_bytes=snapshot.memory_bytes,
            machines=tuple(machine_summary(machine) for machine in snapshot.machines),
            forks=tuple(other.name for other in systems if _began_at(other, snapshot.id)),
        )


class _Growing:
    """One tree or all, from one look at the host and the store."""

    def __init__(
        self, host: Host, store: Store, description: Description, cut_bytes: Mapping[SnapshotId, int]
    ) -> None:
        self._description = description
        self._views = observe_all(host, store)
        self._systems = {record.id: record for record in store.systems()}
        self._snapshots = [s for s in store.snapshots() if s.status is SnapshotStatus.COMPLETE]
        self._cut_bytes = cut_bytes
        self._volume_bytes = host.volume_cuts.own_bytes()

    def roots(self) -> list[TreeNode]:
        """Systems that descend from none that is there, by name."""
        return [self._system(record) for record in self._systems.values() if self._parent(record) is None]

    def root_of(self, record: SystemRecord) -> TreeNode:
        """The tree that the system belongs to."""
        parent = self._parent(record)
        while parent is not None:
            record, parent = parent, self._parent(parent)
        return self._system(record)

    def _parent(self, record: SystemRecord) -> SystemRecord | None:
        """The nearest ancestor that is still there: an original may be gone before its forks are."""
        for ancestor in reversed(record.resolved.lineage):
            if ancestor in self._systems:
                return self._systems[ancestor]
        return None

    def _system(self, record: SystemRecord) -> TreeNode:
        origin = record.resolved.origin
        view = self._views.get(record.id) or SystemView()
        parents = ((fork, self._parent(fork)) for fork in self._systems.values())
        forks = [fork for fork, parent in parents if parent is not None and parent.id == record.id]
        snapshots = [s for s in self._snapshots if s.system_id == record.id]
        kept = {snapshot.id for snapshot in snapshots}
        children = [self._snapshot(snapshot, forks) for snapshot in snapshots]
        children += [self._system(fork) for fork in forks if _origin_id(fork) not in kept]
        return TreeNode(
            kind=TreeKind.FORK if origin is not None else TreeKind.SYSTEM,
            name=record.name,
            at=origin.cut_at if origin is not None else record.created_at,
            state=self._description.summary(record, view).state,
            own_bytes=sum(self._volume_bytes.get(volume_id, 0) for volume_id in view.volumes),
            note=record.message,
            expires_at=record.expires_at,
            children=tuple(sorted(children, key=lambda child: child.at)),
        )

    def _snapshot(self, snapshot: Snapshot, forks: Sequence[SystemRecord]) -> TreeNode:
        return TreeNode(
            kind=TreeKind.SNAPSHOT,
            name=snapshot.name,
            at=snapshot.cut_at,
            state=snapshot.kind,
            own_bytes=self._cut_bytes.get(snapshot.id, 0) + snapshot.memory_bytes,
            note=snapshot.message,
            expires_at=snapshot.expires_at,
            children=tuple(self._system(fork) for fork in forks if _began_at(fork, snapshot.id)),
        )


def _origin_id(record: SystemRecord) -> SnapshotId | None:
    return record.resolved.origin.snapshot_id if record.resolved.origin is not None else None


def _began_at(record: SystemRecord, snapshot_id: SnapshotId) -> bool:
    return _origin_id(record) == snapshot_id
