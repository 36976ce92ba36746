"""Work off operations on snapshots and forks: cut, keep, fork, roll back, fold, remove.

A cut is one instant: what a dead controller left half-cut is taken back and said. Everything after a cut is planned
from what is seen, as ever, so it is gone on with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, replace

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import SnapshotId, SystemId
from forkbed.core.operations.records import Operation, OperationKind, OperationStatus
from forkbed.core.snapshots.records import Snapshot, SnapshotKind, SnapshotStatus
from forkbed.core.systems.branch import branch_goal
from forkbed.core.systems.goal import Goal
from forkbed.engine.branch_goals import FORK_GOAL, ROLLBACK_GOAL, SNAPSHOT_GOAL, ForkGoal, RollbackGoal
from forkbed.engine.cutting import (
    complete_snapshot,
    cut_system,
    drop_snapshot,
    machine_summary,
    take_back,
)
from forkbed.engine.folding import fold_system
from forkbed.engine.life import Life
from forkbed.engine.planloop import PlanLoop
from forkbed.engine.removal import dependents, forget_deleted
from forkbed.engine.sidecars import write_sidecars
from forkbed.engine.surroundings import Surroundings
from forkbed.ports.cuts import Cut
from forkbed.ports.progress import Cancelled
from forkbed.ports.store import SystemRecord

Result = dict[str, object]
_DELETE = Goal({}, networks=False, delete=True, stop_timeout_s=0.0)


class BranchRunner:
    """Runs one operation to its end."""

    def __init__(self, around: Surroundings, operation: Operation, cancelled: threading.Event) -> None:
        self._around = around
        self._host = around.host
        self._store = around.store
        self._operation = operation
        self._life = Life(around, operation, cancelled)
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
        life = self._life
        # what was never begun has made nothing but records, which the work itself takes back
        life.begin()
        try:
            result = self._works[self._operation.kind]()
        except OperationalError as error:
            if not self._around.stopping.is_set():
                life.end(OperationStatus.FAILED, error)
        except Cancelled:
            if not self._around.stopping.is_set():
                life.end(OperationStatus.CANCELLED)
        else:
            life.end(OperationStatus.SUCCEEDED, result=result)

    # snapshots

    def _snapshot(self) -> Result:
        goal = SNAPSHOT_GOAL.validate_python(self._operation.goal)
        snapshot = self._known(goal.snapshot_id)
        if snapshot.status is not SnapshotStatus.COMPLETE:
            with self._taken_back(snapshot):
                self._refuse_half_made(snapshot)
                self._life.check_cancelled()
                snapshot, cut = self._cut(snapshot, hold=False)
                snapshot = self._complete(snapshot, cut)
        return snapshot_result(snapshot)

    def _delete_snapshot(self) -> Result:
        goal = SNAPSHOT_GOAL.validate_python(self._operation.goal)
        snapshot = self._store.snapshot(goal.snapshot_id)
        if snapshot is not None:
            with self._life.step("remove-snapshot", snapshot.name):
                drop_snapshot(self._host, self._store, snapshot)
        return {}

    def _cut(self, snapshot: Snapshot, *, hold: bool) -> tuple[Snapshot, Cut | None]:
        with self._life.step("cut", self._record(snapshot.system_id).name) as progress:
            progress.tell("all machines at one instant")
            record = self._record(snapshot.system_id)
            return cut_system(self._host, self._store, record, snapshot, hold=hold)

    def _complete(self, snapshot: Snapshot, cut: Cut | None) -> Snapshot:
        with self._life.step("keep", snapshot.name) as progress:
            return complete_snapshot(self._host, self._store, snapshot, cut, progress)

    def _refuse_half_made(self, snapshot: Snapshot) -> None:
        """The instant that was asked for has passed if a controller died in the middle of the cut."""
        if any(entry.verb == "cut" for entry in self._store.journal(self._operation.id)):
            raise OperationalError(
                Kind.FAULT,
                f"snapshot {snapshot.name}",
                "was not completed: Forkbed ended in the middle of the cut; the machines run on, nothing was kept",
                "ask for it again",
            )

    def _taken_back(self, snapshot: Snapshot) -> _TakenBack:
        return _TakenBack(self._around, snapshot.id)

    # forks

    def _fork(self) -> Result:
        goal = FORK_GOAL.validate_python(self._operation.goal)
        snapshot = self._store.snapshot(goal.snapshot_id)
        if snapshot is None and goal.own_cut:
            return {"forks": self._finished_forks(goal)}
        try:
            names = [self._record(fork_id).name for fork_id in goal.forks]
            snapshot = self._known(goal.snapshot_id)
            cut = None
            if goal.own_cut and snapshot.status is SnapshotStatus.MAKING:
                self._refuse_half_made(snapshot)
                self._life.check_cancelled()
                snapshot, cut = self._cut(snapshot, hold=False)
            keeping = self._around.executor.submit(self._complete, snapshot, cut) if cut is not None else None
            try:
                self._bring_up(goal, snapshot)
            finally:
                snapshot = keeping.result() if keeping is not None else snapshot
        except (OperationalError, Cancelled):
            if not self._around.stopping.is_set():
                self._undo_fork(goal)
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

    def _bring_up(self, goal: ForkGoal, snapshot: Snapshot) -> None:
        """All forks side by side; raises what the first of them failed of, when all have ended."""
        loops: list[Future[SystemRecord | None]] = []
        for fork_id in goal.forks:
            record = self._record(fork_id)
            origin = record.resolved.origin
            assert origin is not None
            resolved = replace(record.resolved, origin=replace(origin, cut_at=snapshot.cut_at))
            branch = branch_goal(snapshot, resolved, cold=goal.cold, up=goal.up)
            now = self._host.clock.now()
            self._store.save_system(
                replace(record, resolved=resolved, wanted=branch.wanted, up=branch.networks, changed_at=now)
            )
            label = f"{record.name}/" if len(goal.forks) > 1 else ""
            loop = PlanLoop(self._life, fork_id, branch, label=label)
            loops.append(self._around.executor.submit(loop.run))
        failures = [error for error in (loop.exception() for loop in loops) if error is not None]
        if failures:
            raise failures[0]

    def _undo_fork(self, goal: ForkGoal) -> None:
        """Nothing stays of a fork that did not come to be."""
        # a cancellation has done its work when it led here
        life = Life(self._around, self._operation, threading.Event())
        for fork_id in goal.forks:
            record = self._store.system_by_id(fork_id)
            if record is not None:
                label = f"{record.name}/" if len(goal.forks) > 1 else ""
                PlanLoop(life, fork_id, _DELETE, label=label).run()
                forget_deleted(self._around, record)
        snapshot = self._store.snapshot(goal.snapshot_id)
        if goal.own_cut and snapshot is not None:
            take_back(self._host, self._store, snapshot)

    def _discard(self) -> Result:
        assert self._operation.system_id is not None
        record = self._store.system_by_id(self._operation.system_id)
        if record is None:
            return {}
        kept_for = dependents(self._store, record)
        PlanLoop(self._life, record.id, _DELETE).run()
        forget_deleted(self._around, record)
        return {"kept_for": kept_for}

    # rollback

    def _roll_back(self) -> Result:
        goal: RollbackGoal = ROLLBACK_GOAL.validate_python(self._operation.goal)
        record = self._record(goal.revision.system_id)
        kept = self._known(goal.kept_id)
        if record.resolved != goal.revision.resolved:
            with self._taken_back(kept):
                self._refuse_half_made(kept)
                self._life.check_cancelled()
                self._commit_rollback(goal, record, kept)
        # from here on it only goes forward: what was is kept as a snapshot
        life = Life(self._around, self._operation, threading.Event())
        PlanLoop(life, record.id, goal.goal).run()
        return {"kept": kept.name}

    def _commit_rollback(self, goal: RollbackGoal, record: SystemRecord, kept: Snapshot) -> None:
        target = self._known(goal.snapshot_id)
        if target.status is not SnapshotStatus.COMPLETE:
            raise _gone(target.name)
        kept, cut = self._cut(kept, hold=kept.kind is SnapshotKind.LIVE)
        try:
            self._complete(kept, cut)
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
        except OperationalError:
            if cut is not None:
                cut.resume()
            raise
        if cut is not None:
            cut.give_up()
        write_sidecars(self._host, self._store, after)

    # folding

    def _fold(self) -> Result:
        assert self._operation.system_id is not None
        return fold_system(self._life, self._record(self._operation.system_id))

    def _record(self, system_id: SystemId) -> SystemRecord:
        record = self._store.system_by_id(system_id)
        if record is None:
            raise OperationalError(
                Kind.NOT_FOUND,
                f"system {self._operation.subject}",
                "is gone",
                "`forkbed list` shows what is there",
            )
        return record

    def _known(self, snapshot_id: SnapshotId) -> Snapshot:
        snapshot = self._store.snapshot(snapshot_id)
        if snapshot is None:
            raise _gone(snapshot_id)
        return snapshot


class _TakenBack:
    """Leaves nothing of a snapshot if what it was made for fails; if this controller ends, the next one sees to it."""

    def __init__(self, around: Surroundings, snapshot_id: SnapshotId) -> None:
        self._around = around
        self._snapshot_id = snapshot_id

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (OperationalError, Cancelled)) and not self._around.stopping.is_set():
            found = self._around.store.snapshot(self._snapshot_id)
            if found is not None:
                take_back(self._around.host, self._around.store, found)


def snapshot_result(snapshot: Snapshot) -> Result:
    """What an operation tells of the cut that it made or used."""
    return {
        "snapshot": snapshot.name,
        "cut_at": snapshot.cut_at,
        "skew_s": snapshot.skew_s,
        "machines": [asdict(machine_summary(machine)) for machine in snapshot.machines],
    }


def _gone(name: str) -> OperationalError:
    return OperationalError(
        Kind.NOT_FOUND, f"snapshot {name}", "is gone", "`forkbed snapshots SYSTEM` shows what is there"
    )
