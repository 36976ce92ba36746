"""Machines on one host: define, start, stop, look. Implemented with libvirt and by the simulated host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self

from forkbed.base.ids import MachineId, SystemId
from forkbed.core.systems.spec import ResolvedMachine
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import Power


@dataclass(frozen=True, slots=True)
class DiskAttachment:
    """A disk of a machine, in the order of the guest's bus. `chain` lists backing files, top first."""

    serial: str  # "root", "seed", "vol-NAME"
    path: str
    format: str  # "qcow2" or "raw"
    read_only: bool = False
    chain: tuple[tuple[str, str], ...] = ()  # (path, format) of each backing layer


@dataclass(frozen=True, slots=True)
class NicAttachment:
    """A NIC of a machine. `bridge` is the host's bridge, `tap` the name the host's end gets."""

    bridge: str
    tap: str
    mac: str
    mtu: int


@dataclass(frozen=True, slots=True)
class MachineDefinition:
    """All that the hypervisor must know of a machine. `digest` is stored with it and shown in the view."""

    system_id: SystemId
    system_name: str
    revision: int
    machine: ResolvedMachine
    disks: tuple[DiskAttachment, ...]
    nics: tuple[NicAttachment, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class HypervisorMachine:
    """One machine that bears the installation's id, as the hypervisor shows it now."""

    machine_id: MachineId
    system_id: SystemId
    name: str  # of the machine in its system
    power: Power
    definition_digest: str
    running_digest: str
    boot_id: str  # changes with every start and every reset from inside; "" when not running


class MachineEventKind(StrEnum):
    STARTED = "started"
    STOPPED = "stopped"
    CRASHED = "crashed"
    PAUSED = "paused"
    RESUMED = "resumed"
    RESET = "reset"
    IO_ERROR = "io-error"
    CONNECTION_LOST = "connection-lost"  # machine_id is empty: look at everything again


@dataclass(frozen=True, slots=True)
class MachineEvent:
    kind: MachineEventKind
    machine_id: MachineId
    detail: str = ""


class ConsoleStream(Protocol):
    """An open serial console: bytes both ways. A context manager: leaving it closes the stream."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def read(self, timeout_s: float) -> bytes | None:
        """Bytes the guest wrote; b"" when nothing came in time; None when the console ended."""

    def write(self, data: bytes) -> None: ...


class Hypervisor(Protocol):
    """Every call names machines by Forkbed's ids; machines of other installations are never touched."""

    def machines(self) -> Sequence[HypervisorMachine]:
        """All machines of this installation, running or only defined."""

    def machine(self, machine_id: MachineId) -> HypervisorMachine | None:
        """One of `machines`; None if it is not defined."""

    def power(self, machine_id: MachineId) -> Power:
        """What the machine does, ABSENT if it is not defined: less work than `machine`, and nothing else."""

    def define(self, definition: MachineDefinition) -> Effect:
        """Write the persistent definition; a running machine keeps its own until it is started again."""

    def undefine(self, machine_id: MachineId) -> Effect:
        """Remove the definition and the machine's console log. Refused (CONFLICT) while it runs."""

    def start(self, machine_id: MachineId) -> Effect:
        """Start from the persistent definition. A FAULT carries the end of QEMU's log and of the console."""

    def shut_down(self, machine_id: MachineId) -> Effect:
        """Ask the guest to shut down (agent, else ACPI); returns at once. A paused guest is resumed to hear it."""

    def force_off(self, machine_id: MachineId) -> Effect:
        """End the machine at once, as if its plug was pulled."""

    def pause(self, machine_id: MachineId) -> Effect: ...

    def resume(self, machine_id: MachineId) -> Effect: ...

    def open_console(self, machine_id: MachineId) -> ConsoleStream:
        """The serial console. A second opening takes it over from the first."""

    def console_log(self, machine_id: MachineId, *, tail_bytes: int | None = None) -> bytes:
        """What the guest wrote to its serial console; the oldest output may be rotated away."""

    def watch(self, listener: Callable[[MachineEvent], None]) -> Callable[[], None]:
        """Call `listener` (from any thread) for what happens by itself; returns what ends the watching."""

    def description(self) -> dict[str, str]:
        """Versions and acceleration, for `doctor`, `version` and `show`."""
