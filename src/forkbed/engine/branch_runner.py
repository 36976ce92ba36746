"""Work off operations on snapshots and forks: cut, keep, fork, roll back, fold, remove.

A cut is one instant: what a dead controller left half-cut is taken back and said. Everything after a cut is planned
from what is seen, as ever, so it is gone on with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.operations.records import Operation, OperationKind
from forkbed.core.snapshots.records import Snapshot, SnapshotKind, SnapshotStatus
from forkbed.engine.branch_goals import FORK_GOAL, ROLLBACK_GOAL, SNAPSHOT_GOAL, ForkGoal, RollbackGoal
from forkbed.engine.cutting import CutTerms, drop_snapshot
from forkbed.engine.folding import fold_system
from forkbed.engine.forking import DELETE, Forking, TakenBack, gone, snapshot_result
from forkbed.engine.life import Life
from forkbed.engine.planloop import PlanLoop
from forkbed.engine.removal import dependents, forget_deleted
from forkbed.engine.sidecars import write_sidecars
from forkbed.engine.surroundings import Surroundings
from forkbed.ports.progress import Cancelled
from forkbed.ports.store import SystemRecord

BRANCHING = (
    OperationKind.SNAPSHOT,
    OperationKind.SNAPSHOT_DELETE,
    OperationKind.FORK,
    OperationKind.ROLLBACK,
    OperationKind.DISCARD,
    OperationKind.FOLD,
)
Result = dict[str, object]


class BranchRunner:
    """Runs one operation to its end."""

    def __init__(self, around: Surroundings, operation: Operation, cancelled: threading.Event) -> None:
        self._around = around
        self._host = around.host
        self._store = around.store
        self._operation = operation
        self._life = Life(around, operation, cancelled)
        self._forking = Forking(self._life)
        self._works: Mapping[OperationKind, Callable[[], Result]] = {
            OperationKind.SNAPSHOT: self._snapshot,
            OperationKind.SNAPSHOT_DELETE: self._delete_snapshot,
            OperationKind.FORK: self._fork,
            OperationKind.ROLLBACK: self._roll_back,
            OperationKind.DISCARD: self._discard,
            OperationKind.FOLD: self._fold,
        }

    def run(self) -> None:
        """Return when the operation has ended and that is recorded, or when the controller is stopping."""
        self._life.work_off(self._works[self._operation.kind])

    # snapshots

    def _snapshot(self) -> Result:
        goal = SNAPSHOT_GOAL.validate_python(self._operation.goal)
        snapshot = self._forking.known(goal.snapshot_id)
        if snapshot.status is not SnapshotStatus.COMPLETE:
            with TakenBack(self._around, snapshot.id):
                self._forking.refuse_half_made(f"snapshot {snapshot.name}")
                self._life.check_cancelled()
                snapshot, cut = self._forking.cut(snapshot, CutTerms())
                snapshot = self._forking.complete(snapshot, cut)
        return snapshot_result(snapshot)

    def _delete_snapshot(self) -> Result:
        goal = SNAPSHOT_GOAL.validate_python(self._operation.goal)
        snapshot = self._store.snapshot(goal.snapshot_id)
        if snapshot is not None:
            with self._life.step("remove-snapshot", snapshot.name):
                drop_snapshot(self._host, self._store, snapshot)
        return {}

    # forks

    def _fork(self) -> Result:
        goal = FORK_GOAL.validate_python(self._operation.goal)
        snapshot = self._store.snapshot(goal.snapshot_id)
        if snapshot is None and goal.own_cut:
            return {"forks": self._finished_forks(goal)}
        try:
            names = [self._forking.record(fork_id).name for fork_id in goal.forks]
            snapshot = self._forking.known(goal.snapshot_id)
            if goal.own_cut and snapshot.status is SnapshotStatus.MAKING:
                self._forking.refuse_half_made(f"fork {', '.join(names)}")
                self._life.check_cancelled()
                snapshot = self._forking.fork_now(goal.forks, snapshot, cold=goal.cold, up=goal.up)
            else:
                self._forking.bring_up(goal.forks, snapshot, cold=goal.cold, up=goal.up)
        except (OperationalError, Cancelled):
            if not self._around.stopping.is_set():
                self._forking.undo(goal.forks, goal.snapshot_id if goal.own_cut else None)
            raise
        if goal.own_cut:
            with self._life.step("remove-memory", snapshot.name):
                drop_snapshot(self._host, self._store, snapshot)
        return {"forks": names, **snapshot_result(snapshot)}

    def _finished_forks(self, goal: ForkGoal) -> list[str]:
        """The forks' own snapshot goes last: either they run, or they were taken back before it went."""
        records = [self._store.system_by_id(fork_id) for fork_id in goal.forks]
        if None in records:
            raise OperationalError(
                Kind.FAULT,
                self._operation.subject,
                "its forks did not come to be, and were taken back; Forkbed ended before it could say why",
                "ask for them again",
            )
        return [record.name for record in records if record is not None]

    def _discard(self) -> Result:
        assert self._operation.system_id is not None
        record = self._store.system_by_id(self._operation.system_id)
        if record is None:
            return {}
        kept_for = dependents(self._store, record)
        PlanLoop(self._life, record.id, DELETE).run()
        forget_deleted(self._around, record)
        return {"kept_for": kept_for}

    # rollback

    def _roll_back(self) -> Result:
        goal: RollbackGoal = ROLLBACK_GOAL.validate_python(self._operation.goal)
        record = self._forking.record(goal.revision.system_id)
        kept = self._forking.known(goal.kept_id)
        if record.resolved != goal.revision.resolved:
            if not self._host.cuts.was_given_up(kept.id):
                with TakenBack(self._around, kept.id):
                    self._forking.refuse_half_made(f"rollback of {record.name}")
                    self._life.check_cancelled()
                    self._keep_replaced(goal, kept)
            self._switch(goal, record)
        self._host.cuts.forget_given_up(kept.id)
        # from here on it only goes forward: what was is kept as a snapshot
        life = Life(self._around, self._operation, threading.Event())
        PlanLoop(life, record.id, goal.goal).run()
        return {"kept": kept.name}

    def _keep_replaced(self, goal: RollbackGoal, kept: Snapshot) -> None:
        """Keep what there is, and give it up: the commit point."""
        target = self._forking.known(goal.snapshot_id)
        if target.status is not SnapshotStatus.COMPLETE:
            raise gone(target.name)
        kept, cut = self._forking.cut(kept, CutTerms(hold=kept.kind is SnapshotKind.LIVE))
        if cut is None:
            self._forking.complete(kept, cut)
            return
        try:
            self._forking.complete(kept, cut)
            cut.give_up()
        except Exception:
            cut.resume()
            raise

    def _switch(self, goal: RollbackGoal, record: SystemRecord) -> None:
        with self._life.step("switch", record.name):
            after = replace(
                record,
                resolved=goal.revision.resolved,
                wanted=goal.goal.wanted,
                up=goal.goal.networks,
                changed_at=self._host.clock.now(),
            )
            with self._around.accepting:
                self._store.replace_systems([after], goal.revision)
            write_sidecars(self._host, self._store, after)

    # folding

    def _fold(self) -> Result:
        assert self._operation.system_id is not None
        return fold_system(self._life, self._forking.record(self._operation.system_id))
