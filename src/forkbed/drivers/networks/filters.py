"""Port security of one network: what a guest may send, as an nftables table of the bridge family. Pure.

Stateless, because bridges need not have connection tracking. A guest port may send, from its own MAC only:

- ARP for its own address, and probes for it;
- IPv4 from its own address, and the DHCP client's messages about its own MAC; never what a DHCP server or
  relay sends;
- with the policy `link-local` IPv6 from the link-local address that follows from its MAC (no other one could be
  told from a stolen one), within the link, whole packets only (a fragment can hide a router advertisement), and
  no router advertisement, redirect or DHCPv6 answer;
- nothing else: no VLAN tags, no spanning tree, no other protocol.

It receives only frames for its own MAC and to groups. Frames that may pass carry a mark; whatever comes from
one of the installation's interfaces without it is dropped by the table in `host_rules`, so a port that no network
knows is silent rather than free.

What comes in through the port towards a bridge of the host is the outside's: it may be anything but what the outside
announces by IPv6. What leaves through it gets another mark, since it arrives once more, at the veth's other end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from forkbed.core.systems.spec import Ipv6Policy

MARK_INSIDE = 0x0FBD0001
"""On frames that may pass between the ports of a network's bridge."""

MARK_OUTSIDE = 0x0FBD0002
"""On frames that leave for a bridge of the host, where they may reach the host too (see `host_rules`)."""


@dataclass(frozen=True, slots=True)
class GuestPort:
    """A guest's port. `address` is None where the outside gives it: then any of the subnet may be its own."""

    tap: str
    mac: str
    address: IPv4Address | None

    @property
    def link_local(self) -> IPv6Address:
        """The IPv6 address that RFC 4291 derives from the MAC."""
        octets = bytes.fromhex(self.mac.replace(":", ""))
        interface_id = bytes([octets[0] ^ 0x02, *octets[1:3], 0xFF, 0xFE, *octets[3:]])
        return IPv6Address(b"\xfe\x80" + bytes(6) + interface_id)


@dataclass(frozen=True, slots=True)
class FilteredNetwork:
    """What the filters of a network depend on.

    `port` joins its bridge to the service namespace or, with `on_host_bridge`, to a bridge of the host.
    """

    table: str
    subnet: IPv4Network
    gateway: IPv4Address
    ipv6: Ipv6Policy
    port: str
    ports: tuple[GuestPort, ...]
    on_host_bridge: bool = False


def render_filters(network: FilteredNetwork) -> str:
    """The network's table, for `nft`."""
    sections = [
        _sets(network),
        _prerouting(network),
        _guest(network),
        _ARP_CHECKS,
        _arp(network),
        _ipv4(network),
        _ipv6(network) if network.ipv6 is Ipv6Policy.LINK_LOCAL else "",
        _forward(network),
        _OUTPUT,
    ]
    return render_table("bridge", network.table, sections)


def render_table(family: str, name: str, sections: Iterable[str]) -> str:
    """A whole table."""
    body = "\n".join(section.strip("\n") for section in sections if section)
    return f"table {family} {name} {{\n{body}\n}}\n"


def render_set(name: str, declaration: str, elements: Iterable[str]) -> str:
    """A set or map of constant elements; nft wants no `elements` at all where there are none."""
    listed = ", ".join(elements)
    held = f" elements = {{ {listed} }};" if listed else ""
    kind = "map" if " : " in declaration else "set"
    return f"\t{kind} {name} {{ {declaration};{held} }}"


def _sets(network: FilteredNetwork) -> str:
    ports = network.ports
    fixed = [port for port in ports if port.address is not None]
    local = [*(port.tap for port in ports), network.port]
    sets = [
        render_set("guests", "type ifname", [f'"{port.tap}"' for port in ports]),
        render_set("local_ports", "type ifname", [f'"{name}"' for name in local]),
        render_set("macs", "type ifname . ether_addr", [f'"{port.tap}" . {port.mac}' for port in ports]),
        render_set(
            "sources",
            "type ifname . ether_addr . ipv4_addr",
            [f'"{port.tap}" . {port.mac} . {port.address}' for port in fixed],
        ),
        render_set("fixed_addresses", "type ipv4_addr", [str(port.address) for port in fixed]),
        render_set("roaming", "type ifname", [f'"{port.tap}"' for port in ports if port.address is None]),
        # The client hardware address of a DHCP message, 28 bytes into it, 8 more for the UDP header.
        render_set(
            "dhcp_clients",
            "typeof iifname . @th,288,48",
            [f'"{port.tap}" . 0x{port.mac.replace(":", "")}' for port in ports],
        ),
    ]
    if network.ipv6 is Ipv6Policy.LINK_LOCAL:
        sets += [
            render_set(
                "link_locals",
                "type ifname . ipv6_addr",
                [f'"{port.tap}" . {port.link_local}' for port in ports],
            ),
            # The target address of a neighbour solicitation or advertisement, 8 bytes into it.
            render_set(
                "link_local_targets",
                "typeof iifname . @th,64,128",
                [f'"{port.tap}" . 0x{int(port.link_local):032x}' for port in ports],
            ),
        ]
    return "\n".join(sets)


