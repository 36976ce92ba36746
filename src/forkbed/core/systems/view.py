"""What was seen of a system on its host: facts without judgement, filled by the engine from the ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from forkbed.base.ids import MachineId, NetworkId, SystemId, VolumeId


class Power(StrEnum):
    """What the hypervisor says of a machine."""

    ABSENT = "absent"  # not even defined
    OFF = "off"
    RUNNING = "running"
    PAUSED = "paused"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class MachineView:
    """One machine as the hypervisor shows it.

    `definition_digest` is that of the persistent definition, `running_digest` that of the definition the
    guest was started with, both as written by `DefineMachine`. `boot_id` changes with every start of the
    guest and with every reset from inside; empty when it does not run. `ready_boot_id` and `ready_digest`
    tell which boot passed which set-up and readiness (see `planner.readiness_digest`).
    """

    machine_id: MachineId
    power: Power
    name: str = ""  # in its system
    definition_digest: str = ""
    running_digest: str = ""
    boot_id: str = ""
    ready_boot_id: str = ""
    ready_digest: str = ""
    seed_digest: str = ""


@dataclass(frozen=True, slots=True)
class VolumeView:
    volume_id: VolumeId
    system_id: SystemId
    size_bytes: int
    machine_id: MachineId
    machine_name: str
    name: str
    backing: str = ""  # image id of a root volume


@dataclass(frozen=True, slots=True)
class NetworkView:
    """`digest` is what `EnsureNetwork` last completed with; `healthy`: all its parts are there and run."""

    network_id: NetworkId
    system_id: SystemId
    digest: str
    healthy: bool


@dataclass(frozen=True, slots=True)
class SystemView:
    machines: Mapping[MachineId, MachineView] = field(default_factory=dict)
    volumes: Mapping[VolumeId, VolumeView] = field(default_factory=dict)
    networks: Mapping[NetworkId, NetworkView] = field(default_factory=dict)

    def machine(self, machine_id: MachineId) -> MachineView:
        """The view of that machine; one that says `ABSENT` if the host has none."""
        return self.machines.get(machine_id) or MachineView(machine_id, Power.ABSENT)
