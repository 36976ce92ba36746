"""One word for the state of a system, and what of its machines counts as running and ready. Pure."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

from forkbed.core.operations.records import Operation, OperationKind, OperationStatus
from forkbed.core.systems import digests
from forkbed.core.systems.change_view import LIVE, RESTART, ChangeView
from forkbed.core.systems.goal import Wanted
from forkbed.core.systems.planner import ALIVE
from forkbed.core.systems.spec import ResolvedMachine, ResolvedSystem
from forkbed.core.systems.view import Power, SystemView

_UNDER_WAY = {
    OperationKind.UP: "starting",
    OperationKind.DOWN: "stopping",
    OperationKind.POWER: "changing",
    OperationKind.RECONCILE: "recovering",
    OperationKind.SAVE: "saving",
}


@dataclass(frozen=True, slots=True)
class Status:
    """`state` is one of: up, down, stopped, paused, degraded, failed, or what an operation is about."""

    state: str
    running: int
    ready: int


def is_ready(machine: ResolvedMachine, view: SystemView) -> bool:
    """Whether the present boot of the machine passed its set-up and `ready` probes."""
    seen = view.machine(machine.id)
    return seen.power is Power.RUNNING and (seen.ready_boot_id, seen.ready_digest) == (
        seen.boot_id,
        digests.readiness_digest(machine),
    )


def restart_pending(system: ResolvedSystem, machine: ResolvedMachine, view: SystemView) -> bool:
    """Whether the running guest was started with another definition than the present one."""
    seen = view.machine(machine.id)
    return seen.power in ALIVE and seen.running_digest != digests.definition_digest(system, machine)


def as_it_runs(
    changes: Sequence[ChangeView], system: ResolvedSystem, waiting: Container[str]
) -> tuple[ChangeView, ...]:
    """The changes to `system`, with a restart only where it takes one now.

    `waiting` are the machines that run otherwise than `system` declares: whatever does not run starts with it, and
    a change that was taken back before a restart is how the machine runs already.
    """
    subjects = set[str]()
    for machine in system.machines:
        if machine.name in waiting:
            subjects |= {f"machine {machine.name}", *(f"network {nic.network}" for nic in machine.spec.nics)}
    return tuple(
        replace(change, needs=LIVE) if change.needs == RESTART and change.subject not in subjects else change
        for change in changes
    )


def system_status(
    system: ResolvedSystem,
    wanted: Mapping[str, Wanted],
    up: bool,
    view: SystemView,
    last: Operation | None,
) -> Status:
    """The state of a system; `last` is its newest operation."""
    powers = [view.machine(machine.id).power for machine in system.machines]
    running = sum(power in ALIVE for power in powers)
    ready = sum(is_ready(machine, view) for machine in system.machines)
    return Status(_state(system, wanted, up, view, last), running, ready)


def _state(
    system: ResolvedSystem,
    wanted: Mapping[str, Wanted],
    up: bool,
    view: SystemView,
    last: Operation | None,
) -> str:
    if last is not None and not last.status.ended:
        return _UNDER_WAY.get(last.kind, "changing")
    as_wanted = all(_is_as_wanted(machine, wanted, view) for machine in system.machines)
    failed = last is not None and last.status is OperationStatus.FAILED
    if not as_wanted:
        return "failed" if failed else "degraded"
    if not up:
        return "down"
    states = {wanted.get(machine.name, Wanted.STOPPED) for machine in system.machines}
    if states == {Wanted.STOPPED}:
        return "stopped"
    return "paused" if states == {Wanted.PAUSED} else "up"


def _is_as_wanted(machine: ResolvedMachine, wanted: Mapping[str, Wanted], view: SystemView) -> bool:
    power = view.machine(machine.id).power
    match wanted.get(machine.name, Wanted.STOPPED):
        case Wanted.RUNNING:
            return is_ready(machine, view)
        case Wanted.PAUSED:
            return power is Power.PAUSED
        case Wanted.STOPPED:
            return power not in ALIVE
