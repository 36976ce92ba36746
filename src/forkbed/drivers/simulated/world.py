"""The simulated host's state, its virtual clock and its faults, shared by all simulated ports."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from forkbed.base.errors import OperationalError
from forkbed.base.ids import ImageId, MachineId, NetworkId, SnapshotId, VolumeId
from forkbed.core.networks.intents import Intent, IntentKind
from forkbed.core.systems.view import NetworkView, Power, VolumeView
from forkbed.drivers.simulated.disks import Disks
from forkbed.ports.clock import Clock
from forkbed.ports.hypervisor import MachineDefinition, MachineEvent, MachineEventKind
from forkbed.ports.images import ImageView, TagMove


class VirtualClock:
    """Time that passes only when somebody sleeps: tests of hours take no time. Thread-safe."""

    def __init__(self, start: float = 1_000_000_000.0) -> None:
        self._now = start
        self._lock = threading.Lock()

    def now(self) -> float:
        """Virtual seconds since the epoch."""
        with self._lock:
            return self._now

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass; returns at once."""
        with self._lock:
            self._now += seconds


UNWRITTEN = "unwritten/"


@dataclass(slots=True)
class SimulatedMachine:
    """A machine. The guest can be reached, and its probes answer, from `answers_at` on.

    `memory` is lost when it ends; "boot" in it is the boot that it goes back to, also after a restore, "clock" and
    "entropy" what an awakening told it, and what "unwritten/NAME" holds is on the root disk only after a quiesced cut.
    `in_use` is what it writes to: by serial number the files, active first.
    `frozen`: it ran until a cut that is not over stopped it.
    """

    definition: MachineDefinition
    power: Power = Power.OFF
    running_digest: str = ""
    boot_id: str = ""
    answers_at: float = 0.0
    shuts_down_at: float | None = None
    console: bytearray = field(default_factory=bytearray)
    memory: dict[str, str] = field(default_factory=dict)
    in_use: dict[str, tuple[str, ...]] = field(default_factory=dict)
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class SimulatedMemory:
    """A machine's memory that a cut kept. Its file is complete from `complete_at` on; `lasting`: beyond the boot."""

    content: dict[str, str]
    size_bytes: int
    complete_at: float
    lasting: bool


@dataclass(slots=True)
class Fault:
    """Raise `error` the next `times` times that `call` is made about `subject` ("" for any)."""

    call: str
    subject: str
    error: OperationalError
    times: int = 1


