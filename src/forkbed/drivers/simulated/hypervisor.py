"""`ports.hypervisor` in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import Power
from forkbed.drivers.simulated.world import SimulatedMachine, SimulatedWorld
from forkbed.ports.hypervisor import (
    HypervisorMachine,
    MachineDefinition,
    MachineEvent,
)

_ALIVE = (Power.RUNNING, Power.PAUSED)


class SimulatedHypervisor:
    """Machines that take a while to boot and to shut down, and do nothing else."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world

    def machines(self) -> Sequence[HypervisorMachine]:
        """All machines."""
        self._world.call("hypervisor.machines")
        with self._world.lock:
            self._world.settle()
            return [_seen(machine) for machine in self._world.machines.values()]

    def machine(self, machine_id: MachineId) -> HypervisorMachine | None:
        """One machine."""
        return next((seen for seen in self.machines() if seen.machine_id == machine_id), None)

    def power(self, machine_id: MachineId) -> Power:
        """What one machine does."""
        seen = self.machine(machine_id)
        return Power.ABSENT if seen is None else seen.power

    def define(self, definition: MachineDefinition) -> Effect:
        """Write the definition; a running machine keeps the one it was started with."""
        machine = definition.machine
        self._world.call("hypervisor.define", machine.name)
        with self._world.lock:
            known = self._world.machines.get(machine.id)
            if known is None:
                self._world.machines[machine.id] = SimulatedMachine(definition)
                return Effect.CHANGED
            if known.definition == definition:
                return Effect.ALREADY
            known.definition = definition
            return Effect.CHANGED

    def undefine(self, machine_id: MachineId) -> Effect:
        """Forget a machine that does not run."""
        self._world.call("hypervisor.undefine", machine_id)
        with self._world.lock:
            self._world.settle()
            machine = self._world.machines.get(machine_id)
            if machine is None:
                return Effect.ALREADY
            if machine.power in _ALIVE:
                raise OperationalError(
                    Kind.CONFLICT, machine.definition.machine.name, "is running", "stop it first"
                )
            del self._world.machines[machine_id]
            return Effect.CHANGED

    def start(self, machine_id: MachineId) -> Effect:
        """Begin to boot."""
        with self._world.lock:
            machine = self._find(machine_id)
        self._world.call("hypervisor.start", machine.definition.machine.name)
        with self._world.lock:
            self._world.settle()
            if machine.power in _ALIVE:
                return Effect.ALREADY
            check_parts(self._world, machine)
            machine.running_digest = machine.definition.digest
            self._world.plug_in(machine)
            self._world.boot(machine)
            return Effect.CHANGED

    def shut_down(self, machine_id: MachineId) -> Effect:
        """Ask the guest; it takes its time, or does not listen."""
        with self._world.lock:
            machine = self._find(machine_id)
            name = machine.definition.machine.name
            self._world.call("hypervisor.shut_down", name)
            if machine.power not in _ALIVE:
                return Effect.ALREADY
            machine.power = Power.RUNNING  # a paused guest is resumed to hear it
            if name not in self._world.stubborn and machine.shuts_down_at is None:
                machine.shuts_down_at = self._world.clock.now() + self._world.shut_down_s
            return Effect.CHANGED

    def force_off(self, machine_id: MachineId) -> Effect:
        """End the guest at once."""
        with self._world.lock:
            machine = self._find(machine_id)
            self._world.call("hypervisor.force_off", machine.definition.machine.name)
            if machine.power not in _ALIVE:
                return Effect.ALREADY
            self._world.power_off(machine)
            return Effect.CHANGED

    def pause(self, machine_id: MachineId) -> Effect:
        """Stop the guest's time."""
        return self._switch(machine_id, "hypervisor.pause", Power.RUNNING, Power.PAUSED)

    def resume(self, machine_id: MachineId) -> Effect:
        """Let the guest's time go on."""
        return self._switch(machine_id, "hypervisor.resume", Power.PAUSED, Power.RUNNING)

    def open_console(self, machine_id: MachineId) -> SimulatedConsole:
        """A console that answers each line with itself."""
        with self._world.lock:
            return SimulatedConsole(self._world, self._find(machine_id))

    def console_log(self, machine_id: MachineId, *, tail_bytes: int | None = None) -> bytes:
        """What the guest wrote."""
        with self._world.lock:
            log = bytes(self._find(machine_id).console)
        return log if tail_bytes is None else log[max(0, len(log) - tail_bytes) :]

    def watch(self, listener: Callable[[MachineEvent], None]) -> Callable[[], None]:
        """Tell the listener what the world does by itself."""
        self._world.listeners.append(listener)

        def unwatch() -> None:
            if listener in self._world.listeners:
                self._world.listeners.remove(listener)

        return unwatch

    def description(self) -> dict[str, str]:
        """Says that nothing here is real."""
        return {"hypervisor": "simulated", "acceleration": "none"}

    def _find(self, machine_id: MachineId) -> SimulatedMachine:
        machine = self._world.machines.get(machine_id)
        if machine is None:
            raise OperationalError(Kind.NOT_FOUND, f"machine {machine_id}", "is not defined on this host")
        return machine

    def _switch(self, machine_id: MachineId, call: str, before: Power, after: Power) -> Effect:
        with self._world.lock:
            machine = self._find(machine_id)
            self._world.call(call, machine.definition.machine.name)
            if machine.power is after:
                return Effect.ALREADY
            if machine.power is not before:
                raise OperationalError(
                    Kind.CONFLICT, f"machine {machine.definition.machine.name}", f"is {machine.power}"
                )
            machine.power = after
            return Effect.CHANGED


class SimulatedConsole:
    """A serial console on which every line is echoed."""

    def __init__(self, world: SimulatedWorld, machine: SimulatedMachine) -> None:
        self._world = world
        self._machine = machine
        self._position = len(machine.console)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def read(self, timeout_s: float) -> bytes | None:
        """What came since the last call."""
        with self._world.lock:
            if self._machine.power not in _ALIVE:
                return None
            data = bytes(self._machine.console[self._position :])
            self._position += len(data)
        if not data:
            self._world.clock.sleep(timeout_s)
        return data

    def write(self, data: bytes) -> None:
        """Type; the guest echoes it."""
        with self._world.lock:
            self._machine.console += data


def check_parts(world: SimulatedWorld, machine: SimulatedMachine) -> None:
    """A real hypervisor refuses to start without disks and bridges; so does this one.

    It also refuses what a real one would do, to the ruin of a kept cut: write to a layer that is not the active one.
    """
    declared = machine.definition.machine
    missing = [volume.name for volume in declared.volumes if volume.id not in world.volumes]
    missing += [nic.network_id for nic in declared.nics if nic.network_id not in world.networks]
    if missing:
        raise OperationalError(
            Kind.FAULT, f"machine {declared.name}", f"cannot start without {', '.join(missing)}"
        )
    paths = {disk.path for disk in machine.definition.disks}
    stale = [volume.name for volume in declared.volumes if world.disks.volumes[volume.id].active not in paths]
    if stale:
        raise OperationalError(
            Kind.FAULT, f"machine {declared.name}", f"its definition has an old layer of {', '.join(stale)}"
        )


def _seen(machine: SimulatedMachine) -> HypervisorMachine:
    return HypervisorMachine(
        machine_id=machine.definition.machine.id,
        system_id=machine.definition.system_id,
        name=machine.definition.machine.name,
        power=machine.power,
        definition_digest=machine.definition.digest,
        running_digest=machine.running_digest,
        boot_id=machine.boot_id,
    )
