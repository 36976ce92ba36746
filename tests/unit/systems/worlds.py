"""Small systems and a world of plain values in which steps can be carried out, for tests of the planner."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network

from forkbed.base.ids import ImageId, MachineId, NetworkId, SystemId, VolumeId
from forkbed.core.systems import digests
from forkbed.core.systems.planner import ALIVE
from forkbed.core.systems.spec import (
    MachineSpec,
    NetworkSpec,
    NicSpec,
    ResolvedMachine,
    ResolvedNetwork,
    ResolvedNic,
    ResolvedSystem,
    ResolvedVolume,
    SetupSpec,
)
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
)
from forkbed.core.systems.view import MachineView, NetworkView, Power, SystemView, VolumeView

SYSTEM = SystemId("s1")
NETWORK = NetworkId("n1")


def machine(
    name: str,
    *,
    after: tuple[str, ...] = (),
    memory_bytes: int = 1 << 28,
    image: str = "a",
    data_bytes: int | None = 1 << 20,
    setup: tuple[str, ...] = (),
) -> ResolvedMachine:
    """A resolved machine whose ids follow from its name and image, so that an image change renames its disk."""
    address = IPv4Address("10.0.0.10") + sum(map(ord, name)) % 100
    mac = f"52:54:00:00:00:{int(address) % 256:02x}"
    volumes = [ResolvedVolume(VolumeId(f"v-{name}-root-{image}"), "root", 1 << 24, ImageId(image))]
    if data_bytes is not None:
        volumes.append(ResolvedVolume(VolumeId(f"v-{name}-data"), "data", data_bytes))
    spec = MachineSpec(
        name=name,
        image=image,
        cpus=1,
        memory_bytes=memory_bytes,
        nics=(NicSpec("net"),),
        after=after,
        setup=tuple(SetupSpec(command) for command in setup),
    )
    return ResolvedMachine(
        id=MachineId(f"m-{name}"),
        spec=spec,
        image_id=ImageId(image),
        nics=(ResolvedNic(NETWORK, address, mac, f"fb{name}"),),
        volumes=tuple(volumes),
        instance_id=f"i-{name}",
        generation_uuid="g",
        uuid=f"u-{name}",
    )


def system(*machines: ResolvedMachine) -> ResolvedSystem:
    spec = NetworkSpec("net", IPv4Network("10.0.0.0/24"))
    network = ResolvedNetwork(NETWORK, NETWORK, spec, IPv4Address("10.0.0.1"), None)
    return ResolvedSystem(SYSTEM, "demo", 1, (network,), machines)


@dataclass
class World:
    """What is on the host; `do` carries out a step and checks what may never happen."""

    machines: dict[MachineId, MachineView] = field(default_factory=dict)
    volumes: dict[VolumeId, VolumeView] = field(default_factory=dict)
    networks: dict[NetworkId, NetworkView] = field(default_factory=dict)
    boots: int = 0
    stopped: list[str] = field(default_factory=list)
    destroyed: list[str] = field(default_factory=list)
    awake: list[str] = field(default_factory=list)

    def view(self) -> SystemView:
        return SystemView(dict(self.machines), dict(self.volumes), dict(self.networks))

    def _seen(self, machine_id: MachineId) -> MachineView:
        return self.machines.get(machine_id) or MachineView(machine_id, Power.ABSENT)

    def do(self, declared: ResolvedSystem, step: Step) -> None:
        match step:
            case EnsureNetwork(network=network, digest=digest):
                self.networks[network.id] = NetworkView(network.id, declared.id, digest, True)
            case RemoveNetwork(network_id=network_id):
                assert not any(seen.power in ALIVE for seen in self.machines.values())
                del self.networks[network_id]
            case CreateVolume(volume=volume, machine=owner):
                assert volume.id not in self.volumes
                self._put_volume(declared, owner, volume)
            case GrowVolume(volume=volume, machine=owner):
                assert self._seen(owner.id).power not in ALIVE
                assert self.volumes[volume.id].size_bytes < volume.size_bytes
                self._put_volume(declared, owner, volume)
            case RemoveVolume(volume_id=volume_id):
                gone = self.volumes.pop(volume_id)
                self.destroyed.append(f"{gone.machine_name}/{gone.name}")
            case WriteSeed(machine=owner, digest=digest):
                seen = replace(self._seen(owner.id), name=owner.name, seed_digest=digest)
                self.machines[owner.id] = seen
            case DefineMachine(machine=owner, digest=digest):
                assert all(volume.id in self.volumes for volume in owner.volumes)
                seen = self._seen(owner.id)
                power = Power.OFF if seen.power is Power.ABSENT else seen.power
                self.machines[owner.id] = replace(
                    seen, name=owner.name, power=power, definition_digest=digest
                )
            case StartMachine(machine=owner):
                self._start(declared, owner)
            case RestoreMachine(machine=owner):
                self._restore(declared, owner)
            case AwakenMachine(machine=owner):
                seen = self.machines[owner.id]
                assert seen.power is Power.PAUSED
                self.machines[owner.id] = replace(seen, power=Power.RUNNING)
                self.awake.append(owner.name)
            case StopMachine(machine_id=machine_id, name=name):
                seen = self.machines[machine_id]
                assert seen.power in ALIVE
                self.stopped.append(name)
                self.machines[machine_id] = replace(seen, power=Power.OFF, boot_id="", running_digest="")
            case PauseMachine(machine_id=machine_id):
                self.machines[machine_id] = replace(self.machines[machine_id], power=Power.PAUSED)
            case ResumeMachine(machine_id=machine_id):
                self.machines[machine_id] = replace(self.machines[machine_id], power=Power.RUNNING)
            case AwaitReady(machine=owner, boot_id=boot_id, digest=digest):
                seen = self.machines[owner.id]
                assert seen.power is Power.RUNNING
                self.machines[owner.id] = replace(seen, ready_boot_id=boot_id, ready_digest=digest)
            case CheckMachine():
                raise AssertionError("checks are no part of a plan")
            case UndefineMachine(machine_id=machine_id):
                assert self.machines[machine_id].power not in ALIVE
                del self.machines[machine_id]

    def _put_volume(self, declared: ResolvedSystem, owner: ResolvedMachine, volume: ResolvedVolume) -> None:
        self.volumes[volume.id] = VolumeView(
            volume.id, declared.id, volume.size_bytes, owner.id, owner.name, volume.name
        )

    def _restore(self, declared: ResolvedSystem, owner: ResolvedMachine) -> None:
        """It defines the machine, too; what came back from the same cut does not run yet."""
        seen = self._seen(owner.id)
        assert seen.power not in ALIVE and not self.awake
        assert all(volume.id in self.volumes for volume in owner.volumes)
        assert all(nic.network_id in self.networks for nic in owner.nics)
        digest = digests.definition_digest(declared, owner)
        self.boots += 1
        self.machines[owner.id] = replace(
            seen,
            name=owner.name,
            power=Power.PAUSED,
            boot_id=f"b{self.boots}",
            definition_digest=digest,
            running_digest=digest,
        )

    def _start(self, declared: ResolvedSystem, owner: ResolvedMachine) -> None:
        seen = self.machines[owner.id]
        assert seen.power in (Power.OFF, Power.CRASHED)
        assert seen.definition_digest == digests.definition_digest(declared, owner)
        assert all(nic.network_id in self.networks for nic in owner.nics)
        for name in owner.spec.after:
            other = declared.machine(name)
            other_seen = self.machines[other.id]
            assert other_seen.power is Power.RUNNING, f"{owner.name} started before {name} ran"
            assert other_seen.ready_boot_id == other_seen.boot_id
        self.boots += 1
        self.machines[owner.id] = replace(
            seen,
            power=Power.RUNNING,
            boot_id=f"b{self.boots}",
            running_digest=seen.definition_digest,
        )
