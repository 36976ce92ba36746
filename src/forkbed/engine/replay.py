"""Run recorded steps, checks and maintenance hooks in the machines of a system, and tell what came of each."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import wait

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.units import format_duration
from forkbed.core.rehearsals.records import CheckOutcome, StepOutcome, UpgradeStep
from forkbed.core.systems.goal import Goal, Wanted
from forkbed.core.systems.spec import FileSpec, ProbeSpec, ResolvedMachine
from forkbed.engine.effects import describe_probe
from forkbed.engine.life import Life
from forkbed.engine.planloop import PlanLoop
from forkbed.ports.guests import CommandRequest, GuestAddress
from forkbed.ports.progress import Progress
from forkbed.ports.store import SystemRecord

KEPT_OUTPUT_BYTES = 256 * 1024
_READ_S = 0.5
_HOOK_TIMEOUT_S = 120.0
_PUSH_TIMEOUT_S = 300.0
_POLL_S = 0.2
# Beside, then renamed: a program that runs never sees half a file. $1 path, $2 mode, $3 owner.
_PUSH = (
    'set -e; mkdir -p "$(dirname "$1")"; umask 077; cat > "$1.forkbed-new"; chown "$3" "$1.forkbed-new"; '
    'chmod "$2" "$1.forkbed-new"; mv -f "$1.forkbed-new" "$1"'
)


class Replay:
    """Steps on one system. `outcomes` and `checks` tell of all that was tried, also when something failed."""

    def __init__(
        self,
        life: Life,
        record: SystemRecord,
        *,
        label: str = "",
        ends_at: float | None = None,
        remedy: str = "look at the machine: the fork is still there",
    ) -> None:
        """`ends_at` (seconds since the epoch) limits everything together; CONFLICT when it has passed.

        `remedy` is what to do about a step or a check that fails.
        """
        self._life = life
        self._host = life.around.host
        self._record = record
        self._label = label
        self._ends_at = ends_at
        self._remedy = remedy
        self.outcomes: list[StepOutcome] = []
        self.checks: list[CheckOutcome] = []

    def run(self, steps: Sequence[UpgradeStep]) -> None:
        """Every step in its order. Raises what the first one failed of."""
        for step in steps:
            self._life.check_cancelled()
            with self._life.step("step", f"{self._label}{step.name}") as progress:
                self._step(step, progress)

    def check(self) -> None:
        """Ask every machine's checks, all side by side. FAULT with all that are not good."""
        asked = [
            self._life.around.waiters.submit(self._check_journalled, machine, probe)
            for machine in self._record.resolved.machines
            for probe in machine.spec.checks
        ]
        wait(asked)
        self.checks += [outcome.result() for outcome in asked]
        bad = [check for check in self.checks if not check.good]
        if bad:
            raise OperationalError(
                Kind.FAULT,
                f"machine {bad[0].machine}",
                f"fails its check {bad[0].check}: {bad[0].reason}",
                self._remedy,
                details=tuple(f"{check.machine}: {check.check}: {check.reason}" for check in bad[1:]),
            )

    def _check_journalled(self, machine: ResolvedMachine, probe: ProbeSpec) -> CheckOutcome:
        subject = f"{self._label}{machine.name} {describe_probe(probe)}"
        with self._life.step("check", subject) as progress:
            return self._check(machine, probe, progress)

    def hooks(self, *, on: bool) -> None:
        """Run the manifest's maintenance hooks, one way or the other."""
        word = "on" if on else "off"
        for machine in self._record.resolved.machines:
            commands = machine.spec.maintenance_on if on else machine.spec.maintenance_off
            for number, command in enumerate(commands, 1):
                name = f"maintenance {word} {machine.name} {number}"
                step = UpgradeStep(name, machine.name, command, timeout_s=_HOOK_TIMEOUT_S)
                with self._life.step("hook", f"{self._label}{name}") as progress:
                    outcome = self._command(step, machine, progress)
                    if outcome.error:
                        raise _failure(step, outcome, self._remedy)

    def _step(self, step: UpgradeStep, progress: Progress) -> None:
        machine = self._record.resolved.machine(step.machine)
        started = self._host.clock.now()
        for file in step.files:
            progress.tell(f"pushing {file.path}")
            self._push(step, machine, file)
        if step.reboot:
            outcome = self._reboot(step, machine, progress)
        elif step.command:
            outcome = self._command(step, machine, progress)
        else:
            outcome = StepOutcome(step.name, step.machine, started, 0.0)
        outcome = StepOutcome(
            outcome.name,
            outcome.machine,
            started,
            self._host.clock.now() - started,
            outcome.exit_status,
            outcome.output,
            outcome.error,
        )
        self.outcomes.append(outcome)
        if outcome.error:
            raise _failure(step, outcome, self._remedy)

    def _push(self, step: UpgradeStep, machine: ResolvedMachine, file: FileSpec) -> None:
        argv = ("/bin/sh", "-c", _PUSH, "sh", file.path, f"{file.mode:o}", file.owner)
        with self._host.guests.open_command(self._address(machine), CommandRequest(argv)) as channel:
            channel.write(self._host.contents.get(file.content_hash))
            channel.close_input()
            words = bytearray()
            deadline = self._deadline(_PUSH_TIMEOUT_S)
            while (received := channel.read(_READ_S)) is not None:
                words += received[1]
                if self._host.clock.now() > deadline:
                    raise self._too_late(step.name, _PUSH_TIMEOUT_S)
            status = channel.exit_status()
        if status:
            raise OperationalError(
                Kind.FAULT,
                f"step {step.name}",
                f"cannot push {file.path} to {machine.name}: {words.decode(errors='replace').strip()}",
                "look at the guest's disk and at the file's owner",
            )

    def _command(self, step: UpgradeStep, machine: ResolvedMachine, progress: Progress) -> StepOutcome:
        environment = [f"{name}={value}" for name, value in step.environment]
        argv = (*(["env", *environment] if environment else []), "/bin/sh", "-c", step.command)
        request = CommandRequest(argv, user=step.user)
        started, kept = self._host.clock.now(), bytearray()
        deadline = self._deadline(step.timeout_s)
        with self._host.guests.open_command(self._address(machine), request) as channel:
            channel.close_input()
            while (received := channel.read(_READ_S)) is not None:
                kept = (kept + received[1])[-KEPT_OUTPUT_BYTES:]
                if received[1].strip():
                    progress.tell(received[1].decode(errors="replace").strip().splitlines()[-1][:200])
                self._life.check_cancelled()
                if self._host.clock.now() > deadline:
                    error = str(self._too_late(step.name, step.timeout_s).brief)
                    return self._outcome(step, started, None, kept, error)
            status = channel.exit_status()
        wrong = status != step.expected_status
        error = f"ended with status {status} instead of {step.expected_status}" if wrong else ""
        return self._outcome(step, started, status, kept, error)

    def _reboot(self, step: UpgradeStep, machine: ResolvedMachine, progress: Progress) -> StepOutcome:
        """Run what restarts the machine, and wait until it is ready in its next boot."""
        started, before = self._host.clock.now(), self._boot(machine)
        deadline = self._deadline(step.timeout_s)
        command = step.command or "reboot"
        request = CommandRequest(("/bin/sh", "-c", command), user=step.user)
        kept = bytearray()
        try:
            with self._host.guests.open_command(self._address(machine), request) as channel:
                channel.close_input()
                while (received := channel.read(_READ_S)) is not None and self._boot(machine) == before:
                    kept = (kept + received[1])[-KEPT_OUTPUT_BYTES:]
                    if self._host.clock.now() > deadline:
                        break
        except OperationalError as error:
            if error.kind is not Kind.UNREACHABLE:  # the connection goes with the boot
                raise
        progress.tell("waiting for the next boot")
        while self._boot(machine) == before:
            self._life.check_cancelled()
            if self._host.clock.now() > deadline:
                error_text = f"was not restarted within {format_duration(step.timeout_s)}"
                return self._outcome(step, started, None, kept, error_text)
            self._host.clock.sleep(_POLL_S)
        self._host.guests.forget(machine.id)
        goal = Goal({machine.name: Wanted.RUNNING})
        PlanLoop(self._life, self._record.id, goal, label=self._label).run()
        return self._outcome(step, started, None, kept, "")

    def _check(self, machine: ResolvedMachine, probe: ProbeSpec, progress: Progress) -> CheckOutcome:
        started = self._host.clock.now()
        deadline = self._deadline(probe.timeout_s)
        while True:
            answer = self._host.guests.probe(self._address(machine), probe)
            now = self._host.clock.now()
            if answer.good or now >= deadline:
                return CheckOutcome(
                    machine.name, describe_probe(probe), answer.good, now - started, answer.reason
                )
            progress.tell(answer.reason)
            self._life.check_cancelled()
            self._host.clock.sleep(probe.interval_s)

    def _outcome(
        self, step: UpgradeStep, started: float, status: int | None, output: bytearray, error: str
    ) -> StepOutcome:
        took = self._host.clock.now() - started
        text = output.decode(errors="replace")
        return StepOutcome(step.name, step.machine, started, took, status, text, error)

    def _deadline(self, timeout_s: float) -> float:
        """When this has to be over. CONFLICT if the time for all together is over already."""
        now = self._host.clock.now()
        if self._ends_at is not None and now >= self._ends_at:
            raise self._frozen_too_long()
        return min(now + timeout_s, self._ends_at if self._ends_at is not None else now + timeout_s)

    def _too_late(self, name: str, timeout_s: float) -> OperationalError:
        if self._ends_at is not None and self._host.clock.now() >= self._ends_at:
            return self._frozen_too_long()
        return OperationalError(
            Kind.FAULT,
            f"step {name}",
            f"did not end within {format_duration(timeout_s)}",
            "give the step a longer `timeout`",
        )

    def _frozen_too_long(self) -> OperationalError:
        return OperationalError(
            Kind.CONFLICT,
            f"system {self._record.resolved.inner_name}",
            "stood still for as long as was allowed",
            "allow more with --max-freeze, or make the steps quicker",
        )

    def _boot(self, machine: ResolvedMachine) -> str:
        seen = self._host.hypervisor.machine(machine.id)
        return seen.boot_id if seen is not None else ""

    def _address(self, machine: ResolvedMachine) -> GuestAddress:
        system = self._record.resolved
        return GuestAddress(machine, tuple(system.network(nic.network_id) for nic in machine.nics))


def _failure(step: UpgradeStep, outcome: StepOutcome, remedy: str) -> OperationalError:
    lines = outcome.output.strip().splitlines()[-12:]
    shown = ("the end of what it wrote:", *(f"  {line}" for line in lines)) if lines else ()
    return OperationalError(
        Kind.FAULT,
        f"step {step.name}",
        f"on {step.machine} {outcome.error}",
        remedy,
        details=shown,
    )