@dataclass(slots=True)
class SimulatedWorld:
    """All that exists on the host. Ports hold `lock` while they read or change it.

    `boot_s` and `shut_down_s` are how long a guest takes; `deaf` names machines that never answer, `stubborn`
    those that do not shut down when asked, `bad_probes` commands whose probes never answer well; `unforkable` maps
    machines to the reason why their memory cannot be cut. `on_call`, if set, hears of every call first.
    A machine stands still for `freeze_s` during a cut, its memory is written in `memory_s`, and it answers
    `wake_s` after it went on from one. `memory_room_bytes` is the space for files of memories.
    """

    clock: Clock
    boot_s: float = 3.0
    shut_down_s: float = 1.0
    freeze_s: float = 0.01
    memory_s: float = 1.0
    wake_s: float = 0.3
    memory_room_bytes: int = 1024**4
    deaf: set[str] = field(default_factory=set)
    stubborn: set[str] = field(default_factory=set)
    unforkable: dict[str, str] = field(default_factory=dict)  # by machine name
    bad_probes: set[str] = field(default_factory=set)
    seed_failures: dict[str, str] = field(default_factory=dict)  # by machine name
    faults: list[Fault] = field(default_factory=list)
    on_call: Callable[[str, str], None] | None = None
    machines: dict[MachineId, SimulatedMachine] = field(default_factory=dict)
    volumes: dict[VolumeId, VolumeView] = field(default_factory=dict)
    disks: Disks = field(default_factory=Disks)
    memories: dict[tuple[SnapshotId, MachineId], SimulatedMemory] = field(default_factory=dict)
    given_up: set[SnapshotId] = field(default_factory=set)  # cuts whose held machines never go on
    networks: dict[NetworkId, NetworkView] = field(default_factory=dict)
    ways_out: set[NetworkId] = field(default_factory=set)  # the networks that lead out
    intents: dict[NetworkId, list[Intent]] = field(default_factory=dict)  # of networks that record
    seeds: dict[MachineId, str] = field(default_factory=dict)
    images: dict[ImageId, ImageView] = field(default_factory=dict)
    tags: dict[str, ImageId] = field(default_factory=dict)
    moves: list[TagMove] = field(default_factory=list)
    documents: dict[tuple[str, str], dict[str, object]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)
    listeners: list[Callable[[MachineEvent], None]] = field(default_factory=list)
    boots: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    def call(self, name: str, subject: str = "") -> None:
        """Note a call; raises if a fault waits for it."""
        if self.on_call is not None:
            self.on_call(name, subject)
        with self.lock:
            for fault in self.faults:
                if fault.call == name and fault.subject in ("", subject) and fault.times > 0:
                    fault.times -= 1
                    raise fault.error

    def settle(self) -> None:
        """Let guests whose time has come shut down."""
        with self.lock:
            for machine in self.machines.values():
                due = machine.shuts_down_at
                if due is not None and due <= self.clock.now():
                    self.power_off(machine)

    def power_off(self, machine: SimulatedMachine) -> None:
        """End a guest, however it came about."""
        machine.power = Power.OFF
        machine.boot_id = ""
        machine.running_digest = ""
        machine.shuts_down_at = None
        machine.frozen = False
        machine.memory.clear()
        machine.in_use.clear()

    def plug_in(self, machine: SimulatedMachine) -> None:
        """Have it use the disks of its definition."""
        machine.in_use = {disk.serial: self.disks.chain(disk.path) for disk in machine.definition.disks}

    def boot(self, machine: SimulatedMachine) -> None:
        """Begin a boot: a new boot id, and silence until the guest is up."""
        self.boots += 1
        machine.power = Power.RUNNING
        machine.boot_id = f"boot-{self.boots}"
        machine.memory = {"boot": machine.boot_id}
        machine.answers_at = self.clock.now() + self.boot_s
        machine.console += f"boot {self.boots} of {machine.definition.machine.name}\r\n".encode()

    def wake(self, machine: SimulatedMachine, kept: SimulatedMemory) -> None:
        """A guest is back from a memory and stands still: a new boot id to the host, the same boot to itself."""
        self.boots += 1
        machine.power = Power.PAUSED
        machine.boot_id = f"boot-{self.boots}"
        machine.memory = dict(kept.content)
        machine.answers_at = self.clock.now() + self.wake_s

    # what guests do

    def write(self, machine_id: MachineId, serial: str, block: str, value: str) -> None:
        """A running guest writes a block of a disk."""
        with self.lock:
            machine = self.machines[machine_id]
            assert machine.power is Power.RUNNING, f"{machine.definition.machine.name} is {machine.power}"
            self.disks.layers[machine.in_use[serial][0]].blocks[block] = value

    def read(self, machine_id: MachineId, serial: str) -> dict[str, str]:
        """What a guest reads of a disk, by block."""
        with self.lock:
            return self.disks.content(self.machines[machine_id].in_use[serial][0])

    def content(self, volume_id: VolumeId) -> dict[str, str]:
        """What a volume holds, by block."""
        with self.lock:
            return self.disks.content(self.disks.volumes[volume_id].active)

    def attempt(
        self, network_id: NetworkId, kind: IntentKind, source: str, destination: str, port: int
    ) -> None:
        """A guest tries to reach the world; on a network that records, it is written down."""
        with self.lock:
            kept = self.intents.get(network_id)
            if kept is not None:
                kept.append(Intent(len(kept) + 1, self.clock.now(), kind, source, destination, port))

    # what a host does by itself

    def crash_machine(self, machine_id: MachineId) -> None:
        """The guest ends by itself."""
        with self.lock:
            machine = self.machines[machine_id]
            self.power_off(machine)
            machine.power = Power.CRASHED
        self._tell(MachineEvent(MachineEventKind.CRASHED, machine_id, "simulated"))

    def reset_machine(self, machine_id: MachineId) -> None:
        """The guest reboots from inside."""
        with self.lock:
            self.boot(self.machines[machine_id])
        self._tell(MachineEvent(MachineEventKind.RESET, machine_id))

    def reboot_host(self) -> None:
        """Everything that runs ends, networks and memories that need not last are gone; disks and files stay."""
        with self.lock:
            for machine in self.machines.values():
                self.power_off(machine)
            self.networks.clear()
            self.ways_out.clear()
            self.memories = {key: memory for key, memory in self.memories.items() if memory.lasting}
        self._tell(MachineEvent(MachineEventKind.CONNECTION_LOST, MachineId("")))

    def _tell(self, event: MachineEvent) -> None:
        for listener in list(self.listeners):
            listener(event)
