"""Decide what to do next so that a system becomes what its goal says. Pure.

Promises, each tested over small worlds: *safe* (no volume is removed that the goal does not give up by name,
no running machine is stopped unless the goal asks or allows it), *resumable* (planning again after any of
the steps gives the remaining ones), *convergent* (doing the steps ends in an empty plan).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from forkbed.base.ids import MachineId
from forkbed.core.systems import digests
from forkbed.core.systems.goal import Goal, Wanted
from forkbed.core.systems.spec import ResolvedMachine, ResolvedSystem
from forkbed.core.systems.steps import (
    AwaitReady,
    AwakenMachine,
    CheckMachine,
    CreateVolume,
    DefineMachine,
    EnsureNetwork,
    GrowVolume,
    PauseMachine,
    RemoveNetwork,
    RemoveVolume,
    RestoreMachine,
    ResumeMachine,
    StartMachine,
    Step,
    StopMachine,
    UndefineMachine,
    WriteSeed,
    step_key,
)
from forkbed.core.systems.view import MachineView, Power, SystemView, VolumeView

ALIVE = frozenset({Power.RUNNING, Power.PAUSED})
_PRESENT = frozenset({Wanted.RUNNING, Wanted.PAUSED})
_DECISIVE = (
    StartMachine,
    AwakenMachine,
    AwaitReady,
    StopMachine,
    PauseMachine,
    ResumeMachine,
)


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step and the keys of the steps of the same plan that have to be over before it may begin."""

    step: Step
    after: frozenset[str]

    @property
    def key(self) -> str:
        return step_key(self.step)


@dataclass(frozen=True, slots=True)
class SystemPlan:
    """The steps still to do, in an order in which they could be done one by one; none at the goal."""

    steps: tuple[PlannedStep, ...]

    def runnable(self, under_way: Collection[str] = (), given_up: Collection[str] = ()) -> list[PlannedStep]:
        """The steps that may begin now, beside those under way and without those that failed."""
        pending = {planned.key for planned in self.steps} | set(under_way)
        return [
            planned
            for planned in self.steps
            if planned.key not in under_way and planned.key not in given_up and not planned.after & pending
        ]

    def without(self, step: Step) -> SystemPlan | None:
        """What is left of the plan when that step has been done; None if only a look at the host can tell.

        How a machine is now decides what follows for it and for those that wait for it. What merely prepares
        decides nothing, nor does a restore, after which it stands still as the plan expects; so the plan holds. A
        look at its end finds what did not come about after all.
        """
        left = tuple(planned for planned in self.steps if planned.key != step_key(step))
        return None if isinstance(step, _DECISIVE) or not left else SystemPlan(left)


def plan_system(system: ResolvedSystem, goal: Goal, view: SystemView) -> SystemPlan:
    """All steps from what is seen to the goal.

    A machine starts after the machines it names in `after` are ready, and stops before them.
    """
    return SystemPlan(tuple(_Planner(system, goal, view).all_steps()))


def plan_checks(system: ResolvedSystem, goal: Goal) -> tuple[CheckMachine, ...]:
    """What to ask once the goal is reached: the `checks` of every machine that is to run."""
    return tuple(
        CheckMachine(machine)
        for machine in system.machines
        if machine.spec.checks and goal.wanted.get(machine.name) is Wanted.RUNNING and not goal.delete
    )