_PASS = f"meta mark set {MARK_INSIDE:#010x} accept"


def _prerouting(network: FilteredNetwork) -> str:
    return f"""
	chain prerouting {{
		type filter hook prerouting priority -300; policy accept;
		iifname "{network.port}" {_PASS}
		iifname @guests goto guest
	}}"""


def _guest(network: FilteredNetwork) -> str:
    ipv6 = "\n\t\tether type ip6 goto guest_ipv6" if network.ipv6 is Ipv6Policy.LINK_LOCAL else ""
    return f"""
	chain guest {{
		iifname . ether saddr != @macs drop
		ether type arp goto guest_arp
		ether type ip goto guest_ipv4{ipv6}
		drop
	}}"""


_ARP_CHECKS = """
	chain well_formed_arp {
		arp htype != 1 drop
		arp ptype != ip drop
		arp hlen != 6 drop
		arp plen != 4 drop
		arp operation != { request, reply } drop
	}"""


def _arp(network: FilteredNetwork) -> str:
    # A probe (RFC 5227) asks from 0.0.0.0. It may ask for the guest's own address only: asking for another's
    # would look like a conflict to a neighbour that is probing too.
    return f"""
	chain guest_arp {{
		jump well_formed_arp
		iifname . arp saddr ether . arp saddr ip @sources {_PASS}
		arp operation request arp saddr ip 0.0.0.0 iifname . arp saddr ether . arp daddr ip @sources {_PASS}
		iifname @roaming goto roaming_arp
		drop
	}}
	chain roaming_arp {{
		iifname . arp saddr ether != @macs drop
		arp saddr ip @fixed_addresses drop
		arp saddr ip {network.gateway} drop
		arp saddr ip {{ 0.0.0.0, {network.subnet} }} {_PASS}
		drop
	}}"""


def _ipv4(network: FilteredNetwork) -> str:
    # Only what is fully seen passes as DHCP: a first fragment too short to hold the client's MAC does not, and
    # without a first fragment the others come to nothing. A relay's address would direct the answer elsewhere.
    return f"""
	chain guest_ipv4 {{
		udp dport 68 drop
		udp sport 67 drop
		udp dport 67 goto guest_dhcp
		iifname . ether saddr . ip saddr @sources {_PASS}
		iifname @roaming goto roaming_ipv4
		drop
	}}
	chain guest_dhcp {{
		udp sport != 68 drop
		iifname . @th,288,48 != @dhcp_clients drop
		@th,256,32 != 0 drop
		ip saddr 0.0.0.0 ip daddr 255.255.255.255 iifname . @th,288,48 @dhcp_clients {_PASS}
		iifname . ether saddr . ip saddr @sources iifname . @th,288,48 @dhcp_clients {_PASS}
		iifname @roaming iifname . @th,288,48 @dhcp_clients goto roaming_ipv4
		drop
	}}
	chain roaming_ipv4 {{
		ip saddr @fixed_addresses drop
		ip saddr {network.gateway} drop
		ip saddr {network.subnet} {_PASS}
		drop
	}}"""


def _ipv6(network: FilteredNetwork) -> str:
    within_link = "ip6 daddr { fe80::/10, ff02::/16 }"
    return f"""
	chain guest_ipv6 {{
		exthdr frag exists drop
		icmpv6 type {{ nd-router-advert, nd-redirect, router-renumbering }} drop
		udp sport 547 drop
		udp dport 546 drop
		icmpv6 type nd-neighbor-advert iifname . @th,64,128 @link_local_targets goto own_link_local
		icmpv6 type nd-neighbor-advert drop
		ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . @th,64,128 @link_local_targets {_PASS}
		ip6 saddr :: icmpv6 type mld2-listener-report {_PASS}
		goto own_link_local
	}}
	chain own_link_local {{
		iifname . ip6 saddr @link_locals {within_link} {_PASS}
		drop
	}}"""


def _forward(network: FilteredNetwork) -> str:
    outside = ""
    if network.on_host_bridge:
        # What the outside announces by IPv6 is not for a guest whose own IPv6 does not leave.
        announced = (
            "icmpv6 type nd-router-advert " if network.ipv6 is Ipv6Policy.LINK_LOCAL else "ether type ip6 "
        )
        outside = f"""
		oifname @guests {announced}drop
		oifname "{network.port}" meta mark set {MARK_OUTSIDE:#010x}"""
    return f"""
	chain forward {{
		type filter hook forward priority -300; policy accept;
		oifname @guests iifname != @local_ports drop
		iifname @guests oifname != @local_ports drop{outside}
		oifname @guests ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 oifname . ether daddr != @macs drop
	}}"""


_OUTPUT = """
	chain output {
		type filter hook output priority -300; policy accept;
		oifname @local_ports drop
	}"""
