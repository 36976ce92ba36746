"""What guests and the rest of the world cannot reach: the host, its other interfaces, other systems' transits.

Attacks are first carried out without our rules, where they must succeed.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from forkbed.core.networks.names import transit_name
from forkbed.core.networks.publications import ANY_ADDRESS
from forkbed.core.systems.spec import Protocol, PublishSpec, UplinkKind
from forkbed.drivers import processes
from tests.real.networks.world import (
    HOST,
    HOST_ADDRESS,
    NEVER_S,
    WORLD,
    WORLD_ADDRESS,
    Guest,
    World,
    address_bytes,
    checksum,
    ethernet,
    inet_socket,
    ipv4,
    ipv6,
    isolated,
    listener,
    mac_of,
    packet_port,
    run,
    tcp_reaches,
    udp,
    udp_reaches,
    wait_until,
)
from tests.unit.networks.builders import INSTALLATION, machine, network

GATEWAY = "10.20.0.1"
IPV4, IPV6 = 0x0800, 0x86DD
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM


@contextlib.contextmanager
def host_service(port: int = 9999, address: str = "") -> Iterator[socket.socket]:
    """Something of the host's own that waits for datagrams on all its addresses."""
    with inet_socket(HOST, UDP, address, port) as opened:
        opened.settimeout(NEVER_S)
        yield opened


def is_heard(service: socket.socket, content: bytes, timeout_s: float) -> bool:
    service.settimeout(timeout_s)
    try:
        while True:
            if content in service.recv(2000):
                return True
    except TimeoutError:
        return False


def to_host(guest: Guest, target_mac: str, content: bytes) -> bytes:
    datagram = ipv4(guest.address, HOST_ADDRESS, 17, udp(7777, 9999, content))
    return ethernet(guest.mac, target_mac, IPV4, datagram)


@isolated
def test_no_frame_reaches_the_host_itself(world: World) -> None:
    net = network()
    only = machine("a", (net, "10.20.0.10"))
    world.ensure(net, only)
    (a,) = world.plug(net, only)
    sender, bridge = a.port(), world.networks.bridge_name(net)
    targets = {
        "the bridge's MAC": mac_of(bridge),
        "the tap's MAC": mac_of(a.tap),
        # The bridge hands frames for these groups to the port's own IP stack.
        "a reserved group": "01:80:c2:00:00:0e",
        "everybody": "ff:ff:ff:ff:ff:ff",
    }
    with host_service() as service:
        world.drop_rules(net)
        for name, mac in targets.items():
            sender.send(to_host(a, mac, b"control"))
            assert is_heard(service, b"control", 2.0), f"{name}: no way even without rules"
        world.ensure(net, only)
        for mac in targets.values():
            sender.send(to_host(a, mac, b"attack"))
        assert not is_heard(service, b"attack", NEVER_S)
        # A tap that lost its bridge is an interface of the host like any other.
        run(f"ip link set {a.tap} nomaster")
        sender.send(to_host(a, mac_of(a.tap), b"attack"))
        assert not is_heard(service, b"attack", NEVER_S)
        world.drop_rules()
        sender.send(to_host(a, mac_of(a.tap), b"control"))
        assert is_heard(service, b"control", 2.0)


@isolated
def test_the_host_neither_hears_nor_tells_guests_anything_by_ipv6_or_arp(world: World) -> None:
    """A tap gets a link-local address of its own, which nobody but the host's kernel wants."""
    net = network()
    only = machine("a", (net, "10.20.0.10"))
    world.ensure(net, only)
    (a,) = world.plug(net, only)
    ear = a.port()

    def link_local(interface: str) -> str:
        shown = run(f"ip -6 -o addr show dev {interface} scope link -tentative").split()
        return next((word.partition("/")[0] for word in shown if word.startswith("fe80:")), "")

    wait_until(lambda: bool(link_local(a.tap)), "the tap's link-local address")
    assert not link_local(world.networks.bridge_name(net))
    own, tap_mac = link_local(a.tap), bytes.fromhex(mac_of(a.tap).replace(":", ""))

    def is_reached(service: socket.socket, content: bytes) -> bool:
        datagram = ipv6("fe80::aaaa", own, 17, udp6("fe80::aaaa", own, content))
        a.port().send(ethernet(a.mac, "01:80:c2:00:00:0e", IPV6, datagram))
        return is_heard(service, content, NEVER_S)

    def is_told() -> bool:
        """Whether the guest gets what the host's own stack says on the tap."""
        processes.run(["ping", "-n", "-c", "1", "-W", "1", f"ff02::1%{a.tap}"], accept=None)
        return any(frame[6:12] == tap_mac for frame in ear.frames(NEVER_S))

    with inet_socket(HOST, UDP, "::", 9998) as service:
        assert not is_reached(service, b"attack")
        assert not is_told()
        assert not a.ping(HOST_ADDRESS, wait_s=0.3)
        world.drop_rules(net)
        assert is_reached(service, b"control")
        assert is_told()


