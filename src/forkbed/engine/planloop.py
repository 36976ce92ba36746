"""Bring one system to a goal: observe, plan, do the next steps, journal them, and look again when that may matter.

Nothing is replayed: after a crash a new loop observes the world and plans from there. Steps that do not depend on one
another run in parallel.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import SystemId
from forkbed.core.operations.records import JournalEntry, StepStatus
from forkbed.core.systems.goal import Goal
from forkbed.core.systems.planner import PlannedStep, SystemPlan, plan_checks, plan_system
from forkbed.core.systems.steps import Effect, Step, step_machine, step_subject, step_verb
from forkbed.core.systems.view import SystemView
from forkbed.engine.awakening import awaken
from forkbed.engine.effects import BootEnded, Effects
from forkbed.engine.life import Life
from forkbed.engine.observation import observe
from forkbed.ports.progress import Cancelled
from forkbed.ports.store import SystemRecord

UNREACHABLE_PATIENCE_S = 120.0
_RETRY_AFTER_S = 1.0
_SAME_STEP_LIMIT = 5  # a step that succeeds this often without effect will never have one
REBOOT_LIMIT = 5  # some set-ups reboot a guest once or twice


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
    left: SystemPlan | None = None  # of the last plan, as long as it holds
    is_through: bool = False  # the last step of the last plan was done: only a look is left
    given_up: dict[str, OperationalError] = field(default_factory=dict)
    successes: dict[str, int] = field(default_factory=dict)
    reboots: dict[str, int] = field(default_factory=dict)
    unreachable_since: dict[str, float] = field(default_factory=dict)  # by step, or "" for looking


class PlanLoop:
    """Brings a system to a goal once. `label` goes before its steps' names in an operation on several systems."""

    def __init__(
        self,
        life: Life,
        system_id: SystemId,
        goal: Goal,
        *,
        label: str = "",
        checks: bool = False,
        made: Sequence[Step] | None = None,
        confirm: bool = True,
    ) -> None:
        """With `checks`, the machines' checks are asked at the end.

        `made` is all that was ever done for a system that was just recorded: the first plan follows from it, without
        a look. To `confirm` is to look at the end whether the goal is reached; without that somebody else will.
        """
        self._life = life
        self._around = life.around
        self._system_id = system_id
        self._goal = goal
        self._label = label
        self._checks = checks
        self._made = made
        self._confirm = confirm
        self._done: list[Step] = []
        self._run = _Run()

    @property
    def done(self) -> Sequence[Step]:
        """The steps that it has carried out."""
        return tuple(self._done)

    def run(self) -> SystemRecord | None:
        """Return the system at its goal; None if it is gone and that is the goal.

        Raises `OperationalError` or `Cancelled` when every step under way has ended.
        """
        try:
            return self._loop()
        except (OperationalError, Cancelled):
            self._drain()
            raise

    def _loop(self) -> SystemRecord | None:
        while True:
            self._life.check_cancelled()
            record = self._system()
            if record is None:
                return None
            if self._run.is_through and not self._confirm and not self._run.flights:
                return record
            plan = self._run.left = self._run.left or self._plan(record)
            if plan is None:
                self._pause()
                continue
            if not plan.steps and not self._run.flights:
                if not self._launch_checks(record):
                    self._awaken_again(record)
                    return record
            else:
                self._launch(record, plan)
            if not self._run.flights:
                self._fail(plan)
            self._collect()

    def _system(self) -> SystemRecord | None:
        record = self._around.store.system_by_id(self._system_id)
        if record is None and not self._goal.delete:
            raise OperationalError(
                Kind.NOT_FOUND,
                f"system {self._life.operation.subject}",
                "is gone",
                "`forkbed list` shows what is there",
            )
        return record

    def _plan(self, record: SystemRecord) -> SystemPlan | None:
        """The plan from what is seen now; None if the host does not answer and we may still hope."""
        made, self._made = self._made, None
        if made is not None:
            plan: SystemPlan | None = plan_system(record.resolved, self._goal, SystemView())
            for step in made:
                plan = plan.without(step) if plan is not None else None
            if plan is not None:
                return plan
        try:
            seen = observe(self._around.host, self._around.store, record.id)
        except OperationalError as error:
            self._bear("", error)
            return None
        self._run.unreachable_since.pop("", None)
        return plan_system(record.resolved, self._goal, seen)

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
        if not self._checks:
            return False
        effects = Effects(self._around.host, self._around.store, record.resolved)
        steps = [PlannedStep(step, frozenset()) for step in plan_checks(record.resolved, self._goal)]
        for planned in steps:
            if planned.key not in self._run.successes and planned.key not in self._run.given_up:
                self._begin(effects, planned)
        failed = any(planned.key in self._run.given_up for planned in steps)
        return bool(self._run.flights) or failed

    def _awaken_again(self, record: SystemRecord) -> None:
        """Awaken machines that go on from a memory, but whose awakening was cut off."""
        entries = self._around.store.journal(self._life.operation.id) if self._goal.restore else ()
        for machine in record.resolved.machines:
            subject = f"{self._label}{machine.name}"
            done = {entry.status for entry in entries if entry.key == f"awaken {subject}"}
            if StepStatus.INTERRUPTED in done and StepStatus.CHANGED not in done:
                with self._life.step("awaken", subject) as progress:
                    awaken(self._around.host, self._around.store, record.name, machine, progress)

    def _begin(self, effects: Effects, planned: PlannedStep) -> None:
        key = planned.key
        if self._run.successes.get(key, 0) >= _SAME_STEP_LIMIT:
            self._run.given_up[key] = OperationalError(
                Kind.FAULT,
                step_subject(planned.step),
                f"`{key}` was done {_SAME_STEP_LIMIT} times and still is not seen to hold",
                "something else changes it back; `forkbed doctor` and the host's logs may show what",
            )
            return
        subject = f"{self._label}{step_subject(planned.step)}"
        verb = step_verb(planned.step)
        entry = self._life.begin_step(f"{verb} {subject}", verb, subject)
        future = self._around.executor.submit(effects.carry_out, planned.step, self._life.progress(entry))
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
        plan, self._run.left = self._run.left, None
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
            self._around.boundary(f"{flight.entry.key}: done")
            self._run.unreachable_since.pop(key, None)
            self._run.successes[key] = self._run.successes.get(key, 0) + 1
            self._done.append(flight.planned.step)
            self._run.left = plan.without(flight.planned.step) if plan is not None else None
            self._run.is_through = plan is not None and plan.steps == (flight.planned,)
            status = StepStatus.CHANGED if effect is Effect.CHANGED else StepStatus.ALREADY
            self._journal(flight, status)
            self._around.boundary(f"{flight.entry.key}: ended")

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
        self._journal(flight, StepStatus.FAILED, error=error)

    def _journal(
        self,
        flight: _Flight,
        status: StepStatus,
        message: str = "",
        *,
        error: OperationalError | None = None,
    ) -> None:
        machine = step_machine(flight.planned.step) or ""
        self._life.end_step(flight.entry, status, message, machine=machine, error=error)

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
