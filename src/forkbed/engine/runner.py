"""Work off one operation on a system: observe, plan, do the next steps, journal them, and look again.

Nothing is replayed. After a crash a new runner observes the world and plans from there; what the dead one had
under way is closed as interrupted in the journal. Steps that do not depend on one another run in parallel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.operations.records import (
    Event,
    JournalEntry,
    Operation,
    OperationKind,
    OperationStatus,
    StepStatus,
)
from forkbed.core.systems.goal import Goal, Wanted
from forkbed.core.systems.planner import ALIVE, PlannedStep, SystemPlan, plan_checks, plan_system
from forkbed.core.systems.steps import Effect, step_machine, step_subject, step_verb
from forkbed.core.systems.view import Power
from forkbed.engine.effects import BootEnded, Effects
from forkbed.engine.host import Host
from forkbed.engine.hub import Hub, StepProgress
from forkbed.engine.observation import observe
from forkbed.engine.retention import forget_unused_contents
from forkbed.engine.sidecars import forget_system
from forkbed.ports.progress import Cancelled
from forkbed.ports.store import Store, SystemRecord

GOAL = TypeAdapter(Goal)
UNREACHABLE_PATIENCE_S = 120.0
_RETRY_AFTER_S = 1.0
_SAME_STEP_LIMIT = 5  # a step that succeeds this often without effect will never have one
REBOOT_LIMIT = 5  # some set-ups reboot a guest once or twice

Boundary = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What runners share. `boundary` is told every journalled step boundary: tests die there.

    `accepting` is held from considering a manifest until its revision is stored, and while what nothing names
    is forgotten. `stopping` is set when this controller ends: what is under way is left to the next one.
    """

    host: Host
    store: Store
    hub: Hub
    executor: Executor
    boundary: Boundary
    accepting: threading.Lock = field(default_factory=threading.Lock)
    stopping: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class _Flight:
    """A step under way."""

    planned: PlannedStep
    entry: JournalEntry
    future: Future[Effect]


@dataclass(slots=True)
class _Run:
    """What a runner knows of its operation while it lives; none of it is needed after a crash."""

    flights: dict[str, _Flight] = field(default_factory=dict)
    given_up: dict[str, OperationalError] = field(default_factory=dict)
    successes: dict[str, int] = field(default_factory=dict)
    reboots: dict[str, int] = field(default_factory=dict)
    unreachable_since: dict[str, float] = field(default_factory=dict)  # by step, or "" for looking