def udp6(source: str, target: str, content: bytes) -> bytes:
    """A UDP datagram with the checksum that IPv6 demands."""
    bare = udp(7777, 9998, content)
    pseudo = (
        address_bytes(source) + address_bytes(target) + len(bare).to_bytes(4, "big") + bytes([0, 0, 0, 17])
    )
    return bare[:6] + checksum(pseudo + bare).to_bytes(2, "big") + bare[8:]


@isolated
def test_of_the_gateway_only_dhcp_dns_and_ping_are_reached(world: World) -> None:
    net = network(uplink=UplinkKind.NAT, transit="198.19.0.0/31")
    only = machine("a", (net, "10.20.0.10"))
    world.ensure(net, only)
    (a,) = world.plug(net, only)
    a.route()
    gateway = Path(world.networks.namespace(net))
    assert a.ping(GATEWAY)
    with listener(gateway, 2222) as server, inet_socket(gateway, UDP, "", 3333) as datagrams:
        assert not tcp_reaches(a.path, GATEWAY, 2222, server, 0.3)[0]
        assert not udp_reaches(a.path, GATEWAY, 3333, datagrams, 0.3)[0]
        assert not tcp_reaches(a.path, "198.19.0.1", 2222, server, 0.3)[0]
        assert not a.ping("198.19.0.1", wait_s=0.3)
        world.drop_rules(net)
        assert tcp_reaches(a.path, GATEWAY, 2222, server)[0]
        assert udp_reaches(a.path, GATEWAY, 3333, datagrams)[0]
        assert tcp_reaches(a.path, "198.19.0.1", 2222, server)[0]


@isolated
def test_nat_leads_to_the_world_and_nowhere_else(world: World) -> None:
    nets = [
        network(uplink=UplinkKind.NAT, transit="198.19.0.0/31"),
        network("net2", uplink=UplinkKind.NAT, transit="198.19.0.2/31"),
    ]
    one = machine("a", (nets[0], "10.20.0.10"))
    other = machine("b", (nets[1], "10.20.0.10"), publish=(PublishSpec(8080, 80, host_address=ANY_ADDRESS),))
    world.ensure(nets[0], one)
    world.ensure(nets[1], other, system="other")
    (a,), (b,) = world.plug(nets[0], one), world.plug(nets[1], other)
    a.route()
    b.route()
    run("ip -n world addr add 169.254.169.254/32 dev host")
    run("ip route add 169.254.169.254/32 via 198.18.0.254")
    with listener(WORLD, 80) as server, inet_socket(WORLD, UDP, "", 53) as datagrams:
        assert tcp_reaches(a.path, WORLD_ADDRESS, 80, server) == (True, HOST_ADDRESS)
        assert udp_reaches(a.path, WORLD_ADDRESS, 53, datagrams) == (True, HOST_ADDRESS)
        assert a.ping(WORLD_ADDRESS)
        assert not tcp_reaches(a.path, "169.254.169.254", 80, server, 0.3)[0], "the metadata of a cloud"
        # The other network cannot be seen from outside.
        run("ip -n world route add 198.19.0.0/16 via 198.18.0.1")
        run("ip -n world route add 10.20.0.0/24 via 198.18.0.1")
        with listener(b.path, 80) as published:
            assert not tcp_reaches(WORLD, "198.19.0.3", 8080, published, 0.3)[0]
            assert not tcp_reaches(WORLD, "10.20.0.10", 80, published, 0.3)[0]
            assert tcp_reaches(WORLD, HOST_ADDRESS, 8080, published)[0]
            # Nor from a neighbour, whether by its transit or by what it publishes.
            assert not tcp_reaches(a.path, "198.19.0.3", 8080, published, 0.3)[0]
            assert not tcp_reaches(a.path, HOST_ADDRESS, 8080, published, 0.3)[0]
    with listener(HOST, 2222) as server, host_service() as service:
        for address in (HOST_ADDRESS, "198.19.0.0", "198.19.0.2", "127.0.0.1"):
            assert not tcp_reaches(a.path, address, 2222, server, 0.3)[0], address
            assert not udp_reaches(a.path, address, 9999, service, 0.3)[0], address
        assert not a.ping(HOST_ADDRESS, wait_s=0.3)
        run("nft delete table inet fbt1sthost")
        assert tcp_reaches(a.path, HOST_ADDRESS, 2222, server)[0], "no way even without rules"


