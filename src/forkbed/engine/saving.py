"""Put a kept generation from memory onto the disk: what it takes there waits for a revert that may never come.

Nothing is lost on the way: the machines stand still before, and end only when a complete snapshot holds their disks
and their memory. One that a promotion replaced has such a snapshot already: the cut that the promotion was made from,
since nothing of it ran afterwards. QEMU writes the memory of a machine that stands still once only, too.
"""

from __future__ import annotations

from dataclasses import replace

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import SnapshotId, SystemId
from forkbed.core.operations.records import Event
from forkbed.core.snapshots.records import Snapshot, SnapshotKind, SnapshotStatus
from forkbed.core.systems.branch import is_still_saved
from forkbed.core.systems.goal import Goal, Wanted
from forkbed.core.systems.planner import ALIVE
from forkbed.engine.cutting import CutTerms, alive_machines, check_cuttable, drop_snapshot, take_back
from forkbed.engine.forking import Forking, TakenBack
from forkbed.engine.host import Host
from forkbed.engine.life import Life
from forkbed.engine.planloop import PlanLoop
from forkbed.engine.sidecars import write_snapshot_sidecar
from forkbed.ports.store import Store, SystemRecord

SAVED = "saved"


def saved_of(store: Store, record: SystemRecord) -> Snapshot | None:
    """The complete snapshot of all that a kept generation is; None if there is none, or none any more."""
    for snapshot in _saved(store, record.id):
        current = is_still_saved(
            snapshot, record.resolved, kept_at=record.kept_at, changed_at=record.changed_at
        )
        if snapshot.status is SnapshotStatus.COMPLETE and current:
            return snapshot
    return None


def asleep(host: Host, record: SystemRecord, saved: Snapshot) -> bool:
    """Whether the generation has to go on from what was saved: something of it that ran does not stand in memory."""
    alive = alive_machines(host, record.resolved)
    return any(cut.power in ALIVE and cut.machine_id not in alive for cut in saved.machines)


def hand_cut_over(host: Host, store: Store, cut: Snapshot, kept: SystemRecord) -> None:
    """What a promotion was made from is all that the generation is which it replaced. May be done again."""
    if cut.system_id == kept.id:
        return
    handed = replace(
        cut,
        system_id=kept.id,
        name=SAVED,
        resolved=kept.resolved,
        automatic=True,
        message=f"what generation {kept.generation} was when it was replaced",
    )
    store.save_snapshot(handed)
    write_snapshot_sidecar(host, handed)


def forget_saved(host: Host, store: Store, system_id: SystemId) -> None:
    """Remove what was saved of a generation that is not kept any more."""
    for snapshot in _saved(store, system_id):
        drop_snapshot(host, store, snapshot)


class Saving:
    """One kept generation. If it fails, that one stays in memory."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._around = life.around
        self._host = life.around.host
        self._store = life.around.store
        self._forking = Forking(life)

    def run(self) -> dict[str, object]:
        """Return when it is on the disk, and its memory is given back."""
        assert self._life.operation.system_id is not None
        record = self._forking.record(self._life.operation.system_id)
        if Wanted.RUNNING in record.wanted.values():
            raise OperationalError(
                Kind.CONFLICT,
                f"system {record.name}",
                "was let go on meanwhile, so it is not saved",
                f"`forkbed pause {record.name}`, and it will be",
            )
        saved = saved_of(self._store, record) or self._save(record)
        self._give_memory_back(record)
        self._tell(record, saved)
        return {"generation": record.generation, "memory_bytes": saved.memory_bytes}

    def _save(self, record: SystemRecord) -> Snapshot:
        for former in _saved(self._store, record.id):  # of an earlier time, or half made
            take_back(self._host, self._store, former)
        self._life.check_cancelled()
        check_cuttable(self._host, record, memory=True)
        snapshot = Snapshot(
            id=SnapshotId(self._life.operation.id),  # an operation saves once, so this needs no drawing
            system_id=record.id,
            name=SAVED,
            kind=SnapshotKind.LIVE,
            status=SnapshotStatus.MAKING,
            resolved=record.resolved,
            created_at=self._host.clock.now(),
            requester=self._life.operation.requester,
            message=f"generation {record.generation}, out of memory",
            automatic=True,
        )
        self._store.save_snapshot(snapshot)
        with TakenBack(self._around, snapshot.id):
            snapshot, cut = self._forking.cut(snapshot, CutTerms())
            return self._forking.complete(snapshot, cut)

    def _give_memory_back(self, record: SystemRecord) -> None:
        wanted = dict.fromkeys(record.wanted, Wanted.STOPPED)
        # not a change of the generation: `changed_at` stays, by which `saved_of` knows that nobody let it run
        self._store.save_system(replace(record, wanted=wanted, up=False))
        # of volumes only those go that the generation does not have any more, since a revert that failed made others
        goal = Goal(wanted, networks=False, may_destroy=frozenset(wanted), stop_timeout_s=0.0)
        PlanLoop(self._life, record.id, goal).run()

    def _tell(self, record: SystemRecord, saved: Snapshot) -> None:
        live = self._store.system_by_id(record.kept_of) if record.kept_of is not None else None
        self._store.add_event(
            Event(
                sequence=0,
                at=self._host.clock.now(),
                kind="generation.saved",
                system=live.name if live is not None else record.name,
                operation_id=self._life.operation.id,
                attributes={"generation": record.generation, "memory_bytes": saved.memory_bytes},
            )
        )
        self._around.hub.touch_events()


def _saved(store: Store, system_id: SystemId) -> list[Snapshot]:
    return [s for s in store.snapshots(system_id) if s.name == SAVED and s.automatic]
