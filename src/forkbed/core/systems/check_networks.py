"""What must fit together in a system's networks: subnets, addresses, MACs, published ports. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from forkbed.base.errors import Problem
from forkbed.base.words import quoted, suggest
from forkbed.core.networks.addresses import LARGEST_PREFIX, SMALLEST_PREFIX, gateway_of, usable_addresses
from forkbed.core.systems.spec import (
    MachineSpec,
    NetworkSpec,
    NicSpec,
    ProbeKind,
    Protocol,
    SystemSpec,
    UplinkKind,
)

MAX_NICS = 8

_ANY = IPv4Address("0.0.0.0")
_UNUSABLE = (
    (IPv4Network("0.0.0.0/8"), "means this host"),
    (IPv4Network("127.0.0.0/8"), "is for loopback"),
    (IPv4Network("169.254.0.0/16"), "is for link-local addresses"),
    (IPv4Network("224.0.0.0/4"), "is for multicast"),
    (IPv4Network("240.0.0.0/4"), "is reserved"),
)


@dataclass(frozen=True, slots=True)
class Unread:
    """Parts of a document that could not be read: nothing is said of what is missing because of that.

    `networks` are names that exist although the spec lacks them, `machines` those that are incomplete or missing.
    """

    networks: frozenset[str] = frozenset()
    machines: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Place:
    """A NIC and where it stands in the manifest."""

    machine: MachineSpec
    index: int
    nic: NicSpec

    def path(self, key: str) -> tuple[str | int, ...]:
        return ("machines", self.machine.name, "nics", self.index, key)


def check_networks(spec: SystemSpec, unread: Unread) -> Iterator[Problem]:
    """All that is wrong with the networks of a system and with what its machines say of them."""
    networks = {network.name: network for network in spec.networks}
    yield from _subnets(spec.networks)
    nics: dict[str, list[_Place]] = defaultdict(list)
    for machine in spec.machines:
        complete = machine.name not in unread.machines
        if len(machine.nics) > MAX_NICS:
            path = ("machines", machine.name, "nics")
            yield Problem(path, f"{len(machine.nics)} NICs are too many", f"at most {MAX_NICS}")
        for index, nic in enumerate(machine.nics):
            place = _Place(machine, index, nic)
            if nic.network in networks:
                nics[nic.network].append(place)
            elif nic.network not in unread.networks and nic.network:
                known = {*networks, *unread.networks}
                right = suggest(nic.network, sorted(known)) or "declare it under `networks:`"
                yield Problem(place.path("network"), f"there is no network {quoted(nic.network)}", right)
        if complete and not machine.nics:
            yield from _without_nic(machine)
        if complete and machine.nics and machine.publish:
            yield from _publish_needs_own_network(machine, networks)
    for name, places in nics.items():
        yield from _addresses(networks[name], places)
        yield from _macs(networks[name], places)
    yield from _published_twice(spec)


def _subnets(networks: tuple[NetworkSpec, ...]) -> Iterator[Problem]:
    for network in networks:
        path = ("networks", network.name, "subnet")
        subnet = network.subnet
        for unusable, why in _UNUSABLE:
            if subnet.overlaps(unusable):
                yield Problem(
                    path, f"{subnet} cannot be used: {unusable} {why}", "a private one such as 10.1.0.0/24"
                )
                break
        if not SMALLEST_PREFIX <= subnet.prefixlen <= LARGEST_PREFIX:
            size = "small" if subnet.prefixlen > LARGEST_PREFIX else "large"
            yield Problem(
                path, f"{subnet} is too {size}", f"a prefix length from {SMALLEST_PREFIX} to {LARGEST_PREFIX}"
            )
    widest: NetworkSpec | None = None  # the one that reaches furthest of those that begin before
    for network in sorted(
        networks, key=lambda network: (network.subnet.network_address, network.subnet.prefixlen)
    ):
        if widest is not None and widest.subnet.overlaps(network.subnet):
            path = ("networks", network.name, "subnet")
            wrong = f"{network.subnet} overlaps {widest.subnet} of the network `{widest.name}`"
            yield Problem(path, wrong, "subnets of a system must not overlap")
        if widest is None or network.subnet.broadcast_address > widest.subnet.broadcast_address:
            widest = network


def _addresses(network: NetworkSpec, places: list[_Place]) -> Iterator[Problem]:
    subnet = network.subnet
    seen: dict[IPv4Address, str] = {}
    own = gateway_of(subnet)
    room = len(usable_addresses(subnet))
    for place in places:
        address = place.nic.address
        if address is None:
            continue
        path = place.path("address")
        usable = f"one from {own + 1} to {subnet.broadcast_address - 1}"
        if address not in subnet:
            yield Problem(path, f"{address} is not in {subnet} of the network `{network.name}`", usable)
        elif address in (subnet.network_address, subnet.broadcast_address):
            what = "network" if address == subnet.network_address else "broadcast"
            yield Problem(path, f"{address} is the {what} address of {subnet}", usable)
        elif address == own:
            yield Problem(path, f"{address} is the gateway of the network `{network.name}`", usable)
        elif address in seen:
            yield Problem(
                path, f"{address} belongs to the machine `{seen[address]}` already", "choose another"
            )
        seen.setdefault(address, place.machine.name)
    if len(places) > room:
        wrong = f"{subnet} has {room} addresses for machines, and {len(places)} NICs are on it"
        yield Problem(("networks", network.name, "subnet"), wrong, "choose a larger subnet")


def _macs(network: NetworkSpec, places: list[_Place]) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for place in places:
        mac = place.nic.mac
        if mac is None:
            continue
        path = place.path("mac")
        if int(mac[:2], 16) & 1:
            yield Problem(
                path, f"{mac} is a group address", "the second digit must be even, as in 52:54:00:12:34:56"
            )
        elif mac == "00:00:00:00:00:00":
            yield Problem(path, "all zeros is no address", "such as 52:54:00:12:34:56")
        elif mac in seen:
            wrong = f"{mac} belongs to the machine `{seen[mac]}` on the network `{network.name}` already"
            yield Problem(path, wrong, "choose another")
        seen.setdefault(mac, place.machine.name)


def _without_nic(machine: MachineSpec) -> Iterator[Problem]:
    """What needs a network, on a machine that has none."""
    path = ("machines", machine.name)
    if machine.publish:
        yield Problem((*path, "publish"), "the machine is on no network", "give it a NIC, or remove this")
    for section, probes in (("ready", machine.ready), ("checks", machine.checks)):
        for index, probe in enumerate(probes):
            if probe.kind is not ProbeKind.EXEC:
                wrong = f"a probe of kind {probe.kind} needs a network, and the machine is on none"
                yield Problem((*path, section, index), wrong, "give it a NIC, or use `exec`")


def _publish_needs_own_network(machine: MachineSpec, networks: dict[str, NetworkSpec]) -> Iterator[Problem]:
    """Ports are published on the first NIC's network, through Forkbed's gateway; a host bridge goes around that."""
    first = machine.nics[0].network
    if first in networks and networks[first].uplink is UplinkKind.BRIDGE:
        wrong = f"the network `{first}` of its first NIC is joined to a host bridge, nothing can be published there"
        right = "reach the machine at its own address, or put it on a network with uplink `nat` or `none`"
        yield Problem(("machines", machine.name, "publish"), wrong, right)


def _published_twice(spec: SystemSpec) -> Iterator[Problem]:
    taken: dict[tuple[Protocol, int], list[tuple[IPv4Address, str]]] = defaultdict(list)
    for machine in spec.machines:
        for index, item in enumerate(machine.publish):
            others = taken[item.protocol, item.host_port]
            for address, name in others:
                if address == item.host_address or _ANY in (address, item.host_address):
                    port = f"{item.protocol} port {item.host_port} of the host"
                    path = ("machines", machine.name, "publish", index)
                    yield Problem(
                        path, f"{port} leads to the machine `{name}` already", "choose another host port"
                    )
                    break
            others.append((item.host_address, machine.name))