@isolated
def test_without_uplink_nothing_new_leaves(world: World) -> None:
    net = network(transit="198.19.0.0/31")
    only = machine("a", (net, "10.20.0.10"), publish=(PublishSpec(8080, 80),))
    world.ensure(net, only)
    (a,) = world.plug(net, only)
    a.route()
    with listener(WORLD, 80) as server, inet_socket(WORLD, UDP, "", 53) as datagrams:
        assert not tcp_reaches(a.path, WORLD_ADDRESS, 80, server, 0.3)[0]
        assert not udp_reaches(a.path, WORLD_ADDRESS, 53, datagrams, 0.3)[0]
        assert not a.ping(WORLD_ADDRESS, wait_s=0.3)
        # A segment of a connection that does not exist begins none.
        gateway_mac = "02" + a.mac[2:8] + ":14:00:01"
        witness = packet_port(WORLD, "host")
        segment = (
            (4321).to_bytes(2, "big") + (80).to_bytes(2, "big") + bytes(8) + b"\x50\x10\xff\xff" + bytes(4)
        )
        a.port().send(
            ethernet(a.mac, gateway_mac, IPV4, ipv4(a.address, WORLD_ADDRESS, 6, segment + b"stray"))
        )
        assert not witness.sees(b"stray", NEVER_S)


@isolated
def test_what_is_published_on_the_loopback_is_not_reached_by_a_neighbour_of_the_host(world: World) -> None:
    net = network(transit="198.19.0.0/31")
    only = machine(
        "a", (net, "10.20.0.10"), publish=(PublishSpec(8080, 80), PublishSpec(8080, 80, Protocol.UDP))
    )
    world.ensure(net, only)
    (a,) = world.plug(net, only)
    witness = a.port()
    frame = ethernet(
        mac_of("host", WORLD),
        mac_of("outside"),
        IPV4,
        ipv4(WORLD_ADDRESS, "127.0.0.1", 17, udp(7777, 8080, b"trick")),
    )
    packet_port(WORLD, "host").send(frame)
    assert not witness.sees(b"trick", NEVER_S)
    with inet_socket(a.path, UDP, "", 80) as server:
        assert udp_reaches(HOST, "127.0.0.1", 8080, server)[0]


@isolated
def test_the_service_namespace_cannot_send_to_the_hosts_loopback(world: World) -> None:
    """Published on 127.0.0.1 the transit is open for such addresses in the kernel; only answers may use that."""
    net = network(transit="198.19.0.0/31")
    only = machine("a", (net, "10.20.0.10"), publish=(PublishSpec(8080, 80),))
    world.ensure(net, only)
    namespace = Path(world.networks.namespace(net))
    uplink = packet_port(namespace, "uplink")
    transit, own_mac = transit_name(INSTALLATION, net.id), mac_of("uplink", namespace)
    with host_service(9999, "127.0.0.1") as service:
        frame = ethernet(
            own_mac, mac_of(transit), IPV4, ipv4("198.19.0.1", "127.0.0.1", 17, udp(7, 9999, b"in"))
        )
        uplink.send(frame)
        assert not is_heard(service, b"in", NEVER_S)
        world.drop_rules()
        uplink.send(frame)
        assert is_heard(service, b"in", 2.0)
