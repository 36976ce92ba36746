"""Work off one operation on one system: bring it to the operation's goal, and remember what is wanted of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

from pydantic import TypeAdapter

from forkbed.base.errors import OperationalError
from forkbed.core.operations.records import Operation, OperationKind, OperationStatus
from forkbed.core.systems.goal import Goal, Wanted
from forkbed.core.systems.planner import ALIVE
from forkbed.core.systems.view import Power
from forkbed.engine.life import Life
from forkbed.engine.observation import observe
from forkbed.engine.planloop import PlanLoop
from forkbed.engine.removal import forget_deleted
from forkbed.engine.surroundings import Surroundings
from forkbed.ports.progress import Cancelled
from forkbed.ports.store import SystemRecord

GOAL = TypeAdapter(Goal)


class OperationRunner:
    """Runs one operation on a system to its end."""

    def __init__(self, surroundings: Surroundings, operation: Operation, cancelled: threading.Event) -> None:
        assert operation.system_id is not None
        self._around = surroundings
        self._operation = operation
        self._system_id = operation.system_id
        self._goal = GOAL.validate_python(operation.goal)
        self._life = Life(surroundings, operation, cancelled)

    def run(self) -> None:
        """Return when the operation has ended and that is recorded, or when the controller is stopping."""
        around, life = self._around, self._life
        if life.cancelled.is_set() and self._operation.started_at is None:
            return life.end(OperationStatus.CANCELLED)  # it never began: nothing is wanted otherwise
        life.begin()
        self._adopt_goal()
        checks = self._operation.kind is OperationKind.UP
        try:
            record = PlanLoop(life, self._system_id, self._goal, checks=checks).run()
        except OperationalError as error:
            if not around.stopping.is_set():  # else the host may only seem to have failed
                life.end(OperationStatus.FAILED, error)
        except Cancelled:
            if not around.stopping.is_set():
                self._leave_as_is()
                life.end(OperationStatus.CANCELLED)
        else:
            self._succeed(record)

    def _adopt_goal(self) -> None:
        """From now on the goal is what the system is to be; but a `reconcile` follows what is wanted already."""
        record = self._system_or_none()
        if record is None:
            return
        if self._operation.kind is OperationKind.RECONCILE:
            self._goal = self._goal.within(record.wanted, networks=record.up)
        else:
            self._remember_wanted(record, self._goal.wanted, up=self._goal.networks)

    def _remember_wanted(self, record: SystemRecord, wanted: Mapping[str, Wanted], *, up: bool) -> None:
        """Operations on one system never run side by side, so nobody else writes the record meanwhile."""
        declared = {machine.name for machine in record.resolved.machines}
        merged = {name: want for name, want in {**record.wanted, **wanted}.items() if name in declared}
        if (merged, up) != (dict(record.wanted), record.up):
            now = self._around.host.clock.now()
            self._around.store.save_system(replace(record, wanted=merged, up=up, changed_at=now))

    def _leave_as_is(self) -> None:
        """After a cancellation, what is there of what the operation was about is what is wanted.

        So nobody goes on behind the person's back. Not after one of a `reconcile`: that gave way to a person's
        wish, and what it was about is still wanted.
        """
        record = self._system_or_none()
        if record is None or self._operation.kind is OperationKind.RECONCILE:
            return
        try:
            view = observe(self._around.host, self._around.store, record.id)
        except OperationalError:
            return  # not to be seen now: the supervisor goes on with what was asked for
        states = {Power.RUNNING: Wanted.RUNNING, Power.PAUSED: Wanted.PAUSED}
        wanted = {
            machine.name: states.get(view.machine(machine.id).power, Wanted.STOPPED)
            for machine in record.resolved.machines
            if machine.name in self._goal.wanted
        }
        alive = any(seen.power in ALIVE for seen in view.machines.values())
        self._remember_wanted(record, wanted, up=bool(view.networks) or alive)

    def _system_or_none(self) -> SystemRecord | None:
        return self._around.store.system_by_id(self._system_id)

    def _succeed(self, record: SystemRecord | None) -> None:
        if self._goal.delete and record is not None:
            forget_deleted(self._around, record)
        self._life.end(OperationStatus.SUCCEEDED)
