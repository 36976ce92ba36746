"""One network's own bridge, and its service namespace or its port to a bridge of the host: made, seen, taken away.

A network has the one or the other. Whichever it had before goes first: what its filters know no more is silent already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from forkbed.base.ids import InstallationId, NetworkId
from forkbed.core.networks import names
from forkbed.core.networks.addresses import derive_mac
from forkbed.core.networks.publications import ANY_ADDRESS
from forkbed.core.systems.spec import ResolvedNetwork
from forkbed.drivers.networks import dnsmasq, namespaces, nft, service_rules
from forkbed.drivers.networks.announcing import announce
from forkbed.drivers.networks.filters import GuestPort
from forkbed.drivers.networks.keeper import Keeper, Program
from forkbed.drivers.networks.links import Link, Links, ensure_sysctl
from forkbed.drivers.networks.recorder import program
from forkbed.drivers.networks.records import Record
from forkbed.drivers.networks.uplink_port import UplinkPort

_SERVICE_RULES = "service.nft"
_ANY_MAC = "any-mac.nft"
_TRANSIT_MTU = 1500
_SERVICE_SYSCTLS = {
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
    # What a guest can make the kernel remember of connections to a recorder that are over.
    "ipv4/tcp_max_tw_buckets": "4096",
    # Addresses are checked by the rules.
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    # Nor are guests told of shorter ways.
    "ipv4/conf/all/arp_announce": "2",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    "ipv4/conf/all/accept_redirects": "0",
}
# A guest that stands still answers nothing, and clients are to wait for it as for one that is slow: ask for its address
# each second for as long as TCP tries to connect. Interfaces of a namespace take this from no default.
_ASK_INSIDE = (f"ipv4/neigh/{service_rules.INSIDE}/mcast_solicit", "130")


@dataclass(frozen=True, slots=True)
class Outside:
    """What leads to a fork's recorder, which runs with `settings`: every destination that is not `inside`.

    `is_shared`: the original's segment is somebody else's, so guests may know a router that is not there. With
    `only_reaches` these addresses alone are machines of the subnet, and the gateway answers for all others.
    """

    inside: tuple[IPv4Network, ...]
    is_shared: bool
    only_reaches: tuple[IPv4Address, ...]
    settings: str


@dataclass(frozen=True, slots=True)
class SegmentSpec:
    """How a segment with a service namespace is to be.

    `dnsmasq_files` are those of `dnsmasq.render_files`. `outside` is a fork's.
    """

    record: Record
    network: ResolvedNetwork
    transit_pool: IPv4Network
    mtu: int
    dnsmasq_files: Mapping[str, str]
    outside: Outside | None = None


@dataclass(frozen=True, slots=True)
class BridgedSpec:
    """How a segment that leads to a bridge of the host is to be.

    `was_interrupted`: whoever began this before may not have come to announcing the guests.
    """

    host_bridge: str
    network: ResolvedNetwork
    mtu: int
    guests: Sequence[GuestPort]
    was_interrupted: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """The parts of one network on this host, by name; `directory` holds its files."""

    installation: InstallationId
    network_id: NetworkId
    directory: Path

    @property
    def bridge(self) -> str:
        return names.bridge_name(self.installation, self.network_id)

    @property
    def service_port(self) -> str:
        return names.service_port_name(self.installation, self.network_id)

    @property
    def transit(self) -> str:
        return names.transit_name(self.installation, self.network_id)

    @property
    def namespace(self) -> str:
        return names.namespace_name(self.installation, self.network_id)

    @property
    def uplink(self) -> UplinkPort:
        return UplinkPort.of(self.installation, self.network_id)

    def ensure(self, spec: SegmentSpec) -> bool:
        """Make what is missing and correct what differs; returns whether there was anything."""
        path = namespaces.path_of(self.namespace)
        with Links() as links:
            changed = self.uplink.ensure_absent(links)
        changed |= namespaces.ensure(self.namespace)
        recorder, is_begun = self._recorder(spec.record.label), False
        if spec.outside is None:
            changed |= recorder.ensure_absent()
        else:  # first, since it takes the longest to start
            is_begun = recorder.begin({program.SETTINGS: spec.outside.settings})
        changed |= namespaces.run_inside(path, lambda: _ensure_sysctls(spec))
        changed |= self._ensure_host_links(spec, namespaces.run_inside(path, _indices))
        changed |= namespaces.run_inside(path, lambda: self._ensure_inside(spec))
        changed |= self._dnsmasq(spec.record.label).ensure(spec.dnsmasq_files)
        with Links() as links:  # last: by now the kernel knows, but for those that somebody made who died
            links.await_carrier(self.service_port, *([self.transit] if spec.record.transit else []))
        if is_begun:
            recorder.await_service()
        return changed or is_begun

    def ensure_on_host_bridge(self, spec: BridgedSpec) -> bool:
        """Have it lead to that bridge of the host, without a service namespace; returns whether it did not.

        Guests that are plugged in when it is joined are announced there.
        """
        changed = self._remove_service()
        with Links() as links:
            changed |= links.ensure_bridge(self.bridge, spec.mtu)
            moved = self._gather(links, spec)
            port_changed, joined = self.uplink.ensure(links, spec.host_bridge, spec.network)
            if joined or spec.was_interrupted:
                plugged = [guest for guest in spec.guests if self._is_plugged(guest, links)]
                announce(self.uplink.inner, spec.network.spec.subnet, plugged)
        return changed or moved or port_changed

    def is_whole(self, record: Record, interfaces: Mapping[str, Link]) -> bool:
        """Whether every part that shows outside of the namespace is there and runs."""
        bridge, service = interfaces.get(self.bridge), interfaces.get(self.service_port)
        transit = interfaces.get(self.transit)
        if bridge is None or not bridge.is_up:
            return False
        if record.outside:
            return self.uplink.is_whole(record.outside, interfaces)
        return (
            namespaces.exists(self.namespace)
            and service is not None
            and service.has_carrier
            and service.master_index == bridge.index
            and (record.transit is None or (transit is not None and transit.has_carrier))
            and self._dnsmasq(record.label).is_healthy()
            and (not record.recorded or self._recorder(record.label).is_healthy())
        )

    def remove(self) -> bool:
        """End the programs, take interfaces and namespace away; returns whether there were any."""
        with Links() as links:
            removed = self.uplink.ensure_absent(links)
            removed |= self._remove_service()
            return links.ensure_absent(self.bridge) or removed

    def _remove_service(self) -> bool:
        removed = self._dnsmasq(self.network_id).stop()
        removed |= self._recorder(self.network_id).ensure_absent()
        with Links() as links:
            for name in (self.transit, self.service_port):
                removed |= links.ensure_absent(name)
        return namespaces.remove(self.namespace) or removed

    def _is_plugged(self, guest: GuestPort, links: Links) -> bool:
        tap, bridge = links.find(guest.tap), links.find(self.bridge)
        return tap is not None and bridge is not None and tap.master_index == bridge.index

    def _gather(self, links: Links, spec: BridgedSpec) -> bool:
        """Take over guests that an earlier version joined to the host's bridge itself."""
        outside = links.find(spec.host_bridge)
        taps = [links.find(guest.tap) for guest in spec.guests]
        strays = [tap for tap in taps if tap and outside and tap.master_index == outside.index]
        for tap in strays:
            links.ensure_master(tap.name, self.bridge)
        return bool(strays)

    def _dnsmasq(self, label: str) -> Keeper:
        return self._keeper(dnsmasq.program(self.directory), label)

    def _recorder(self, label: str) -> Keeper:
        return self._keeper(program.recorder(), label)

    def _keeper(self, kept: Program, label: str) -> Keeper:
        return Keeper(kept, self.directory, namespaces.path_of(self.namespace), f"network {label}")

    def _ensure_host_links(self, spec: SegmentSpec, inside: Mapping[str, int]) -> bool:
        path = namespaces.path_of(self.namespace)
        if service_rules.INSIDE not in inside:
            (self.directory / _ANY_MAC).unlink(missing_ok=True)  # they went with the interface
        with Links() as links:
            changed = links.ensure_bridge(self.bridge, spec.mtu)
            peer = service_rules.INSIDE
            if links.ensure_veth(self.service_port, peer, path, inside.get(peer), spec.mtu):
                # dnsmasq is bound to an interface that is gone, if it runs.
                self._dnsmasq(spec.record.label).stop()
                changed = True
            changed |= links.ensure_master(self.service_port, self.bridge)
            changed |= links.ensure_up(self.service_port)
            if spec.record.transit is None:
                return links.ensure_absent(self.transit) or changed
            peer = service_rules.UPLINK
            changed |= links.ensure_veth(self.transit, peer, path, inside.get(peer), _TRANSIT_MTU)
            changed |= ensure_sysctl(
                f"ipv4/conf/{self.transit}/route_localnet",
                "1" if _publishes_on_loopback(spec.record) else "0",
            )
            changed |= links.ensure_up(self.transit)
            changed |= links.ensure_only_address(
                self.transit, IPv4Interface((spec.record.transit_host(), 31))
            )
        return changed

    def _ensure_inside(self, spec: SegmentSpec) -> bool:
        """Rules, then interfaces; called in the service namespace."""
        record, network = spec.record, spec.network
        changed = nft.ensure(self._service_rules(spec), subject=f"network {record.label}")
        with Links() as links:
            changed |= links.ensure_up("lo")
            neighbours = spec.outside.only_reaches if spec.outside else ()
            prefix_length = 32 if neighbours else network.spec.subnet.prefixlen
            gateway = IPv4Interface((network.gateway, prefix_length))
            changed |= links.ensure_only_address(service_rules.INSIDE, gateway)
            changed |= ensure_sysctl(*_ASK_INSIDE)
            gateway_mac = derive_mac(network.lineage_id, network.gateway)
            changed |= links.ensure_up(service_rules.INSIDE, mac=gateway_mac, mtu=spec.mtu)
            if record.transit is not None:
                transit = IPv4Interface((record.transit_service(), 31))
                changed |= links.ensure_only_address(service_rules.UPLINK, transit)
                changed |= links.ensure_up(service_rules.UPLINK)
                changed |= links.ensure_default_route(record.transit_host())
            changed |= links.ensure_neighbours(service_rules.INSIDE, neighbours)
            changed |= links.ensure_everything_local(wanted=spec.outside is not None)
        return changed

    def _service_rules(self, spec: SegmentSpec) -> list[nft.Rules]:
        record = spec.record
        table = service_rules.render_service_rules(
            service_rules.ServiceNamespace(
                subnet=spec.network.spec.subnet,
                gateway=spec.network.gateway,
                transit=record.transit_service() if record.transit else None,
                transit_pool=spec.transit_pool,
                nat=record.nat,
                publications=record.publications,
                inside=spec.outside.inside if spec.outside else (),
            )
        )
        rules = [nft.Rules({("inet", service_rules.TABLE): table}, self.directory / _SERVICE_RULES)]
        any_mac, applied = spec.outside is not None and spec.outside.is_shared, self.directory / _ANY_MAC
        if any_mac or applied.exists():
            wanted = service_rules.render_any_mac() if any_mac else ""
            rules.append(nft.Rules({("netdev", service_rules.TABLE): wanted}, applied))
        return rules


def _ensure_sysctls(spec: SegmentSpec) -> bool:
    """Settings of the service namespace, before it has interfaces: they take theirs from `default`."""
    answers_for_others = spec.outside is not None and bool(spec.outside.only_reaches)
    wanted = {
        # First: a change of it sets others anew.
        "ipv4/ip_forward": "1" if spec.record.transit is not None else "0",
        **_SERVICE_SYSCTLS,
        # Guests are not told of the transit.
        "ipv4/conf/all/arp_ignore": "0" if answers_for_others else "1",
    }
    return sum(ensure_sysctl(key, value) for key, value in wanted.items()) > 0


def _publishes_on_loopback(record: Record) -> bool:
    return any(
        entry.host_address.is_loopback or entry.host_address == ANY_ADDRESS for entry in record.publications
    )


def _indices() -> dict[str, int]:
    """The indices of the namespace's own interfaces; called in it."""
    with Links() as links:
        found = (links.find(name) for name in (service_rules.INSIDE, service_rules.UPLINK))
        return {link.name: link.index for link in found if link is not None}