class _Planner:
    """Collects the steps of one plan; `_steps` by machine name tells later machines what to wait for."""

    def __init__(self, system: ResolvedSystem, goal: Goal, view: SystemView) -> None:
        self._system = system
        self._goal = goal
        self._view = view
        self._steps: dict[str, list[PlannedStep]] = {}
        self._networks: list[PlannedStep] = []
        # What goes on from a memory where it does not run; also of machines that are back already.
        self._restores = {
            machine.id: RestoreMachine(machine, goal.restore[machine.id])
            for machine in system.machines
            if machine.id in goal.restore and goal.wanted.get(machine.name) in _PRESENT and not goal.delete
        }
        self._restore_keys = frozenset(step_key(step) for step in self._restores.values())

    def all_steps(self) -> Iterable[PlannedStep]:
        if self._goal.networks and not self._goal.delete:
            self._networks = list(self._ensure_networks())
        for machine in start_order(self._system.machines):
            wanted = Wanted.STOPPED if self._goal.delete else self._goal.wanted.get(machine.name)
            if wanted is not None:
                self._steps[machine.name] = list(self._machine_steps(machine, wanted))
            elif self._goal.seeds:
                steps = self._seed(machine, self._view.machine(machine.id))
                self._steps[machine.name] = [PlannedStep(step, frozenset()) for step in steps]
        stops = self._ordered_stops()
        machine_steps = [planned for steps in self._steps.values() for planned in steps]
        leftovers = list(self._leftovers())
        if self._goal.delete or not self._goal.networks:
            removals = self._remove_networks([*stops, *machine_steps, *leftovers])
            return [*stops, *machine_steps, *leftovers, *removals]
        ends = [planned for planned in leftovers if isinstance(planned.step, StopMachine)]
        others = [planned for planned in leftovers if not isinstance(planned.step, StopMachine)]
        removals = self._remove_networks([*stops, *ends])
        return [*stops, *ends, *removals, *self._after_removals(removals), *machine_steps, *others]

    def _ensure_networks(self) -> Iterable[PlannedStep]:
        for network in self._system.networks:
            digest = digests.network_digest(self._system, network)
            seen = self._view.networks.get(network.id)
            if seen is None or not seen.healthy or seen.digest != digest:
                members = tuple(digests.network_members(self._system, network))
                yield PlannedStep(EnsureNetwork(network, members, digest), frozenset())

    def _after_removals(self, removals: Sequence[PlannedStep]) -> Iterable[PlannedStep]:
        """The networks to make; a new one may publish a port that one which goes still has."""
        gone = frozenset(planned.key for planned in removals)
        for planned in self._networks:
            assert isinstance(planned.step, EnsureNetwork)
            is_new = planned.step.network.id not in self._view.networks
            yield replace(planned, after=gone) if is_new else planned

    def _machine_steps(self, machine: ResolvedMachine, wanted: Wanted) -> Iterable[PlannedStep]:
        """Steps of one machine without its stop, each after the one before (they share the machine)."""
        steps: list[Step] = []
        seen = self._view.machine(machine.id)
        if not self._goal.delete:
            steps += self._preparation(machine, seen)
        steps += self._power_steps(machine, seen, wanted)
        before: frozenset[str] = frozenset(
            [step_key(self._stop_step(machine.id, machine.name))] if self._must_stop(machine, wanted) else []
        )
        for step in steps:
            after = before
            if isinstance(step, (StartMachine, RestoreMachine)):
                after |= {planned.key for planned in self._networks}
            if isinstance(step, StartMachine):
                after |= self._keys_of(machine.spec.after)
            if isinstance(step, AwakenMachine):  # machines of one cut go on together
                after |= self._restore_keys
            yield PlannedStep(step, after)
            before = frozenset([step_key(step)])

    def _preparation(self, machine: ResolvedMachine, seen: MachineView) -> Iterable[Step]:
        for volume in machine.volumes:
            volume_seen = self._view.volumes.get(volume.id)
            if volume_seen is None:
                yield CreateVolume(volume, machine)
            elif volume_seen.size_bytes < volume.size_bytes and seen.power not in ALIVE:
                yield GrowVolume(volume, machine)
        yield from self._seed(machine, seen)
        definition = digests.definition_digest(self._system, machine)
        defined = seen.power is not Power.ABSENT and seen.definition_digest == definition
        comes_back = seen.power not in ALIVE and machine.id in self._restores
        if not defined and not comes_back:  # a restore defines it, with its new disks
            yield DefineMachine(machine, definition)

    def _seed(self, machine: ResolvedMachine, seen: MachineView) -> Iterable[Step]:
        digest = digests.seed_digest(self._system, machine)
        if seen.seed_digest != digest:
            yield WriteSeed(machine, digest)

    def _power_steps(self, machine: ResolvedMachine, seen: MachineView, wanted: Wanted) -> Iterable[Step]:
        if wanted is Wanted.STOPPED:
            return
        if seen.power not in ALIVE or self._must_stop(machine, wanted):
            restore = self._restores.get(machine.id)
            yield restore or StartMachine(machine)
            if restore is not None and wanted is Wanted.RUNNING:
                yield AwakenMachine(machine)
            return
        if wanted is Wanted.PAUSED:
            if seen.power is Power.RUNNING:
                yield PauseMachine(machine.id, machine.name)
            return
        if seen.power is Power.PAUSED:
            comes_back = machine.id in self._restores
            yield AwakenMachine(machine) if comes_back else ResumeMachine(machine.id, machine.name)
            return
        digest = digests.readiness_digest(machine)
        if (seen.ready_boot_id, seen.ready_digest) != (seen.boot_id, digest):
            yield AwaitReady(machine, seen.boot_id, digest)

    def _must_stop(self, machine: ResolvedMachine, wanted: Wanted) -> bool:
        seen = self._view.machine(machine.id)
        if seen.power not in ALIVE:
            return False
        if wanted is Wanted.STOPPED or self._goal.end_boots.get(machine.id) == seen.boot_id:
            return True
        outdated = seen.running_digest != digests.definition_digest(self._system, machine)
        return outdated and self._goal.may_restart

    def _stop_step(self, machine_id: MachineId, name: str) -> StopMachine:
        return StopMachine(machine_id, name, self._goal.stop_timeout_s)

    def _ordered_stops(self) -> list[PlannedStep]:
        """Stops of declared machines, each after the stops of the machines that were started after it."""
        stopping = []
        for machine in reversed(start_order(self._system.machines)):
            wanted = Wanted.STOPPED if self._goal.delete else self._goal.wanted.get(machine.name)
            if wanted is not None and self._must_stop(machine, wanted):
                stopping.append(machine)
        return [
            PlannedStep(
                self._stop_step(machine.id, machine.name),
                frozenset(
                    step_key(self._stop_step(other.id, other.name))
                    for other in stopping
                    if machine.name in other.spec.after
                ),
            )
            for machine in stopping
        ]

    def _keys_of(self, names: Iterable[str]) -> frozenset[str]:
        return frozenset(planned.key for name in names for planned in self._steps.get(name, ()))

    def _leftovers(self) -> Iterable[PlannedStep]:
        """Machines and volumes on the host that the system does not declare (any more)."""
        declared = {} if self._goal.delete else {machine.id: machine for machine in self._system.machines}
        known = {machine.id: machine for machine in self._system.machines}
        names = {machine_id: machine.name for machine_id, machine in known.items()}
        undefined: dict[MachineId, str] = {}
        for machine_id, seen in self._view.machines.items():
            if machine_id in declared:
                continue
            name = seen.name or names.get(machine_id, machine_id)
            if not self._goal.delete and name not in self._goal.may_destroy:
                if not self._goal.networks and seen.power in ALIVE:  # nothing is to run on what goes
                    yield PlannedStep(self._stop_step(machine_id, name), frozenset())
                continue
            after: frozenset[str] = frozenset()
            if seen.power in ALIVE:
                stop = self._stop_step(machine_id, name)
                after = frozenset([step_key(stop)])
                if machine_id not in known:
                    yield PlannedStep(stop, frozenset())
            if seen.power is not Power.ABSENT or seen.seed_digest:
                undefine = UndefineMachine(machine_id, name)
                yield PlannedStep(undefine, after)
                undefined[machine_id] = step_key(undefine)
        yield from self._leftover_volumes(undefined)

    def _leftover_volumes(self, undefined: dict[MachineId, str]) -> Iterable[PlannedStep]:
        machines = {machine.id: machine for machine in self._system.machines}
        wanted = (
            set()
            if self._goal.delete
            else {volume.id for machine in self._system.machines for volume in machine.volumes}
        )
        for volume in self._view.volumes.values():
            if volume.volume_id in wanted:
                continue
            name = volume.machine_name
            if not self._goal.may_lose(name, volume.name) or self._is_in_use(volume):
                continue
            after = {undefined[volume.machine_id]} if volume.machine_id in undefined else set()
            if volume.machine_id in machines and not self._goal.delete:
                after |= self._keys_of([name])
            yield PlannedStep(RemoveVolume(volume.volume_id, name, volume.name), frozenset(after))

    def _is_in_use(self, volume: VolumeView) -> bool:
        """Whether a running guest that goes on running still has the volume open."""
        machine = next((m for m in self._system.machines if m.id == volume.machine_id), None)
        if machine is None or self._goal.delete:
            return False
        seen = self._view.machine(machine.id)
        outdated = seen.running_digest != digests.definition_digest(self._system, machine)
        wanted = self._goal.wanted.get(machine.name)
        return seen.power in ALIVE and outdated and not (wanted and self._must_stop(machine, wanted))

    def _remove_networks(self, earlier: Sequence[PlannedStep]) -> list[PlannedStep]:
        wanted = {network.id for network in self._system.networks}
        if self._goal.delete or not self._goal.networks:
            wanted = set()
        after = frozenset(planned.key for planned in earlier)
        names = {network.id: network.spec.name for network in self._system.networks}
        return [
            PlannedStep(RemoveNetwork(network_id, names.get(network_id, network_id)), after)
            for network_id in self._view.networks
            if network_id not in wanted
        ]


def start_order(machines: Sequence[ResolvedMachine]) -> list[ResolvedMachine]:
    """The machines so that each comes after those it names in `after`; otherwise in the manifest's order.

    The manifest's checks have refused cycles; names of machines that are not there are ignored.
    """
    by_name = {machine.name: machine for machine in machines}
    ordered: dict[str, ResolvedMachine] = {}

    for machine in machines:
        stack = [machine.name]
        while stack:
            name = stack[-1]
            waiting = [n for n in by_name[name].spec.after if n in by_name and n not in ordered]
            if waiting:
                stack.append(waiting[0])
                continue
            ordered.setdefault(name, by_name[name])
            stack.pop()
    return list(ordered.values())
