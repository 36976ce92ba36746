"""The host's side of all networks of an installation: two nftables tables, rendered from the records. Pure.

`table bridge fb…guard` drops what comes from an interface of the installation unless the filters of a network
marked it (see `filters`), and whatever guests address to the host itself. The veth to a bridge of the host bears our
name at both ends: so the guard sees frames again where they come out there, and passes only those that its network
let leave. They keep their mark, by which `inet` knows them on the host's bridge.

`table inet fb…host` is NAT and the wall between guests and host:

- a network's transit may go out to the world if the network has NAT, behind the host's address; it reaches
  neither the host's own addresses nor another network's transit;
- connections to published ports go to the service namespace of the machine's network, from other machines and
  from the host itself, 127.0.0.1 included;
- nothing else passes between transits and the rest. An interface of ours that is no transit and is not on a bridge
  says and hears nothing, whatever addresses the kernel gives it (taps get an fe80:: one).

127.0.0.1 needs `route_localnet` on the transit. It would let the service namespace send to the host's loopback, so
packets from there with such a destination are dropped before connection tracking turns answers into them. A
neighbour that sends frames for 127.0.0.1 to the host does not reach what is published there: only the host's own
connections are translated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from forkbed.base.ids import InstallationId
from forkbed.core.networks.names import interface_prefix, outer_port_name, transit_name
from forkbed.core.networks.publications import ANY_ADDRESS, Publication
from forkbed.core.systems.spec import Protocol
from forkbed.drivers.networks.filters import MARK_INSIDE, MARK_OUTSIDE, render_set, render_table
from forkbed.drivers.networks.records import Record


def guard_table(installation: InstallationId) -> str:
    """Name of the installation's table of the bridge family."""
    return f"{interface_prefix(installation)}guard"


def host_table(installation: InstallationId) -> str:
    """Name of the installation's table of the inet family."""
    return f"{interface_prefix(installation)}host"


def render_guard(installation: InstallationId, records: Sequence[Record]) -> str:
    """The table of the bridge family for these networks; "" if there are none, for then there is to be no table."""
    if not records:
        return ""
    ours = f'iifname "{interface_prefix(installation)}*"'
    outer = [outer_port_name(installation, record.network_id) for record in records if record.outside]
    outer_ports = render_set("outer_ports", "type ifname", [f'"{name}"' for name in outer])
    let_out = f"iifname @outer_ports meta mark {MARK_OUTSIDE:#010x} accept"
    chains = f"""
	chain prerouting {{
		type filter hook prerouting priority -299; policy accept;
		{let_out}
		{ours} meta mark {MARK_INSIDE:#010x} meta mark set 0 accept
		{ours} drop
	}}
	chain input {{
		type filter hook input priority -299; policy accept;
		{let_out}
		{ours} drop
	}}"""
    return render_table("bridge", guard_table(installation), [outer_ports, chains])


def render_host_table(installation: InstallationId, records: Sequence[Record]) -> str:
    """The table of the inet family for these networks; "" if there are none."""
    if not records:
        return ""
    linked = [record for record in records if record.transit]
    names = {record.network_id: transit_name(installation, record.network_id) for record in linked}
    sets = [
        render_set("transits", "type ifname", [f'"{name}"' for name in names.values()]),
        render_set("bridges", "type ifname", [f'"{record.bridge}"' for record in records]),
        render_set(
            "nat",
            "type ifname . ipv4_addr",
            [f'"{names[r.network_id]}" . {r.transit_service()}' for r in linked if r.nat],
        ),
        # Not `masquerade`, which forgets connections when the transit moves to the next generation of the system.
        render_set(
            "own_addresses",
            "type ifname : ipv4_addr",
            [f'"{names[r.network_id]}" : {r.transit_host()}' for r in linked],
        ),
        # Clients that a service namespace would look for among its guests.
        render_set(
            "lookalikes",
            "type ifname . ipv4_addr; flags interval",
            [f'"{names[r.network_id]}" . {r.subnet}' for r in linked],
        ),
        render_set("nat_addresses", "type ipv4_addr", [str(r.transit_service()) for r in linked if r.nat]),
    ]
    sets += _published_maps(linked)
    ours = f'"{interface_prefix(installation)}*"'
    return render_table("inet", host_table(installation), [*sets, _nat_chains(), _wall(ours)])


def _published_maps(records: Iterable[Record]) -> list[str]:
    """Per protocol one map for named host addresses, and one for ports of all the host's addresses."""
    every = [(record, publication) for record in records for publication in record.publications]
    maps = []
    for protocol in Protocol:
        of_protocol = [entry for entry in every if entry[1].protocol is protocol]
        for name, declaration, wanted in (
            ("named", "type ipv4_addr . inet_service : ipv4_addr . inet_service", False),
            ("any", "type inet_service : ipv4_addr . inet_service", True),
        ):
            elements = [
                f"{_map_key(publication)} : {record.transit_service()} . {publication.transit_port}"
                for record, publication in of_protocol
                if (publication.host_address == ANY_ADDRESS) is wanted
            ]
            maps.append(render_set(f"{protocol}_{name}", declaration, elements))
    return maps


def _map_key(publication: Publication) -> str:
    if publication.host_address == ANY_ADDRESS:
        return str(publication.host_port)
    return f"{publication.host_address} . {publication.host_port}"


def _nat_chains() -> str:
    return """
	chain published {
		dnat ip to ip daddr . tcp dport map @tcp_named
		dnat ip to ip daddr . udp dport map @udp_named
		fib daddr type local dnat ip to tcp dport map @tcp_any
		fib daddr type local dnat ip to udp dport map @udp_any
	}
	chain arriving {
		type nat hook prerouting priority dstnat; policy accept;
		iifname @transits accept
		ip daddr 127.0.0.0/8 accept
		meta nfproto ipv4 jump published
	}
	chain own_connections {
		type nat hook output priority -100; policy accept;
		meta nfproto ipv4 jump published
	}
	chain leaving {
		type nat hook postrouting priority srcnat; policy accept;
		oifname @transits ip saddr 127.0.0.0/8 snat ip to oifname map @own_addresses
		oifname . ip saddr @lookalikes snat ip to oifname map @own_addresses
		oifname != @transits ip saddr @nat_addresses masquerade
	}"""


def _wall(ours: str) -> str:
    # Where the host sends bridged frames through these chains (bridge-nf-call-iptables), they come from a bridge;
    # they are not tracked, since two networks may hold the very same connection.
    # A guest on a host bridge may talk to the host as far as the host began it, and ask it for an address.
    return f"""
	chain first {{
		type filter hook prerouting priority raw; policy accept;
		iifname @bridges notrack accept
		iifname @transits ip daddr 127.0.0.0/8 drop
		iifname @transits meta nfproto ipv4 accept
		iifname {ours} drop
	}}
	chain to_networks {{
		iifname @transits drop
		ct state established,related accept
		ct status dnat accept
		drop
	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		oifname @transits goto to_networks
		iifname . ip saddr @nat accept
		iifname @transits ct state established,related ct status dnat accept
		iifname @transits drop
	}}
	chain input {{
		type filter hook input priority filter; policy accept;
		iifname @transits ct state established,related accept
		iifname {ours} drop
		meta mark {MARK_OUTSIDE:#010x} ct state established,related accept
		meta mark {MARK_OUTSIDE:#010x} udp sport 68 udp dport 67 accept
		meta mark {MARK_OUTSIDE:#010x} drop
	}}
	chain output {{
		type filter hook output priority filter; policy accept;
		oifname @transits meta nfproto ipv4 accept
		oifname {ours} drop
	}}"""
