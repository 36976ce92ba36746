"""What is done unasked about snapshots, forks and kept generations: those that expired go, kept generations go from
memory to disk, chains that grew too long are folded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from forkbed.base.ids import OperationId, SystemId, VolumeId
from forkbed.core.operations.records import Event, Operation, OperationKind, OperationStatus, Requester
from forkbed.core.operations.rules import Refuse, admit
from forkbed.core.snapshots.expiry import expired_forks, expired_snapshots
from forkbed.core.systems.goal import Wanted
from forkbed.core.systems.planner import ALIVE
from forkbed.engine.branch_goals import FOLD_GOAL, SNAPSHOT_GOAL, FoldGoal, SnapshotGoal
from forkbed.engine.folding import AFTER_FOLDING, LONGEST
from forkbed.engine.options import Options
from forkbed.engine.saving import saved_of
from forkbed.engine.surroundings import Surroundings
from forkbed.ports.store import SystemRecord

_RETRY_AFTER_S = 600.0
_NOT_AT_ONCE = (OperationStatus.FAILED, OperationStatus.CANCELLED)


class Upkeep:
    """Looks after snapshots, forks, kept generations and chains. Not thread-safe: the supervisor's thread calls it."""

    def __init__(
        self, around: Surroundings, options: Options, draw_operation_id: Callable[[], OperationId]
    ) -> None:
        self._around = around
        self._kept_in_memory_s = options.kept_in_memory_s
        self._draw_operation_id = draw_operation_id
        # By what was begun: its operation, and until when it is not tried again if it failed or was cancelled.
        self._tries: dict[str, tuple[OperationId, float]] = {}

    def look(self) -> int:
        """Begin what is due; returns how many operations that were."""
        store, now = self._around.store, self._around.host.clock.now()
        systems = store.systems()
        by_id = {record.id: record for record in systems}
        resolved = [record.resolved for record in systems]
        begun = 0
        for snapshot in expired_snapshots(now, store.snapshots(), resolved):
            goal = SNAPSHOT_GOAL.dump_python(SnapshotGoal(snapshot.id), mode="json")
            reason = f"snapshot {snapshot.name} has expired"
            begun += self._begin(OperationKind.SNAPSHOT_DELETE, by_id[snapshot.system_id], goal, reason)
        forks = [(record.resolved, record.expires_at) for record in systems]
        for fork in expired_forks(now, forks, resolved):
            expired = by_id[fork.id]
            word = "fork" if expired.kept_of is None else "kept generation"
            if self._begin(OperationKind.DISCARD, expired, {}, f"{word} {fork.name} has expired"):
                begun += 1
                self._tell_expired(expired, by_id)
        for record in self._kept_long_enough(now, systems):
            reason = "a kept generation goes from memory to disk"
            begun += self._begin(OperationKind.SAVE, record, {}, reason)
        present = {volume.volume_id for volume in self._around.host.volumes.volumes()}
        for record in systems:
            if any(self._is_too_long(volume) for volume in _volumes(record) if volume in present):
                goal = FOLD_GOAL.dump_python(FoldGoal(AFTER_FOLDING), mode="json")
                begun += self._begin(OperationKind.FOLD, record, goal, "a volume's chain has grown long")
        return begun

    def _kept_long_enough(self, now: float, systems: Sequence[SystemRecord]) -> list[SystemRecord]:
        """The generations that still wait in memory, and no longer have to; not one that somebody let run.

        One whose memory was lost, but had been saved, has networks still: they go too.
        """
        due = [
            record
            for record in systems
            if record.kept_at is not None
            and record.kept_at + self._kept_in_memory_s <= now
            and Wanted.RUNNING not in record.wanted.values()
        ]
        if not due:
            return []
        alive = {seen.machine_id for seen in self._around.host.hypervisor.machines() if seen.power in ALIVE}
        return [
            record
            for record in due
            if any(machine.id in alive for machine in record.resolved.machines)
            or (record.up and saved_of(self._around.store, record) is not None)
        ]

    def _tell_expired(self, record: SystemRecord, by_id: Mapping[SystemId, SystemRecord]) -> None:
        """Whoever follows the live system hears that its earlier generation goes."""
        if record.kept_of is None:
            return
        live = by_id.get(record.kept_of)
        self._around.store.add_event(
            Event(
                sequence=0,
                at=self._around.host.clock.now(),
                kind="generation.expired",
                system=live.name if live is not None else record.name,
                attributes={"generation": record.generation, "kept": record.name},
            )
        )
        self._around.hub.touch_events()

    def _is_too_long(self, volume_id: VolumeId) -> bool:
        cuts = self._around.host.volume_cuts
        return len(cuts.chain(volume_id)) > LONGEST and cuts.plan_fold(volume_id, AFTER_FOLDING) is not None

    def _begin(self, kind: OperationKind, record: SystemRecord, goal: dict[str, object], reason: str) -> int:
        now = self._around.host.clock.now()
        key = f"{kind} {record.id} {goal}"
        if self._has_failed_lately(key, now):
            return 0
        operation = Operation(
            id=self._draw_operation_id(),
            kind=kind,
            system_id=record.id,
            subject=record.name,
            goal=goal,
            requester=Requester.itself(reason),
            status=OperationStatus.QUEUED,
            created_at=now,
        )
        active = self._around.store.operations(system_id=record.id, active_only=True, limit=1)
        if active or isinstance(
            self._around.store.submit(operation, lambda others: admit(operation, others)), Refuse
        ):
            return 0
        self._tries = {other: tried for other, tried in self._tries.items() if tried[1] > now}
        self._tries[key] = operation.id, now + _RETRY_AFTER_S
        return 1

    def _has_failed_lately(self, key: str, now: float) -> bool:
        if key not in self._tries:
            return False
        operation_id, until = self._tries[key]
        tried = self._around.store.operation(operation_id)
        if tried is None or now >= until:
            return False
        # a fold gives way to whatever is asked of its system: that tells nothing of the next one
        gave_way = tried.kind is OperationKind.FOLD and tried.status is OperationStatus.CANCELLED
        return tried.status in _NOT_AT_ONCE and not gave_way


def _volumes(record: SystemRecord) -> list[VolumeId]:
    return [volume.id for machine in record.resolved.machines for volume in machine.volumes]
