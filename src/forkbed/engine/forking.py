"""What operations that fork have in common: the cut, forks brought up from it, and nothing left where that fails."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, replace
from itertools import zip_longest

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import SnapshotId, SystemId
from forkbed.core.snapshots.records import Snapshot
from forkbed.core.systems.branch import branch_goal
from forkbed.core.systems.goal import Goal
from forkbed.core.systems.steps import Step
from forkbed.engine.cutting import (
    CutTerms,
    complete_snapshot,
    cut_system,
    define_on_layers,
    machine_summary,
    take_back,
)
from forkbed.engine.life import Life
from forkbed.engine.planloop import PlanLoop
from forkbed.engine.removal import forget_deleted
from forkbed.engine.surroundings import Surroundings
from forkbed.ports.cuts import Cut
from forkbed.ports.progress import Cancelled
from forkbed.ports.store import SystemRecord

DELETE = Goal({}, networks=False, delete=True, stop_timeout_s=0.0)


class Forking:
    """Cuts and forks within one operation."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._around = life.around
        self._host = life.around.host
        self._store = life.around.store

    def cut(self, snapshot: Snapshot, terms: CutTerms) -> tuple[Snapshot, Cut | None]:
        """Cut the snapshot's system now."""
        record = self.record(snapshot.system_id)
        with self._life.step("cut", record.name) as progress:
            progress.tell("all machines at one instant")
            return cut_system(self._host, self._store, record, snapshot, terms)

    def complete(self, snapshot: Snapshot, cut: Cut | None) -> Snapshot:
        """Wait until all of it is kept."""
        snapshot = self._keep(snapshot, cut)
        define_on_layers(self._host, self._store, snapshot.resolved)
        return snapshot

    def _keep(self, snapshot: Snapshot, cut: Cut | None) -> Snapshot:
        with self._life.step("keep", snapshot.name) as progress:
            return complete_snapshot(self._host, self._store, snapshot, cut, progress)

    def refuse_half_made(self, what: str) -> None:
        """The instant that was asked for has passed if a controller died in the middle of the cut."""
        if any(entry.verb == "cut" for entry in self._store.journal(self._life.operation.id)):
            raise OperationalError(
                Kind.FAULT,
                what,
                "was not completed: Forkbed ended in the middle of the cut; the machines run on, nothing was kept",
                "ask for it again",
            )

    def bring_up(
        self,
        forks: Sequence[SystemId],
        snapshot: Snapshot,
        *,
        cold: bool,
        up: bool,
        prepared: Sequence[Future[Sequence[Step]]] = (),
    ) -> None:
        """All forks side by side; raises what the first of them failed of, when all have ended.

        `prepared`: what `begin_preparing` gave for them, if they were prepared beforehand.
        """
        loops: list[Future[SystemRecord | None]] = []
        for fork_id, preparing in zip_longest(forks, prepared):
            record = self.record(fork_id)
            origin = record.resolved.origin
            assert origin is not None
            resolved = replace(record.resolved, origin=replace(origin, cut_at=snapshot.cut_at))
            branch = branch_goal(snapshot, resolved, cold=cold, up=up)
            now = self._host.clock.now()
            self._store.save_system(
                replace(record, resolved=resolved, wanted=branch.wanted, up=branch.networks, changed_at=now)
            )
            made = preparing.result() if preparing is not None and preparing.exception() is None else None
            loop = PlanLoop(self._life, fork_id, branch, label=_label(record, forks), made=made)
            loops.append(self._around.waiters.submit(loop.run))
        failures = [error for error in (loop.exception() for loop in loops) if error is not None]
        if failures:
            raise failures[0]

    def fork_now(self, forks: Sequence[SystemId], snapshot: Snapshot, *, cold: bool, up: bool) -> Snapshot:
        """Cut the system and bring the forks up while the memory is still being written; the complete snapshot.

        Its memory lasts no longer than the host's boot: it is for these forks alone.
        """
        prepared = self.begin_preparing(forks) if up else []

        def await_prepared() -> None:
            # What one of them fails of, the loop that brings the fork up meets again; the one that removes it must
            # not meet one that still makes something.
            wait(prepared)

        try:
            snapshot, cut = self.cut(snapshot, CutTerms(lasting=False, before_freeze=await_prepared))
        finally:
            await_prepared()
        keeping = self._around.waiters.submit(self._keep, snapshot, cut)
        try:
            self.bring_up(forks, snapshot, cold=cold, up=up, prepared=prepared)
        finally:
            snapshot = keeping.result()
            define_on_layers(self._host, self._store, snapshot.resolved)
        return snapshot

    def begin_preparing(self, forks: Sequence[SystemId]) -> list[Future[Sequence[Step]]]:
        """Make what forks need besides a cut, networks and seeds, in the background; each then says what was done.

        Nobody looks before or after: a fork that was just recorded has nothing, what may be there of an earlier try
        is made again, which changes nothing, and the loop that brings the fork up looks at its end.
        """
        labels = [_label(self.record(fork_id), forks) for fork_id in forks]
        return [
            self._around.waiters.submit(self._prepare, fork_id, label)
            for fork_id, label in zip(forks, labels, strict=True)
        ]

    def _prepare(self, fork_id: SystemId, label: str) -> Sequence[Step]:
        goal = Goal({}, networks=True, seeds=True)
        loop = PlanLoop(self._life, fork_id, goal, label=label, made=(), confirm=False)
        loop.run()
        return loop.done

    def undo(self, forks: Sequence[SystemId], own_cut: SnapshotId | None) -> None:
        """Nothing stays of forks that did not come to be, nor of the cut that was made for them."""
        # a cancellation has done its work when it led here
        life = Life(self._around, self._life.operation, threading.Event())
        for fork_id in forks:
            record = self._store.system_by_id(fork_id)
            if record is not None:
                PlanLoop(life, fork_id, DELETE, label=_label(record, forks)).run()
                forget_deleted(self._around, record)
        snapshot = self._store.snapshot(own_cut) if own_cut is not None else None
        if snapshot is not None:
            take_back(self._host, self._store, snapshot)

    def record(self, system_id: SystemId) -> SystemRecord:
        """The system, NOT_FOUND if it is gone."""
        record = self._store.system_by_id(system_id)
        if record is None:
            raise OperationalError(
                Kind.NOT_FOUND,
                f"system {self._life.operation.subject}",
                "is gone",
                "`forkbed list` shows what is there",
            )
        return record

    def known(self, snapshot_id: SnapshotId) -> Snapshot:
        """The snapshot, NOT_FOUND if it is gone."""
        snapshot = self._store.snapshot(snapshot_id)
        if snapshot is None:
            raise gone(snapshot_id)
        return snapshot


class TakenBack:
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


def snapshot_result(snapshot: Snapshot) -> dict[str, object]:
    """What an operation tells of the cut that it made or used."""
    return {
        "snapshot": snapshot.name,
        "cut_at": snapshot.cut_at,
        "skew_s": snapshot.skew_s,
        "machines": [asdict(machine_summary(machine)) for machine in snapshot.machines],
    }


def gone(name: str) -> OperationalError:
    """That a snapshot is not there any more."""
    return OperationalError(
        Kind.NOT_FOUND, f"snapshot {name}", "is gone", "`forkbed snapshots SYSTEM` shows what is there"
    )


def _label(record: SystemRecord, forks: Sequence[SystemId]) -> str:
    return f"{record.name}/" if len(forks) > 1 else ""
