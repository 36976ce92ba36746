"""Which ports of machines are reached through a network's transit, and how. Pure.

A machine's ports are published through its first NIC. Between host and service namespace a connection goes to a
*transit port*; it is the host port unless two host addresses publish the same one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.systems.spec import Protocol, PublishSpec, ResolvedMachine, ResolvedNetwork, UplinkKind

ANY_ADDRESS = IPv4Address("0.0.0.0")
"""As a host address it stands for all the host's addresses."""

_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Publication:
    """One published port. `hides_client`: the machine sees the gateway instead of the client's address.

    It does where the machine would not send its answers back through this network: the network is no way
    out for it, or the machine has other NICs.
    """

    protocol: Protocol
    host_address: IPv4Address
    host_port: int
    transit_port: int
    machine_address: IPv4Address
    machine_port: int
    hides_client: bool

    def overlaps(self, other: Publication) -> bool:
        """Whether both claim the same port of the same host address."""
        return (self.protocol, self.host_port) == (other.protocol, other.host_port) and (
            self.host_address == other.host_address or ANY_ADDRESS in (self.host_address, other.host_address)
        )

    @property
    def label(self) -> str:
        """For messages: `127.0.0.1:8080/tcp`."""
        return f"{self.host_address}:{self.host_port}/{self.protocol}"


def publications(network: ResolvedNetwork, members: Iterable[ResolvedMachine]) -> tuple[Publication, ...]:
    """The ports that are published through `network`, in a fixed order; none of a fork's, into which nothing leads.

    Raises INVALID if a machine publishes through a network that leads onto a host bridge, CONFLICT if two
    claim the same port.
    """
    if network.spec.uplink is UplinkKind.RECORDED:
        return ()
    found: list[Publication] = []
    for machine, spec in sorted(_published(network, members), key=_order):
        if network.spec.uplink is UplinkKind.BRIDGE:
            raise OperationalError(
                Kind.INVALID,
                f"machine {machine.name}",
                f"cannot publish port {spec.machine_port}: its first NIC is on the host bridge"
                f" {network.spec.bridge}, where it is reached directly",
                "leave out `publish`, or make a network with another uplink its first",
            )
        publication = Publication(
            protocol=spec.protocol,
            host_address=spec.host_address,
            host_port=spec.host_port,
            transit_port=_transit_port(spec, found),
            machine_address=machine.nics[0].address,
            machine_port=spec.machine_port,
            hides_client=network.spec.uplink is UplinkKind.NONE or len(machine.nics) > 1,
        )
        for other in found:
            if publication.overlaps(other):
                raise OperationalError(
                    Kind.CONFLICT,
                    f"machine {machine.name}",
                    f"cannot publish {publication.label}: {other.label} is already published to"
                    f" {other.machine_address}",
                    "choose another host port",
                )
        found.append(publication)
    return tuple(found)


def _published(
    network: ResolvedNetwork, members: Iterable[ResolvedMachine]
) -> Iterable[tuple[ResolvedMachine, PublishSpec]]:
    for machine in members:
        if machine.nics and machine.nics[0].network_id == network.id:
            for spec in machine.spec.publish:
                yield machine, spec


def _order(entry: tuple[ResolvedMachine, PublishSpec]) -> tuple[str, int, int]:
    spec = entry[1]
    return (spec.protocol, spec.host_port, int(spec.host_address))


def _transit_port(spec: PublishSpec, earlier: Sequence[Publication]) -> int:
    used = {entry.transit_port for entry in earlier if entry.protocol == spec.protocol}
    port = spec.host_port
    while port in used:
        port = port % _LAST_PORT + 1
    return port
