"""What is done unasked about snapshots and forks: those that expired go, chains that grew too long are folded."""

from __future__ import annotations

from collections.abc import Callable

from forkbed.base.ids import OperationId, VolumeId
from forkbed.core.operations.records import Operation, OperationKind, OperationStatus, Requester
from forkbed.core.operations.rules import Refuse, admit
from forkbed.core.snapshots.expiry import expired_forks, expired_snapshots
from forkbed.engine.branch_goals import FOLD_GOAL, SNAPSHOT_GOAL, FoldGoal, SnapshotGoal
from forkbed.engine.folding import AFTER_FOLDING, LONGEST
from forkbed.engine.surroundings import Surroundings
from forkbed.ports.store import SystemRecord

_RETRY_AFTER_S = 600.0


class Upkeep:
    """Looks after snapshots, forks and chains. Not thread-safe: the supervisor's thread calls it."""

    def __init__(self, around: Surroundings, draw_operation_id: Callable[[], OperationId]) -> None:
        self._around = around
        self._draw_operation_id = draw_operation_id
        # By what was begun: its operation, and until when it is not tried again if it failed.
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
            reason = f"fork {fork.name} has expired"
            begun += self._begin(OperationKind.DISCARD, by_id[fork.id], {}, reason)
        present = {volume.volume_id for volume in self._around.host.volumes.volumes()}
        for record in systems:
            if any(self._is_too_long(volume) for volume in _volumes(record) if volume in present):
                goal = FOLD_GOAL.dump_python(FoldGoal(AFTER_FOLDING), mode="json")
                begun += self._begin(OperationKind.FOLD, record, goal, "a volume's chain has grown long")
        return begun

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
            requester=Requester(0, "forkbed", reason),
            status=OperationStatus.QUEUED,
            created_at=now,
        )
        active = self._around.store.operations(system_id=record.id, active_only=True, limit=1)
        if active or isinstance(
            self._around.store.submit(operation, lambda others: admit(kind, others)), Refuse
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
        return now < until and tried is not None and tried.status is OperationStatus.FAILED


def _volumes(record: SystemRecord) -> list[VolumeId]:
    return [volume.id for machine in record.resolved.machines for volume in machine.volumes]
