"""Machines, networks and definitions for the drivers' tests."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from forkbed.base.ids import ImageId, MachineId, NetworkId, SystemId, VolumeId
from forkbed.core.systems.spec import (
    MachineSpec,
    NetworkSpec,
    ResolvedMachine,
    ResolvedNetwork,
    ResolvedNic,
    ResolvedVolume,
    VolumeSpec,
)
from forkbed.ports.hypervisor import DiskAttachment, MachineDefinition, NicAttachment

MEBIBYTE = 1024**2
IMAGE = ImageId("ab" * 32)


def network(name: str = "lan", subnet: str = "10.20.0.0/24") -> ResolvedNetwork:
    network_id = NetworkId(f"net{name}")
    return ResolvedNetwork(
        id=network_id,
        lineage_id=network_id,
        spec=NetworkSpec(name, IPv4Network(subnet)),
        gateway=IPv4Network(subnet)[1],
        transit=None,
    )


def machine(name: str = "boss", *, number: int = 1, data: bool = True, **spec: object) -> ResolvedMachine:
    """A machine with a root volume and, unless `data` is False, a data volume mounted on /srv/data."""
    volumes = (VolumeSpec("data", 64 * MEBIBYTE, "/srv/data"),) if data else ()
    machine_spec = MachineSpec(name, "micro", cpus=1, memory_bytes=128 * MEBIBYTE, volumes=volumes)
    machine_spec = replace(machine_spec, **spec)  # type: ignore[arg-type]
    root = ResolvedVolume(VolumeId(f"root{number}"), "root", 256 * MEBIBYTE, IMAGE)
    return ResolvedMachine(
        id=MachineId(f"mach{number}"),
        spec=machine_spec,
        image_id=IMAGE,
        nics=(
            ResolvedNic(
                NetworkId("netlan"),
                IPv4Address(f"10.20.0.{9 + number}"),
                f"52:54:00:00:00:{number:02x}",
                f"fbt0st0000000{number:x}",
            ),
        ),
        volumes=(
            root,
            *(
                ResolvedVolume(VolumeId(f"{v.name}{number}"), v.name, v.size_bytes, None, v.mount)
                for v in volumes
            ),
        ),
        instance_id=f"instance-{number}",
        generation_uuid=f"11111111-2222-4333-8444-{number:012x}",
        uuid=f"99999999-2222-4333-8444-{number:012x}",
    )


def definition(of: ResolvedMachine | None = None, *, digest: str = "d1") -> MachineDefinition:
    resolved = of or machine()
    disks = [
        DiskAttachment(
            "root", "/state/volumes/root1.qcow2", "qcow2", chain=(("/state/images/ab.raw", "raw"),)
        ),
        DiskAttachment("seed", "/state/seeds/mach1.iso", "raw", read_only=True),
    ]
    disks += [
        DiskAttachment(f"vol-{volume.name}", f"/state/volumes/{volume.id}.qcow2", "qcow2")
        for volume in resolved.volumes[1:]
    ]
    return MachineDefinition(
        system_id=SystemId("sys1"),
        system_name="boss-ops",
        revision=3,
        machine=resolved,
        disks=tuple(disks),
        nics=tuple(NicAttachment("fbt0stbr", nic.tap, nic.mac, 1442) for nic in resolved.nics),
        digest=digest,
    )
