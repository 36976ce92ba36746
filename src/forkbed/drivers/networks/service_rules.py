"""Rules inside a network's service namespace: what guests may ask of it, NAT, published ports. Pure.

Guests reach DHCP, DNS and ping of the gateway, nothing else there; and the world only with NAT, where link-local
addresses count as the host's (a cloud's metadata service listens there) and are refused like the transits. New
connections come in only where a port is published. Without NAT answers to those are all that leaves.

In a fork's network nothing comes in or leaves. What guests send elsewhere by TCP and UDP is handed to the recorder,
with its destination unchanged, and without connection tracking, whose table a guest could fill. What belongs to none
of the recorder's connections, because it was made before the fork, is answered with a reset by the kernel; so is TCP
to the gateway, where the original's host had connections to its guests. Not what a guest's service sends to a client of
the original: if the fork takes the original's place, that client still waits for it. Services are known by ports
that Linux gives nobody who asks for any. Echo requests to elsewhere are dropped: a fork
that could ping its host would look as if it reached it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from forkbed.core.networks.publications import Publication
from forkbed.core.systems.spec import Protocol
from forkbed.drivers.networks.filters import render_set, render_table
from forkbed.drivers.networks.recorder.settings import LOOPBACK, PORT

TABLE = "forkbed"
INSIDE = "eth0"
"""The namespace's interface on the network's bridge."""

UPLINK = "uplink"
"""The namespace's interface towards the host."""

_OF_A_SERVICE = "tcp sport < 32768 tcp flags & (fin | syn | rst | ack) != syn"
_MARK_RECORDED = 0x0FBD0003
"""On packets that were handed to the recorder."""


@dataclass(frozen=True, slots=True)
class ServiceNamespace:
    """What the rules of a service namespace depend on. `transit` is its own address there, or None.

    `inside`, in a fork only, are the destinations that do not lead to the recorder.
    """

    subnet: IPv4Network
    gateway: IPv4Address
    transit: IPv4Address | None
    transit_pool: IPv4Network
    nat: bool
    publications: tuple[Publication, ...]
    inside: tuple[IPv4Network, ...] = ()


def render_service_rules(service: ServiceNamespace) -> str:
    """The namespace's table."""
    sections = [*_published_maps(service.publications), _input(service)]
    if service.transit is not None:
        sections += [_forward(service), _nat(service, service.transit)]
    if service.inside:
        sections.append(_recorded(service))
    return render_table("inet", TABLE, sections)


def render_any_mac() -> str:
    """The table by which the namespace takes frames for any MAC as its own.

    In a fork of what was on somebody else's segment guests go on to send to the MAC of a router that is not there.
    """
    return render_table("netdev", TABLE, [_ANY_MAC])


_ANY_MAC = f"""
	chain arriving {{
		type filter hook ingress device "{INSIDE}" priority 0; policy accept;
		ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 meta pkttype set host
	}}"""


def _published_maps(publications: Sequence[Publication]) -> list[str]:
    sets = [
        render_set(
            f"{protocol}_published",
            "type inet_service : ipv4_addr . inet_service",
            [
                f"{entry.transit_port} : {entry.machine_address} . {entry.machine_port}"
                for entry in publications
                if entry.protocol is protocol
            ],
        )
        for protocol in Protocol
    ]
    hiding = {str(entry.machine_address) for entry in publications if entry.hides_client}
    return [*sets, render_set("client_hidden_from", "type ipv4_addr", sorted(hiding))]


def _input(service: ServiceNamespace) -> str:
    broadcast = service.subnet.broadcast_address
    handed_on, reset = "", ""
    if service.inside:
        handed_on = f"\n\t\tmeta mark {_MARK_RECORDED:#010x} accept"
        to_gateway = f"\n\t\tip daddr {service.gateway} meta l4proto tcp"
        reset = f"{to_gateway} {_OF_A_SERVICE} drop{to_gateway} reject with tcp reset"
    return f"""
	chain input {{
		type filter hook input priority filter; policy drop;
		iifname "lo" accept{handed_on}
		ct state established,related accept
		iifname "{INSIDE}" meta nfproto ipv4 jump guest
	}}
	chain guest {{
		ip daddr {{ 255.255.255.255, {broadcast}, {service.gateway} }} udp sport 68 udp dport 67 accept
		ip daddr {service.gateway} udp dport 53 accept
		ip daddr {service.gateway} tcp dport 53 accept
		ip daddr {service.gateway} icmp type echo-request accept{reset}
	}}"""


def _recorded(service: ServiceNamespace) -> str:
    inside = render_set(
        "inside", "type ipv4_addr; flags interval", [str(network) for network in service.inside]
    )
    listener = f"{LOOPBACK}:{PORT}"
    return f"""{inside}
	chain not_tracked {{
		type filter hook prerouting priority raw; policy accept;
		iifname "{INSIDE}" ip daddr != @inside notrack
	}}
	chain answers_not_tracked {{
		type filter hook output priority raw; policy accept;
		oifname "{INSIDE}" ip saddr != {service.gateway} notrack
	}}
	chain of_a_service {{
		socket transparent 1 meta l4proto tcp tproxy ip to {listener} meta mark set {_MARK_RECORDED:#010x} accept
		drop
	}}
	chain outwards {{
		type filter hook prerouting priority mangle; policy accept;
		iifname != "{INSIDE}" accept
		ip daddr @inside accept
		{_OF_A_SERVICE} goto of_a_service
		meta l4proto {{ tcp, udp }} tproxy ip to {listener} meta mark set {_MARK_RECORDED:#010x} accept
	}}"""


def _forward(service: ServiceNamespace) -> str:
    refused = ", ".join(
        str(network)
        for network in (
            IPv4Network("0.0.0.0/8"),
            IPv4Network("127.0.0.0/8"),
            IPv4Network("169.254.0.0/16"),
            IPv4Network("224.0.0.0/3"),
            service.transit_pool,
        )
    )
    # Without NAT also connections that began while there was NAT end here.
    answers = "ct state established,related" + ("" if service.nat else " ct status dnat")
    outwards = f'iifname "{INSIDE}" oifname "{UPLINK}" ip saddr {service.subnet}'
    nat = f"\n\t\t{outwards} ip daddr != {{ {refused} }} accept" if service.nat else ""
    return f"""
	chain forward {{
		type filter hook forward priority filter; policy drop;
		ct state invalid drop
		tcp flags syn tcp option maxseg size set rt mtu
		{answers} accept
		iifname "{UPLINK}" oifname "{INSIDE}" ct status dnat accept{nat}
	}}"""


def _nat(service: ServiceNamespace, transit: IPv4Address) -> str:
    return f"""
	chain arriving {{
		type nat hook prerouting priority dstnat; policy accept;
		iifname "{UPLINK}" dnat ip to tcp dport map @tcp_published
		iifname "{UPLINK}" dnat ip to udp dport map @udp_published
	}}
	chain leaving {{
		type nat hook postrouting priority srcnat; policy accept;
		oifname "{UPLINK}" ip saddr {service.subnet} snat to {transit}
		oifname "{INSIDE}" ct status dnat ip daddr @client_hidden_from snat to {service.gateway}
	}}"""
