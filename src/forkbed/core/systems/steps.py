"""The steps by which a system reaches its goal: small values, taken apart with `match`.

Each step is idempotent where it is carried out: done again it answers ALREADY. `key` names it in the
journal and stays the same when the same step is planned again after a crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from forkbed.base.ids import MachineId, NetworkId, VolumeId
from forkbed.core.systems.goal import MemoryRef
from forkbed.core.systems.spec import ResolvedMachine, ResolvedNetwork, ResolvedVolume


class Effect(StrEnum):
    """What carrying out a step came to."""

    CHANGED = "changed"
    ALREADY = "already"


@dataclass(frozen=True, slots=True)
class EnsureNetwork:
    """Make bridge, service namespace, filters, DHCP, DNS, uplink and published ports as declared."""

    network: ResolvedNetwork
    members: tuple[ResolvedMachine, ...]  # every machine with a NIC on it
    digest: str


@dataclass(frozen=True, slots=True)
class RemoveNetwork:
    """`name` is the network's in its system, or its id if it is not declared any more."""

    network_id: NetworkId
    name: str


@dataclass(frozen=True, slots=True)
class CreateVolume:
    volume: ResolvedVolume
    machine: ResolvedMachine


@dataclass(frozen=True, slots=True)
class GrowVolume:
    volume: ResolvedVolume
    machine: ResolvedMachine


@dataclass(frozen=True, slots=True)
class RemoveVolume:
    """Destroys the volume's data. Planned only where the goal allows it by name."""

    volume_id: VolumeId
    machine_name: str
    volume_name: str


@dataclass(frozen=True, slots=True)
class WriteSeed:
    """Write the disk from which the guest takes its name, keys and files."""

    machine: ResolvedMachine
    digest: str


@dataclass(frozen=True, slots=True)
class DefineMachine:
    machine: ResolvedMachine
    digest: str


@dataclass(frozen=True, slots=True)
class UndefineMachine:
    """Remove the machine's definition, seed and logs from the host; it must not run."""

    machine_id: MachineId
    name: str


@dataclass(frozen=True, slots=True)
class StartMachine:
    machine: ResolvedMachine


@dataclass(frozen=True, slots=True)
class RestoreMachine:
    """Bring the machine back from a memory, on volumes made anew from their origins. It stands still at first."""

    machine: ResolvedMachine
    memory: MemoryRef


@dataclass(frozen=True, slots=True)
class StopMachine:
    """Ask the guest to shut down and wait `timeout_s`, then end it. Ends at once when `timeout_s` is 0."""

    machine_id: MachineId
    name: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class PauseMachine:
    machine_id: MachineId
    name: str


@dataclass(frozen=True, slots=True)
class ResumeMachine:
    machine_id: MachineId
    name: str


@dataclass(frozen=True, slots=True)
class AwakenMachine:
    """Let a machine go on that came back from a memory, and have its guest notice that time has passed."""

    machine: ResolvedMachine


@dataclass(frozen=True, slots=True)
class AwaitReady:
    """Wait until the guest can be reached, run its set-up commands, then wait for its `ready` probes."""

    machine: ResolvedMachine
    boot_id: str
    digest: str


@dataclass(frozen=True, slots=True)
class CheckMachine:
    """Ask the machine's `checks`, when all is as wanted: does it do its work?"""

    machine: ResolvedMachine


Step = (
    EnsureNetwork
    | RemoveNetwork
    | CreateVolume
    | GrowVolume
    | RemoveVolume
    | WriteSeed
    | DefineMachine
    | UndefineMachine
    | StartMachine
    | RestoreMachine
    | StopMachine
    | PauseMachine
    | ResumeMachine
    | AwakenMachine
    | AwaitReady
    | CheckMachine
)


def step_verb(step: Step) -> str:
    """What the step is called on screen and in the journal: `start`, `create-volume`, …"""
    return _VERBS[type(step)]


_VERBS: dict[type, str] = {
    EnsureNetwork: "network",
    RemoveNetwork: "remove-network",
    CreateVolume: "create-volume",
    GrowVolume: "grow-volume",
    RemoveVolume: "remove-volume",
    WriteSeed: "seed",
    DefineMachine: "define",
    UndefineMachine: "undefine",
    StartMachine: "start",
    RestoreMachine: "restore",
    StopMachine: "stop",
    PauseMachine: "pause",
    ResumeMachine: "resume",
    AwakenMachine: "awaken",
    AwaitReady: "ready",
    CheckMachine: "check",
}


def step_subject(step: Step) -> str:
    """What the step is about: a machine's or network's name, `boss/data` for a volume."""
    match step:
        case EnsureNetwork(network=network):
            return network.spec.name
        case RemoveNetwork(name=name):
            return name
        case CreateVolume(volume=volume, machine=machine) | GrowVolume(volume=volume, machine=machine):
            return f"{machine.name}/{volume.name}"
        case RemoveVolume(machine_name=machine_name, volume_name=volume_name):
            return f"{machine_name}/{volume_name}"
        case (
            WriteSeed()
            | DefineMachine()
            | StartMachine()
            | RestoreMachine()
            | AwakenMachine()
            | AwaitReady()
            | CheckMachine()
        ):
            return step.machine.name
        case UndefineMachine() | StopMachine() | PauseMachine() | ResumeMachine():
            return step.name


def step_machine(step: Step) -> str | None:
    """The name of the machine that the step is about; None for a network's step."""
    match step:
        case EnsureNetwork() | RemoveNetwork():
            return None
        case RemoveVolume(machine_name=machine_name):
            return machine_name
        case CreateVolume(machine=machine) | GrowVolume(machine=machine):
            return machine.name
    return step_subject(step)


def step_key(step: Step) -> str:
    """The step's name in the journal: verb and subject."""
    return f"{step_verb(step)} {step_subject(step)}"
