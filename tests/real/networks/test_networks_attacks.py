"""What a guest cannot do. Every attack is first carried out without our rules, where it must arrive.

The rules then come back by `ensure`, as after somebody flushed them, and the same frame must arrive nowhere, while
an allowed frame sent after it arrives everywhere.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from forkbed.core.networks.addresses import derive_mac
from forkbed.core.systems.spec import Ipv6Policy
from tests.real.networks.world import (
    LAST,
    Peer,
    Port,
    World,
    address_bytes,
    arp,
    beacon,
    dhcp,
    ethernet,
    every_frame_dropped,
    icmpv6,
    ipv4,
    ipv6,
    isolated,
    packet_port,
    udp,
    wait_until,
)
from tests.unit.networks.builders import machine, network

EVERYBODY = "ff:ff:ff:ff:ff:ff"
ALL_NODES_MAC = "33:33:00:00:00:01"
ALL_NODES = "ff02::1"
BROADCAST = "255.255.255.255"
GATEWAY = "10.20.0.1"
IPV4, ARP, IPV6, VLAN, QINQ, RARP, EXPERIMENTAL = 0x0800, 0x0806, 0x86DD, 0x8100, 0x88A8, 0x8035, 0x88B5
REQUEST, REPLY = 1, 2
SOLICIT, ADVERTISE, ROUTER_ADVERTISE, REDIRECT, ECHO = 135, 136, 134, 137, 128

Attack = Callable[[Peer, Peer, bytes], bytes]
"""The frame that the first guest sends to harm the second one, with the marker in it."""


def link_local(guest: Peer) -> str:
    octets = bytes.fromhex(guest.mac.replace(":", ""))
    tail = bytes([octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]]).hex()
    return "fe80::" + ":".join(tail[i : i + 4] for i in range(0, 16, 4))


def datagram(source: str, marker: bytes, source_port: int = 7777, target_port: int = 7777) -> bytes:
    return ipv4(source, BROADCAST, 17, udp(source_port, target_port, marker))


def tagged(kind: int, tag: int) -> Attack:
    return lambda a, b, m: ethernet(
        a.mac, EVERYBODY, kind, struct.pack("!HH", tag, IPV4) + datagram(a.address, m)
    )


def neighbour(a: Peer, kind: int, source: str, target: str, marker: bytes) -> bytes:
    """A neighbour discovery message about `target`, from `source` to all nodes."""
    body = bytes(4) + address_bytes(target) + marker
    return ethernet(
        a.mac, ALL_NODES_MAC, IPV6, ipv6(source, ALL_NODES, 58, icmpv6(source, ALL_NODES, kind, body))
    )


def ipv6_message(a: Peer, source: str, kind: int, marker: bytes, target: str = ALL_NODES) -> bytes:
    message = icmpv6(source, target, kind, bytes(12) + marker)
    return ethernet(a.mac, ALL_NODES_MAC, IPV6, ipv6(source, target, 58, message))


ETHERNET: Mapping[str, Attack] = {
    "another's MAC": lambda a, b, m: ethernet(b.mac, EVERYBODY, IPV4, datagram(a.address, m)),
    "another's MAC and address": lambda a, b, m: ethernet(b.mac, EVERYBODY, IPV4, datagram(b.address, m)),
    "an unknown MAC": lambda a, b, m: ethernet("02:00:00:99:99:99", EVERYBODY, IPV4, datagram(a.address, m)),
    "a VLAN tag": tagged(VLAN, 5),
    "a priority tag": tagged(VLAN, 0x2000),
    "a service tag": tagged(QINQ, 5),
    "two tags": lambda a, b, m: ethernet(
        a.mac, EVERYBODY, VLAN, struct.pack("!HHHH", 5, VLAN, 6, IPV4) + datagram(a.address, m)
    ),
    "spanning tree": lambda a, b, m: ethernet(
        a.mac, "01:80:c2:00:00:00", 38, b"\x42\x42\x03" + bytes(35) + m
    ),
    "another protocol": lambda a, b, m: ethernet(a.mac, EVERYBODY, EXPERIMENTAL, m),
}
ADDRESSES: Mapping[str, Attack] = {
    "another's address": lambda a, b, m: ethernet(a.mac, EVERYBODY, IPV4, datagram(b.address, m)),
    "the gateway's address": lambda a, b, m: ethernet(a.mac, EVERYBODY, IPV4, datagram(GATEWAY, m)),
    "an unused address": lambda a, b, m: ethernet(a.mac, EVERYBODY, IPV4, datagram("10.20.0.77", m)),
    "no address": lambda a, b, m: ethernet(a.mac, EVERYBODY, IPV4, datagram("0.0.0.0", m)),
    "ARP: I am the gateway": lambda a, b, m: ethernet(
        a.mac, EVERYBODY, ARP, arp(REPLY, (a.mac, GATEWAY), (b.mac, b.address)) + m
    ),
    "ARP: I, another, ask": lambda a, b, m: ethernet(
        a.mac, EVERYBODY, ARP, arp(REQUEST, (a.mac, b.address), (EVERYBODY, GATEWAY)) + m
    ),
    "ARP: my address is at another's MAC": lambda a, b, m: ethernet(
        a.mac, EVERYBODY, ARP, arp(REPLY, (b.mac, a.address), (EVERYBODY, GATEWAY)) + m
    ),
    "ARP: a probe for another's address": lambda a, b, m: ethernet(
        a.mac, EVERYBODY, ARP, arp(REQUEST, (a.mac, "0.0.0.0"), (EVERYBODY, b.address)) + m
    ),
    "ARP: another operation": lambda a, b, m: ethernet(
        a.mac, EVERYBODY, ARP, arp(9, (a.mac, a.address), (EVERYBODY, GATEWAY)) + m
    ),
    "reverse ARP": lambda a, b, m: ethernet(
        a.mac, EVERYBODY, RARP, arp(4, (a.mac, a.address), (EVERYBODY, GATEWAY)) + m
    ),
}
DHCP: Mapping[str, Attack] = {
    "an offer": lambda a, b, m: ethernet(
        a.mac, EVERYBODY, IPV4, ipv4(a.address, BROADCAST, 17, udp(67, 68, dhcp(2, b.mac, m)))
    ),
    "an offer from another port": lambda a, b, m: ethernet(
        a.mac, EVERYBODY, IPV4, ipv4(a.address, BROADCAST, 17, udp(1067, 68, dhcp(2, b.mac, m)))
    ),
    "what a relay sends": lambda a, b, m: ethernet(
        a.mac, EVERYBODY, IPV4, ipv4(a.address, BROADCAST, 17, udp(67, 67, dhcp(1, a.mac, m)))
    ),
    "a request for another": lambda a, b, m: ethernet(
        a.mac, EVERYBODY, IPV4, ipv4("0.0.0.0", BROADCAST, 17, udp(68, 67, dhcp(1, b.mac, m)))
    ),
    "a request for another from the own address": lambda a, b, m: ethernet(
        a.mac, EVERYBODY, IPV4, ipv4(a.address, BROADCAST, 17, udp(68, 67, dhcp(1, b.mac, m)))
    ),
    "a relayed request": lambda a, b, m: ethernet(
        a.mac,
        EVERYBODY,
        IPV4,
        ipv4("0.0.0.0", BROADCAST, 17, udp(68, 67, dhcp(1, a.mac, m, relay=b.address))),
    ),
    "a request in small pieces": lambda a, b, m: ethernet(
        a.mac, EVERYBODY, IPV4, ipv4(a.address, BROADCAST, 17, udp(68, 67, m.ljust(24, b"\0")), 0x2000)
    ),
}
ANY_IPV6: Mapping[str, Attack] = {
    "a router advertisement": lambda a, b, m: ipv6_message(a, link_local(a), ROUTER_ADVERTISE, m),
    "an echo to all": lambda a, b, m: ipv6_message(a, link_local(a), ECHO, m),
    "a neighbour solicitation": lambda a, b, m: neighbour(a, SOLICIT, link_local(a), link_local(b), m),
}
FOREIGN_IPV6: Mapping[str, Attack] = {
    "a router advertisement": ANY_IPV6["a router advertisement"],
    "a router advertisement behind an extension header": lambda a, b, m: ethernet(
        a.mac,
        ALL_NODES_MAC,
        IPV6,
        ipv6(
            link_local(a),
            ALL_NODES,
            0,  # hop by hop, then ICMPv6
            bytes([58, 0, 1, 4, 0, 0, 0, 0])
            + icmpv6(link_local(a), ALL_NODES, ROUTER_ADVERTISE, bytes(12) + m),
        ),
    ),
    "a router advertisement in pieces": lambda a, b, m: ethernet(
        a.mac,
        ALL_NODES_MAC,
        IPV6,
        ipv6(
            link_local(a),
            ALL_NODES,
            44,  # a second fragment, whose first one is said to follow
            struct.pack("!BBHI", 58, 0, 0x0009, 77) + m.ljust(24, b"\0"),
        ),
    ),
    "a redirect": lambda a, b, m: ipv6_message(a, link_local(a), REDIRECT, m),
    "another's link-local address": lambda a, b, m: ipv6_message(a, link_local(b), ECHO, m),
    "a made-up link-local address": lambda a, b, m: ipv6_message(a, "fe80::1", ECHO, m),
    "a global address": lambda a, b, m: ipv6_message(a, "2001:db8::1", ECHO, m),
    "no address": lambda a, b, m: ipv6_message(a, "::", ECHO, m),
    "a global target": lambda a, b, m: ipv6_message(a, link_local(a), ECHO, m, "2001:db8::2"),
    "I am at another's address": lambda a, b, m: neighbour(a, ADVERTISE, link_local(a), link_local(b), m),
    "a claim to another's address": lambda a, b, m: neighbour(a, SOLICIT, "::", link_local(b), m),
    "a DHCPv6 answer": lambda a, b, m: ethernet(
        a.mac, ALL_NODES_MAC, IPV6, ipv6(link_local(a), ALL_NODES, 17, udp(547, 546, m))
    ),
}


def carry_out(world: World, attacks: Mapping[str, Attack], policy: Ipv6Policy = Ipv6Policy.BLOCK) -> None:
    """The attacks without rules, which must arrive, then with them, which must not."""
    net = network(ipv6=policy)
    first, second = machine("a", (net, "10.20.0.10")), machine("b", (net, "10.20.0.11"))
    world.ensure(net, first, second)
    a, b = world.plug(net, first, second)
    sender = a.port()
    witnesses = [b.port(), packet_port(Path(world.networks.namespace(net)), "eth0")]
    world.drop_rules(net)
    assert world.health() == {"net1": False}
    unseen = [
        name
        for number, (name, attack) in enumerate(attacks.items())
        if not arrives(sender, witnesses, attack(a, b, b"ctl%05d" % number), b"ctl%05d" % number)
    ]
    assert not unseen, f"these do not arrive even without rules, so the test shows nothing: {unseen}"
    assert world.ensure(net, first, second) == "changed"
    assert world.health() == {"net1": True}
    allowed = beacon(a, EVERYBODY, BROADCAST, LAST)
    arrived = []
    for number, (name, attack) in enumerate(attacks.items()):
        marker = b"atk%05d" % number
        if not every_frame_dropped(sender, witnesses, attack(a, b, marker), marker, allowed):
            arrived.append(name)
    assert not arrived, f"these arrive in spite of the rules: {arrived}"


def arrives(sender: Port, witnesses: list[Port], frame: bytes, marker: bytes) -> bool:
    """Whether every witness sees the frame."""
    for witness in witnesses:
        witness.drain()
    sender.send(frame)
    return all(witness.sees(marker, 2.0) for witness in witnesses)


@isolated
def test_only_untagged_frames_from_the_own_mac_pass(world: World) -> None:
    carry_out(world, ETHERNET)


@isolated
def test_no_guest_takes_anothers_address(world: World) -> None:
    carry_out(world, ADDRESSES)


@isolated
def test_no_guest_answers_dhcp_or_asks_for_another(world: World) -> None:
    carry_out(world, DHCP)


@isolated
def test_no_ipv6_passes_under_the_policy_block(world: World) -> None:
    carry_out(world, ANY_IPV6)


@isolated
def test_only_the_own_link_local_address_passes_under_that_policy(world: World) -> None:
    carry_out(world, FOREIGN_IPV6, Ipv6Policy.LINK_LOCAL)


@isolated
def test_what_a_guest_needs_passes(world: World) -> None:
    net = network(ipv6=Ipv6Policy.LINK_LOCAL)
    first, second = machine("a", (net, "10.20.0.10")), machine("b", (net, "10.20.0.11"))
    world.ensure(net, first, second)
    a, b = world.plug(net, first, second)
    sender, witnesses = a.port(), [b.port(), packet_port(Path(world.networks.namespace(net)), "eth0")]
    own, mac = link_local(a), a.mac
    frames: Mapping[str, Callable[[bytes], bytes]] = {
        "a datagram": lambda m: ethernet(mac, EVERYBODY, IPV4, datagram(a.address, m)),
        "an ARP request": lambda m: ethernet(
            mac, EVERYBODY, ARP, arp(REQUEST, (mac, a.address), (EVERYBODY, GATEWAY)) + m
        ),
        "an ARP announcement": lambda m: ethernet(
            mac, EVERYBODY, ARP, arp(REPLY, (mac, a.address), (EVERYBODY, a.address)) + m
        ),
        "an ARP probe": lambda m: ethernet(
            mac, EVERYBODY, ARP, arp(REQUEST, (mac, "0.0.0.0"), (EVERYBODY, a.address)) + m
        ),
        "a DHCP request": lambda m: ethernet(
            mac, EVERYBODY, IPV4, ipv4("0.0.0.0", BROADCAST, 17, udp(68, 67, dhcp(1, mac, m)))
        ),
        "a fragment": lambda m: ethernet(mac, EVERYBODY, IPV4, ipv4(a.address, BROADCAST, 17, m, 0x0009)),
        "an IPv6 echo": lambda m: ipv6_message(a, own, ECHO, m),
        "an IPv6 claim to the own address": lambda m: neighbour(a, SOLICIT, "::", own, m),
        "an IPv6 advertisement of the own address": lambda m: neighbour(a, ADVERTISE, own, own, m),
        "an IPv6 search for a neighbour": lambda m: neighbour(a, SOLICIT, own, link_local(b), m),
    }
    markers = {name: b"okay%04d" % number for number, name in enumerate(frames)}
    lost = [n for n, frame in frames.items() if not arrives(sender, witnesses, frame(markers[n]), markers[n])]
    assert not lost, f"these do not arrive: {lost}"
    assert a.ping(b.address)
    assert a.ping(GATEWAY)
    # With the kernels' own neighbour discovery, once they have tried their addresses.
    wait_until(lambda: a.ping(f"{link_local(b)}%eth0"), "an IPv6 answer")


@isolated
def test_a_guest_hears_only_what_is_for_it(world: World) -> None:
    net = network()
    machines = [machine(name, (net, f"10.20.0.{n}")) for name, n in (("a", 10), ("b", 11), ("c", 12))]
    world.ensure(net, *machines)
    a, _b, c = world.plug(net, *machines)
    eavesdropper = c.port()
    # The bridge has not learned where this MAC is, so it sends the frame to every port.
    unknown = "02:00:00:12:34:56"
    a.port().send(ethernet(a.mac, unknown, IPV4, datagram(a.address, b"secret-1")))
    a.port().send(beacon(a, EVERYBODY, BROADCAST, LAST))
    assert not eavesdropper.sees_before(b"secret-1", LAST)
    world.drop_rules(net)
    a.port().send(ethernet(a.mac, unknown, IPV4, datagram(a.address, b"secret-2")))
    assert eavesdropper.sees(b"secret-2")


@isolated
def test_a_port_that_no_network_knows_is_silent_and_deaf(world: World) -> None:
    """Such as the NIC of a machine that the manifest no longer names and that still runs."""
    net = network()
    known, unknown = machine("a", (net, "10.20.0.10")), machine("x", (net, "10.20.0.66"))
    world.ensure(net, known, unknown)
    a, x = world.plug(net, known, unknown)
    witness = a.port()
    x.port().send(beacon(x, EVERYBODY, BROADCAST, b"still a member"))
    assert witness.sees(b"still a member")
    world.ensure(net, known, digest="d2")
    service = packet_port(Path(world.networks.namespace(net)), "eth0")
    x.port().send(beacon(x, EVERYBODY, BROADCAST, b"no member now"))
    a.port().send(beacon(a, EVERYBODY, BROADCAST, LAST))
    assert not service.sees_before(b"no member now", LAST)
    ear = x.port()
    a.port().send(beacon(a, EVERYBODY, BROADCAST, b"for members"))
    assert service.sees(b"for members")
    assert not ear.sees(b"for members", 0.3)


@isolated
def test_two_systems_with_the_same_subnet_and_macs_do_not_hear_each_other(world: World) -> None:
    nets = [network("net1", lineage="root"), network("net2", lineage="root")]
    machines = [
        [
            machine(name, (net, f"10.20.0.{n}"), identity=f"{net.id}{name}")
            for name, n in (("a", 10), ("b", 11))
        ]
        for net in nets
    ]
    for net, members in zip(nets, machines, strict=True):
        world.ensure(net, *members, system=f"system-{net.id}")
    (a1, b1), (a2, b2) = (world.plug(net, *members) for net, members in zip(nets, machines, strict=True))
    assert (a1.mac, a1.nic.address) == (a2.mac, a2.nic.address)
    gateways = [Path(world.networks.namespace(net)) for net in nets]
    assert a1.ping(b1.address) and a2.ping(b2.address) and a1.ping(GATEWAY) and a2.ping(GATEWAY)
    others = [a2.port(), b2.port(), packet_port(gateways[1], "eth0")]
    everything: dict[str, Attack] = {**ETHERNET, **ADDRESSES, **DHCP, **ANY_IPV6}
    for rules in (True, False):
        if not rules:
            world.drop_rules(*nets)
        for number, attack in enumerate(everything.values()):
            a1.port().send(attack(a1, b1, b"away%04d" % number))
        a2.port().send(beacon(a2, EVERYBODY, BROADCAST, LAST))
        assert not any(other.sees_before(b"away", LAST) for other in others[1:])
    assert derive_mac(nets[0].lineage_id, nets[0].gateway) == derive_mac(nets[1].lineage_id, nets[1].gateway)
