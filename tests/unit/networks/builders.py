"""Small networks and machines for the tests of networks."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from forkbed.base.ids import ImageId, InstallationId, MachineId, NetworkId
from forkbed.core.networks.addresses import derive_mac, gateway_of
from forkbed.core.networks.names import tap_name
from forkbed.core.systems.spec import (
    Ipv6Policy,
    MachineSpec,
    NetworkSpec,
    NicSpec,
    PublishSpec,
    ResolvedMachine,
    ResolvedNetwork,
    ResolvedNic,
    UplinkKind,
)

INSTALLATION = InstallationId("t1st")


def network(
    identity: str = "net1",
    *,
    subnet: str = "10.20.0.0/24",
    uplink: UplinkKind = UplinkKind.NONE,
    bridge: str = "",
    ipv6: Ipv6Policy = Ipv6Policy.BLOCK,
    transit: str | None = None,
    name: str = "inside",
    lineage: str = "net1",
) -> ResolvedNetwork:
    parsed = IPv4Network(subnet)
    return ResolvedNetwork(
        id=NetworkId(identity),
        lineage_id=NetworkId(lineage),
        spec=NetworkSpec(name, parsed, uplink, bridge, ipv6),
        gateway=gateway_of(parsed),
        transit=IPv4Network(transit) if transit else None,
    )


def machine(
    name: str,
    *networks: tuple[ResolvedNetwork, str],
    publish: tuple[PublishSpec, ...] = (),
    identity: str = "",
    declared: bool = False,
) -> ResolvedMachine:
    """A machine with one NIC for each (network, address); `declared`: the manifest names the addresses."""
    machine_id = MachineId(identity or f"m-{name}")
    nics = tuple(
        ResolvedNic(
            network_id=net.id,
            address=IPv4Address(address),
            mac=derive_mac(net.lineage_id, IPv4Address(address)),
            tap=tap_name(INSTALLATION, machine_id, index),
        )
        for index, (net, address) in enumerate(networks)
    )
    return ResolvedMachine(
        id=machine_id,
        spec=MachineSpec(
            name=name,
            image="micro",
            cpus=1,
            memory_bytes=128 << 20,
            nics=tuple(
                NicSpec(net.spec.name, IPv4Address(address) if declared else None)
                for net, address in networks
            ),
            publish=publish,
        ),
        image_id=ImageId("0" * 64),
        nics=nics,
        volumes=(),
        instance_id=machine_id,
        generation_uuid="",
        uuid="",
    )
