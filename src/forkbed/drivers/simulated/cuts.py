"""`ports.cuts` in memory.

A cut is a row of calls of the world: "cuts.cut", "cuts.freeze" for each machine, then "cuts.disks", "cuts.memory" for
each. At every one a fault may wait, or the controller die; after its death machines stay frozen until `recover`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId, SnapshotId
from forkbed.core.snapshots.records import FreezeMethod
from forkbed.core.systems.goal import MemoryRef
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import Power
from forkbed.drivers.simulated.hypervisor import check_parts
from forkbed.drivers.simulated.world import UNWRITTEN, SimulatedMachine, SimulatedMemory, SimulatedWorld
from forkbed.ports.cuts import CutOrder, CutOutcome, MemoryView
from forkbed.ports.hypervisor import MachineDefinition
from forkbed.ports.progress import Progress

_ALIVE = (Power.RUNNING, Power.PAUSED)


class SimulatedCut:
    """A cut that was made."""

    def __init__(
        self, world: SimulatedWorld, snapshot_id: SnapshotId, outcomes: Sequence[CutOutcome]
    ) -> None:
        self._world = world
        self._snapshot_id = snapshot_id
        self._outcomes = outcomes

    @property
    def outcomes(self) -> Sequence[CutOutcome]:
        """One for each order."""
        return self._outcomes

    def await_memory(self, progress: Progress) -> Mapping[MachineId, int]:
        """Wait for the files."""
        self._world.call("cuts.await_memory", self._snapshot_id)
        ids = [outcome.machine_id for outcome in self._outcomes]
        with self._world.lock:
            found = {
                machine_id: self._world.memories.get((self._snapshot_id, machine_id)) for machine_id in ids
            }
        memories = {machine_id: memory for machine_id, memory in found.items() if memory is not None}
        await_files(self._world, list(memories.values()))
        return {machine_id: memory.size_bytes for machine_id, memory in memories.items()}

    def resume(self) -> None:
        """Let held machines go on."""
        self._world.call("cuts.resume", self._snapshot_id)
        with self._world.lock:
            for outcome in self._outcomes:
                let_go(self._world.machines.get(outcome.machine_id))

    def give_up(self) -> None:
        """They stay frozen, and nobody resumes them."""
        self._world.call("cuts.give_up", self._snapshot_id)
        with self._world.lock:
            for outcome in self._outcomes:
                machine = self._world.machines.get(outcome.machine_id)
                if machine is not None:
                    machine.frozen = False
            self._world.given_up.add(self._snapshot_id)


class SimulatedCuts:
    """Cuts of the simulated world's machines."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world

    def refusal(self, machine_id: MachineId) -> str:
        """As the world says."""
        with self._world.lock:
            return self._world.unforkable.get(self._find(machine_id).definition.machine.name, "")

    def memory_file_bytes(self, machine_id: MachineId) -> int:
        """All of the machine's memory."""
        with self._world.lock:
            return self._find(machine_id).definition.machine.spec.memory_bytes

    def cut(
        self,
        snapshot_id: SnapshotId,
        orders: Sequence[CutOrder],
        *,
        hold: bool,
        quiesce: bool,
        hold_limit_s: float = 0.0,
        before_freeze: Callable[[], None] = lambda: None,
    ) -> SimulatedCut:
        """Freeze, move the disks on, keep memory, let go."""
        self._world.call("cuts.cut", snapshot_id)
        before_freeze()
        with self._world.lock:
            self._world.settle()
            machines = [self._find(order.machine_id) for order in orders]
            self._refuse(orders, machines)
        try:
            frozen = [self._freeze(machine) for machine in machines]
            for order, machine in zip(orders, machines, strict=True):
                if quiesce and machine.definition.machine.name not in self._world.deaf:
                    self._write_out(machine)
                self._move_disks(order, machine)
                if order.memory:
                    self._keep_memory(snapshot_id, machine, hold, order.lasting)
        except OperationalError:
            with self._world.lock:
                for order, machine in zip(orders, machines, strict=True):
                    let_go(machine)
                    self._world.memories.pop((snapshot_id, order.machine_id), None)
            raise
        self._world.clock.sleep(self._world.freeze_s)
        with self._world.lock:
            return SimulatedCut(
                self._world,
                snapshot_id,
                [
                    self._outcome(order, machine, power, at, hold, quiesce)
                    for order, machine, (power, at) in zip(orders, machines, frozen, strict=True)
                ],
            )

    def was_given_up(self, snapshot_id: SnapshotId) -> bool:
        """Whether they were."""
        with self._world.lock:
            return snapshot_id in self._world.given_up

    def forget_given_up(self, snapshot_id: SnapshotId) -> None:
        """Not any more."""
        with self._world.lock:
            self._world.given_up.discard(snapshot_id)

    def restore(self, definition: MachineDefinition, memory: MemoryRef) -> Effect:
        """Come back from a memory, paused, under a new boot id."""
        declared = definition.machine
        self._world.call("cuts.restore", declared.name)
        with self._world.lock:
            self._world.settle()
            machine = self._find(declared.id)
            if machine.power in _ALIVE:
                return Effect.ALREADY
            kept = self._world.memories.get((memory.snapshot_id, memory.machine_id))
            if kept is None:
                raise OperationalError(
                    Kind.NOT_FOUND, f"machine {declared.name}", "its memory is not kept any more"
                )
            machine.definition = definition
            check_parts(self._world, machine)
            machine.running_digest = definition.digest
            self._world.plug_in(machine)
            self._world.wake(machine, kept)
            return Effect.CHANGED

    def make_lasting(self, snapshot_id: SnapshotId) -> bool:
        """Mark them."""
        self._world.call("cuts.make_lasting", snapshot_id)
        with self._world.lock:
            found = {key: memory for key, memory in self._world.memories.items() if key[0] == snapshot_id}
            self._world.memories |= {key: replace(memory, lasting=True) for key, memory in found.items()}
            return bool(found)

    def memories(self) -> Sequence[MemoryView]:
        """All of them."""
        self._world.call("cuts.memories")
        with self._world.lock:
            kept = self._world.memories.items()
            return [MemoryView(*key, size_bytes=memory.size_bytes) for key, memory in kept]

    def remove_memory(self, snapshot_id: SnapshotId) -> Effect:
        """Remove a snapshot's memories once they are complete."""
        self._world.call("cuts.remove_memory", snapshot_id)
        with self._world.lock:
            keys = [key for key in self._world.memories if key[0] == snapshot_id]
            memories = [self._world.memories[key] for key in keys]
        await_files(self._world, memories)
        with self._world.lock:
            for key in keys:
                self._world.memories.pop(key, None)
            return Effect.CHANGED if keys else Effect.ALREADY

    def recover(self) -> None:
        """What ran until a cut runs again."""
        self._world.call("cuts.recover")
        with self._world.lock:
            for machine in self._world.machines.values():
                let_go(machine)

    def disks_in_use(self, machine_id: MachineId) -> Mapping[str, tuple[str, ...]]:
        """As the machine has them open."""
        with self._world.lock:
            self._world.settle()
            machine = self._world.machines.get(machine_id)
            return dict(machine.in_use) if machine is not None and machine.power in _ALIVE else {}

    def commit_layer(
        self, machine_id: MachineId, serial: str, top: str, into: str, progress: Progress
    ) -> Effect:
        """Merge at once."""
        self._world.call("cuts.commit_layer", machine_id)
        with self._world.lock:
            machine, chain = self._chain(machine_id, serial)
            if top not in chain:
                return Effect.ALREADY
            position = chain.index(top)
            if position == 0 or chain[position + 1 : position + 2] != (into,):
                raise OperationalError(
                    Kind.CONFLICT, f"disk {serial}", f"{into} is not right below {top}, or that is written to"
                )
            self._world.disks.merge_down(top, into)
            machine.in_use[serial] = tuple(path for path in chain if path != top)
            return Effect.CHANGED

    def pull_layers(self, machine_id: MachineId, serial: str, keep: str, progress: Progress) -> Effect:
        """Copy at once."""
        self._world.call("cuts.pull_layers", machine_id)
        with self._world.lock:
            machine, chain = self._chain(machine_id, serial)
            if keep and keep not in chain[1:]:
                raise OperationalError(
                    Kind.CONFLICT, f"disk {serial}", f"{keep} is not below its active layer"
                )
            lower = chain[chain.index(keep) :] if keep else ()
            between = chain[1 : len(chain) - len(lower)]
            if not between:
                return Effect.ALREADY
            self._world.disks.pull_up(chain[0], between)
            machine.in_use[serial] = (chain[0], *lower)
            return Effect.CHANGED

    def flush(self, machine_id: MachineId, serial: str) -> None:
        """Nothing is held back here."""
        self._world.call("cuts.flush", machine_id)
        with self._world.lock:
            self._chain(machine_id, serial)

    def _refuse(self, orders: Sequence[CutOrder], machines: Sequence[SimulatedMachine]) -> None:
        """What is refused before anything stands still."""
        wanted_bytes = 0
        for order, machine in zip(orders, machines, strict=True):
            name = machine.definition.machine.name
            if machine.power not in _ALIVE:
                raise OperationalError(
                    Kind.CONFLICT, f"machine {name}", f"is {machine.power}, so it cannot be cut"
                )
            if order.memory:
                if reason := self._world.unforkable.get(name):
                    raise OperationalError(Kind.CONFLICT, f"machine {name}", reason, "cut its disks only")
                wanted_bytes += machine.definition.machine.spec.memory_bytes
        kept_bytes = sum(memory.size_bytes for memory in self._world.memories.values())
        if wanted_bytes > self._world.memory_room_bytes - kept_bytes:
            raise OperationalError(
                Kind.CONFLICT, "memory", "there is no space for the files of the memories", "delete snapshots"
            )

    def _freeze(self, machine: SimulatedMachine) -> tuple[Power, float]:
        """Stop it; its power until now, and when that was."""
        self._world.call("cuts.freeze", machine.definition.machine.name)
        with self._world.lock:
            before = machine.power
            if before is Power.RUNNING:
                machine.power = Power.PAUSED
                machine.frozen = True
            return before, self._world.clock.now()

    def _write_out(self, machine: SimulatedMachine) -> None:
        with self._world.lock:
            blocks = self._world.disks.layers[machine.in_use["root"][0]].blocks
            for key in [key for key in machine.memory if key.startswith(UNWRITTEN)]:
                blocks[key.removeprefix(UNWRITTEN)] = machine.memory.pop(key)

    def _move_disks(self, order: CutOrder, machine: SimulatedMachine) -> None:
        """Put the disks on their overlays, in the definition too, as libvirt does."""
        self._world.call("cuts.disks", machine.definition.machine.name)
        with self._world.lock:
            for disk in order.disks:
                machine.in_use[disk.serial] = (disk.overlay, *machine.in_use[disk.serial])
            machine.definition = replace(
                machine.definition,
                disks=tuple(
                    replace(
                        disk,
                        path=machine.in_use[disk.serial][0],
                        chain=tuple((path, disk.format) for path in machine.in_use[disk.serial][1:]),
                    )
                    for disk in machine.definition.disks
                ),
            )

    def _keep_memory(
        self, snapshot_id: SnapshotId, machine: SimulatedMachine, hold: bool, lasting: bool
    ) -> None:
        self._world.call("cuts.memory", machine.definition.machine.name)
        declared = machine.definition.machine
        if hold:
            self._world.clock.sleep(self._world.memory_s)
        complete_at = self._world.clock.now() + (0.0 if hold else self._world.memory_s)
        with self._world.lock:
            self._world.memories[snapshot_id, declared.id] = SimulatedMemory(
                dict(machine.memory), declared.spec.memory_bytes, complete_at, lasting
            )

    def _outcome(
        self, order: CutOrder, machine: SimulatedMachine, power: Power, at: float, hold: bool, quiesce: bool
    ) -> CutOutcome:
        """What came of it; the machine goes on unless it is held."""
        method = FreezeMethod.DISKS
        if order.memory:
            method = FreezeMethod.PAUSED if hold else FreezeMethod.BACKGROUND
        resumed = power is Power.RUNNING and not hold
        if resumed:
            let_go(machine)
        deaf = machine.definition.machine.name in self._world.deaf
        return CutOutcome(
            order.machine_id,
            power,
            method,
            frozen_at=at,
            resumed_at=self._world.clock.now() if resumed else None,
            quiesced=quiesce and not deaf,
            note="its file systems were not frozen: the guest agent does not answer"
            if quiesce and deaf
            else "",
        )

    def _chain(self, machine_id: MachineId, serial: str) -> tuple[SimulatedMachine, tuple[str, ...]]:
        machine = self._find(machine_id)
        if serial not in machine.in_use:
            raise OperationalError(
                Kind.CONFLICT,
                f"machine {machine.definition.machine.name}",
                f"does not run with a disk {serial}",
            )
        return machine, machine.in_use[serial]

    def _find(self, machine_id: MachineId) -> SimulatedMachine:
        machine = self._world.machines.get(machine_id)
        if machine is None:
            raise OperationalError(Kind.NOT_FOUND, f"machine {machine_id}", "is not defined on this host")
        return machine


def let_go(machine: SimulatedMachine | None) -> None:
    """Have a machine run again that a cut froze."""
    if machine is not None and machine.frozen:
        machine.frozen = False
        machine.power = Power.RUNNING


def await_files(world: SimulatedWorld, memories: Sequence[SimulatedMemory]) -> None:
    """Let time pass until all are complete."""
    last = max((memory.complete_at for memory in memories), default=0.0)
    world.clock.sleep(max(0.0, last - world.clock.now()))