class OperationRunner:
    """Runs one operation on a system to its end."""

    def __init__(self, surroundings: Surroundings, operation: Operation, cancelled: threading.Event) -> None:
        self._around = surroundings
        self._operation = operation
        self._goal = GOAL.validate_python(operation.goal)
        self._cancelled = cancelled
        self._run = _Run()

    def run(self) -> None:
        """Return when the operation has ended and that is recorded, or when the controller is stopping."""
        around = self._around
        if self._cancelled.is_set() and self._operation.started_at is None:
            return self._end(OperationStatus.CANCELLED, None)  # it never began: nothing is wanted otherwise
        around.store.interrupt_steps(self._operation.id, around.host.clock.now())
        self._set_status(OperationStatus.RUNNING)
        self._adopt_goal()
        try:
            self._loop()
        except OperationalError as error:
            self._drain()
            if not around.stopping.is_set():  # else the host may only seem to have failed
                self._end(OperationStatus.FAILED, error)
        except Cancelled:
            self._drain()
            if not around.stopping.is_set():
                self._leave_as_is()
                self._end(OperationStatus.CANCELLED, None)

    def _loop(self) -> None:
        while True:
            self._check_cancelled()
            record = self._system()
            if record is None:
                return self._succeed(None)
            plan = self._plan(record)
            if plan is None:
                self._pause()
                continue
            if not plan.steps and not self._run.flights:
                if not self._launch_checks(record):
                    return self._succeed(record)
            else:
                self._launch(record, plan)
            if not self._run.flights:
                return self._fail(plan)
            self._collect()

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
        assert self._operation.system_id is not None
        return self._around.store.system_by_id(self._operation.system_id)

    def _system(self) -> SystemRecord | None:
        record = self._system_or_none()
        if record is None and not self._goal.delete:
            raise OperationalError(
                Kind.NOT_FOUND,
                f"system {self._operation.subject}",
                "is gone",
                "`forkbed list` shows what is there",
            )
        return record

    def _plan(self, record: SystemRecord) -> SystemPlan | None:
        """The plan from what is seen now; None if the host does not answer and we may still hope."""
        try:
            view = observe(self._around.host, self._around.store, record.id)
        except OperationalError as error:
            self._bear("", error)
            return None
        self._run.unreachable_since.pop("", None)
        return plan_system(record.resolved, self._goal, view)

    def _bear(self, key: str, error: OperationalError) -> None:
        """Put up with a host that does not answer to a step (or a look, for ""), for a while."""
        if error.kind is not Kind.UNREACHABLE:
            raise error
        now = self._around.host.clock.now()
        if now - self._run.unreachable_since.setdefault(key, now) > UNREACHABLE_PATIENCE_S:
            raise error

    def _pause(self) -> None:
        self._around.host.clock.sleep(_RETRY_AFTER_S)

    def _launch(self, record: SystemRecord, plan: SystemPlan) -> None:
        """Begin every step that may begin; two steps of one machine never run at the same time."""
        effects = Effects(self._around.host, self._around.store, record.resolved)
        busy = {step_machine(flight.planned.step) for flight in self._run.flights.values()} - {None}
        for planned in plan.runnable(self._run.flights, self._run.given_up):
            machine = step_machine(planned.step)
            if machine is not None and machine in busy:
                continue
            if machine is not None:
                busy.add(machine)
            self._begin(effects, planned)

    def _launch_checks(self, record: SystemRecord) -> bool:
        """Begin the checks that have not been asked yet; whether any began or one failed before."""
        if self._operation.kind is not OperationKind.UP:
            return False
        effects = Effects(self._around.host, self._around.store, record.resolved)
        steps = [PlannedStep(step, frozenset()) for step in plan_checks(record.resolved, self._goal)]
        for planned in steps:
            if planned.key not in self._run.successes and planned.key not in self._run.given_up:
                self._begin(effects, planned)
        failed = any(planned.key in self._run.given_up for planned in steps)
        return bool(self._run.flights) or failed

    def _begin(self, effects: Effects, planned: PlannedStep) -> None:
        around = self._around
        key = planned.key
        if self._run.successes.get(key, 0) >= _SAME_STEP_LIMIT:
            self._run.given_up[key] = OperationalError(
                Kind.FAULT,
                step_subject(planned.step),
                f"`{key}` was done {_SAME_STEP_LIMIT} times and still is not seen to hold",
                "something else changes it back; `forkbed doctor` and the host's logs may show what",
            )
            return
        entry = around.store.begin_step(
            JournalEntry(
                sequence=0,
                operation_id=self._operation.id,
                key=key,
                verb=step_verb(planned.step),
                subject=step_subject(planned.step),
                host=around.host.name,
                status=StepStatus.STARTED,
                started_at=around.host.clock.now(),
            )
        )
        around.hub.touch(self._operation.id)
        around.boundary(f"{key}: begun")
        progress = JournalProgress(around.hub, entry, self._cancelled)
        future = around.executor.submit(effects.carry_out, planned.step, progress)
        self._run.flights[key] = _Flight(planned, entry, future)

    def _collect(self) -> None:
        """Wait until a step is over and journal all that are."""
        wait([flight.future for flight in self._run.flights.values()], return_when=FIRST_COMPLETED)
        for key, flight in list(self._run.flights.items()):
            if flight.future.done():
                del self._run.flights[key]
                self._finish(flight)

    def _finish(self, flight: _Flight) -> None:
        key = flight.planned.key
        try:
            effect = flight.future.result()
        except OperationalError as error:
            if error.kind is Kind.UNREACHABLE:
                self._journal(flight, StepStatus.INTERRUPTED, str(error))
                self._bear(key, error)
                self._pause()
                return
            self._give_up(flight, error)
        except BootEnded:
            self._bear_reboot(flight)
        except Cancelled:
            self._journal(flight, StepStatus.INTERRUPTED, "cancelled")
        else:
            self._around.boundary(f"{key}: done")
            self._run.unreachable_since.pop(key, None)
            self._run.successes[key] = self._run.successes.get(key, 0) + 1
            status = StepStatus.CHANGED if effect is Effect.CHANGED else StepStatus.ALREADY
            self._journal(flight, status, "")
            if effect is Effect.CHANGED:
                self._event("step.changed", flight, {"key": key})
            self._around.boundary(f"{key}: ended")

    def _bear_reboot(self, flight: _Flight) -> None:
        """Wait for the guest's next boot, unless it only ever reboots."""
        key = flight.planned.key
        self._run.reboots[key] = self._run.reboots.get(key, 0) + 1
        if self._run.reboots[key] < REBOOT_LIMIT:
            self._journal(flight, StepStatus.INTERRUPTED, "the guest was restarted meanwhile")
            return
        error = OperationalError(
            Kind.FAULT,
            f"machine {step_subject(flight.planned.step)}",
            f"was restarted {REBOOT_LIMIT} times before it was ready",
            "its serial console may say why: see `forkbed logs`",
        )
        self._give_up(flight, error)

    def _give_up(self, flight: _Flight, error: OperationalError) -> None:
        key = flight.planned.key
        self._run.given_up[key] = error
        self._journal(flight, StepStatus.FAILED, error.brief)
        self._event("step.failed", flight, {"key": key, **error.as_dict()})

    def _journal(self, flight: _Flight, status: StepStatus, message: str) -> None:
        now = self._around.host.clock.now()
        self._around.store.end_step(self._operation.id, flight.entry.sequence, status, now, message)
        self._around.hub.progress(self._operation.id, flight.entry.sequence, None)

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def _drain(self) -> None:
        """Let the steps under way come to an end; they hear of a cancellation by themselves."""
        while self._run.flights:
            wait([flight.future for flight in self._run.flights.values()])
            for key, flight in list(self._run.flights.items()):
                del self._run.flights[key]
                try:
                    self._finish(flight)
                except OperationalError:
                    continue  # the error that ended the operation is the one to tell

    def _fail(self, plan: SystemPlan) -> None:
        """Nothing may begin any more, though steps are left: tell the first failure, and the others below."""
        errors: Sequence[OperationalError] = list(self._run.given_up.values())
        held_back = [planned.key for planned in plan.steps if planned.key not in self._run.given_up]
        if not errors:
            raise AssertionError(f"a plan none of whose steps may begin: {held_back}")
        first, *others = errors
        details = [*first.details]
        for other in others:
            details += [f"also: {other}", *(f"  {line}" for line in other.details)]
        if held_back:
            details.append(f"not tried because of that: {', '.join(held_back)}")
        raise OperationalError(first.kind, first.subject, first.brief, first.remedy, details=tuple(details))

    def _succeed(self, record: SystemRecord | None) -> None:
        around = self._around
        if self._goal.delete:
            with around.accepting:  # no `up` is accepted against a record that is about to go
                if record is not None:
                    forget_system(around.host, around.store, record)
                forget_unused_contents(around.host, around.store)
        self._end(OperationStatus.SUCCEEDED, None)

    def _set_status(self, status: OperationStatus, error: OperationalError | None = None) -> None:
        stored = self._around.store.set_status(
            self._operation.id,
            status,
            self._around.host.clock.now(),
            error=error.as_dict() if error else None,
        )
        self._around.hub.touch(self._operation.id)
        kind = "started" if status is OperationStatus.RUNNING else str(stored.status)
        attributes: dict[str, object] = {
            "kind": str(self._operation.kind),
            "subject": self._operation.subject,
        }
        if error is not None:
            attributes["error"] = error.as_dict()
        self._add_event(f"operation.{kind}", "", attributes)

    def _end(self, status: OperationStatus, error: OperationalError | None) -> None:
        self._around.boundary(f"operation: {status}")
        self._set_status(status, error)

    def _event(self, kind: str, flight: _Flight, attributes: dict[str, object]) -> None:
        self._add_event(kind, step_machine(flight.planned.step) or "", attributes)

    def _add_event(self, kind: str, machine: str, attributes: dict[str, object]) -> None:
        around = self._around
        around.store.add_event(
            Event(
                sequence=0,
                at=around.host.clock.now(),
                kind=kind,
                system=self._operation.subject.partition("/")[0],
                machine=machine,
                operation_id=self._operation.id,
                attributes={**attributes, "host": around.host.name},
            )
        )
        around.hub.touch_events()


class JournalProgress:
    """Progress of one step, shown with its journal entry to whoever follows the operation."""

    def __init__(self, hub: Hub, entry: JournalEntry, cancelled: threading.Event) -> None:
        self._hub = hub
        self._entry = entry
        self._cancelled = cancelled

    def tell(self, message: str, *, done: float | None = None) -> None:
        self._hub.progress(self._entry.operation_id, self._entry.sequence, StepProgress(message, done))

    def check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled


def with_progress(entry: JournalEntry, hub: Hub) -> JournalEntry:
    """The entry with the latest word of its step, if that is under way."""
    progress = hub.progress_of(entry.operation_id, entry.sequence)
    return replace(entry, message=progress.message, done=progress.done) if progress else entry
