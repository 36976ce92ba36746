"""The simulated host's state, its virtual clock and its faults, shared by all simulated ports."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from forkbed.base.errors import OperationalError
from forkbed.base.ids import ImageId, MachineId, NetworkId, VolumeId
from forkbed.core.systems.view import NetworkView, Power, VolumeView
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


@dataclass(slots=True)
class SimulatedMachine:
    """A machine. The guest can be reached, and its probes answer, from `answers_at` on."""

    definition: MachineDefinition
    power: Power = Power.OFF
    running_digest: str = ""
    boot_id: str = ""
    answers_at: float = 0.0
    shuts_down_at: float | None = None
    console: bytearray = field(default_factory=bytearray)
    setup_done: set[str] = field(default_factory=set)  # marks on its root volume


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
    those that do not shut down when asked, `bad_probes` commands whose probes never answer well. `on_call`, if
    set, hears of every call first.
    """

    clock: Clock
    boot_s: float = 3.0
    shut_down_s: float = 1.0
    deaf: set[str] = field(default_factory=set)
    stubborn: set[str] = field(default_factory=set)
    bad_probes: set[str] = field(default_factory=set)
    seed_failures: dict[str, str] = field(default_factory=dict)  # by machine name
    faults: list[Fault] = field(default_factory=list)
    on_call: Callable[[str, str], None] | None = None
    machines: dict[MachineId, SimulatedMachine] = field(default_factory=dict)
    volumes: dict[VolumeId, VolumeView] = field(default_factory=dict)
    networks: dict[NetworkId, NetworkView] = field(default_factory=dict)
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

    def boot(self, machine: SimulatedMachine) -> None:
        """Begin a boot: a new boot id, and silence until the guest is up."""
        self.boots += 1
        machine.power = Power.RUNNING
        machine.boot_id = f"boot-{self.boots}"
        machine.answers_at = self.clock.now() + self.boot_s
        machine.console += f"boot {self.boots} of {machine.definition.machine.name}\r\n".encode()

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
        """Everything that runs ends and every network is gone; definitions, disks and files stay."""
        with self.lock:
            for machine in self.machines.values():
                self.power_off(machine)
            self.networks.clear()
        self._tell(MachineEvent(MachineEventKind.CONNECTION_LOST, MachineId("")))

    def _tell(self, event: MachineEvent) -> None:
        for listener in list(self.listeners):
            listener(event)
