"""What works: addresses, names, the way out, published ports, host bridges."""

from __future__ import annotations

import json
import socket
import struct
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.networks.publications import ANY_ADDRESS
from forkbed.core.systems.spec import Protocol, PublishSpec, UplinkKind
from tests.real.networks.world import (
    HOST,
    HOST_ADDRESS,
    RUNTIME,
    SOON_S,
    WORLD,
    WORLD_ADDRESS,
    Guest,
    World,
    inet_socket,
    isolated,
    listener,
    run,
    tcp_reaches,
    udp_reaches,
)
from tests.unit.networks.builders import machine, network

GATEWAY = "10.20.0.1"
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
NO_SUCH_NAME = 3
_REPORT = """#!/bin/sh
[ "$1" = bound ] || exit 0
echo "ip=$ip subnet=$subnet router=$router dns=$dns mtu=$mtu domain=$domain search=$search name=$hostname"
"""


def lease(guest: Guest, *options: str) -> dict[str, str]:
    """What a DHCP client in the guest is given."""
    script = Path("/run/report")
    script.write_text(_REPORT)
    script.chmod(0o755)
    wants = " ".join(f"-O {option}" for option in ("mtu", "search", "hostname"))
    told = guest.run(f"busybox udhcpc -i eth0 -n -q -t 5 -T 1 -s {script} {wants} {' '.join(options)}")
    line = next(line for line in told.splitlines() if line.startswith("ip="))
    return dict(word.split("=", 1) for word in line.split())


def resolve(namespace: Path, name: str, kind: int = 1, server: str = GATEWAY) -> tuple[int, str]:
    """Response code and the last address or the rest of the answer, empty without one."""
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    query = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + question + struct.pack("!HH", kind, 1)
    with inet_socket(namespace, UDP) as client:
        client.sendto(query, (server, 53))
        answer = client.recv(1000)
    found = struct.unpack("!H", answer[6:8])[0]
    return answer[3] & 15, socket.inet_ntoa(answer[-4:]) if found and kind == 1 else ""


@isolated
def test_a_known_guest_gets_its_address_and_names(world: World) -> None:
    net = network()
    members = [machine(name, (net, f"10.20.0.{n}")) for name, n in (("boss", 10), ("ops", 11))]
    world.ensure(net, *members)
    boss, ops = world.plug(net, *members, configure=False)
    given = lease(boss, "-x", "hostname:ops")
    assert given == {
        "ip": "10.20.0.10",
        "subnet": "255.255.255.0",
        "router": "",
        "dns": GATEWAY,
        "mtu": "1442",
        "domain": "boss-ops",
        "search": "boss-ops",
        "name": "boss",
    }
    assert lease(ops)["ip"] == "10.20.0.11"
    boss.run("ip addr add 10.20.0.10/24 dev eth0")
    assert resolve(boss.path, "ops") == (0, "10.20.0.11"), "not what a guest says of itself"
    assert resolve(boss.path, "ops.boss-ops") == (0, "10.20.0.11")
    assert resolve(boss.path, "boss") == (0, "10.20.0.10")
    for name in ("nobody", "nobody.boss-ops", "example.org"):
        assert resolve(boss.path, name) == (NO_SUCH_NAME, "")
    assert resolve(boss.path, "ops", kind=28)[0] == 0


@isolated
def test_two_nics_of_one_machine_on_one_network_both_get_addresses(world: World) -> None:
    net = network()
    twice = machine("twice", (net, "10.20.0.10"), (net, "10.20.0.11"))
    world.ensure(net, twice)
    first, second = world.plug(net, twice, configure=False)
    assert (lease(first)["ip"], lease(second)["ip"]) == ("10.20.0.10", "10.20.0.11")
    assert lease(first)["ip"] == "10.20.0.10", "again"
    first.run("ip addr add 10.20.0.10/24 dev eth0")
    assert {resolve(first.path, "twice")[1] for _ in range(20)} == {"10.20.0.10", "10.20.0.11"}


@isolated
def test_an_unknown_mac_gets_no_address(world: World) -> None:
    net = network()
    member, stranger = machine("a", (net, "10.20.0.10")), machine("x", (net, "10.20.0.66"))
    world.ensure(net, member)
    _, x = world.plug(net, member, stranger, configure=False)
    with pytest.raises(OperationalError):
        x.run("busybox udhcpc -i eth0 -n -q -t 2 -T 1 -s /bin/true")


@isolated
def test_changed_members_are_known_at_once_and_connections_live_on(world: World) -> None:
    net = network()
    a, b = machine("a", (net, "10.20.0.10")), machine("b", (net, "10.20.0.11"))
    world.ensure(net, a)
    (guest,) = world.plug(net, a)
    service = Path(world.networks.namespace(net))
    with listener(guest.path, 80) as server, inet_socket(service, TCP) as client:
        client.connect((guest.address, 80))
        connection, _ = server.accept()
        dnsmasq = (RUNTIME / "networks/net1/dnsmasq.pid").read_text()
        assert world.ensure(net, a, b, digest="d2") == "changed"
        assert (RUNTIME / "networks/net1/dnsmasq.pid").read_text() == dnsmasq, "it was not started anew"
        client.sendall(b"still there")
        assert connection.recv(100) == b"still there"
        connection.close()
    deadline = time.monotonic() + SOON_S  # dnsmasq reads its files anew when it gets to it
    while resolve(guest.path, "b") != (0, "10.20.0.11"):
        assert time.monotonic() < deadline
    (other,) = world.plug(net, b, configure=False)
    assert lease(other)["ip"] == "10.20.0.11"


@isolated
def test_with_nat_the_router_is_given_and_names_are_asked_outside(world: World) -> None:
    net = network(uplink=UplinkKind.NAT, transit="198.19.0.0/31")
    a = machine("a", (net, "10.20.0.10"))
    world.ensure(net, a)
    (guest,) = world.plug(net, a, configure=False)
    given = lease(guest)
    assert given["router"] == GATEWAY
    guest.run("ip addr add 10.20.0.10/24 dev eth0")
    with inet_socket(WORLD, UDP, WORLD_ADDRESS, 53) as resolver, inet_socket(guest.path, UDP) as client:
        question = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\7example\3org\0" + struct.pack("!HH", 1, 1)
        client.sendto(question, (GATEWAY, 53))
        query, source = resolver.recvfrom(1000)
        assert source[0] == HOST_ADDRESS
        record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton("192.0.2.7")
        resolver.sendto(
            query[:2] + struct.pack("!5H", 0x8180, 1, 1, 0, 0) + query[12 : 12 + 17] + record, source
        )
        assert client.recv(1000)[-4:] == socket.inet_aton("192.0.2.7")
    assert resolve(guest.path, "a") == (0, "10.20.0.10")


@isolated
def test_large_packets_find_their_way_through_the_smaller_mtu(world: World) -> None:
    net = network(uplink=UplinkKind.NAT, transit="198.19.0.0/31")
    a = machine("a", (net, "10.20.0.10"))
    world.ensure(net, a)
    (guest,) = world.plug(net, a)
    guest.route()
    with listener(WORLD, 80) as server, inet_socket(guest.path, TCP) as client:
        client.connect((WORLD_ADDRESS, 80))
        connection, _ = server.accept()
        connection.settimeout(SOON_S)
        sent = bytes(range(256)) * 2000
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(sent) * 2)
        connection.sendall(sent)
        received = b""
        while len(received) < len(sent):
            received += client.recv(1 << 20)
        assert received == sent
        connection.close()


@isolated
@pytest.mark.parametrize("uplink", ["none", "nat"])
def test_published_ports_are_reached_from_the_host_and_the_world(world: World, uplink: str) -> None:
    net = network(uplink=UplinkKind(uplink), transit="198.19.0.0/31")
    own = IPv4Address(HOST_ADDRESS)
    a = machine(
        "a",
        (net, "10.20.0.10"),
        publish=(
            PublishSpec(8080, 80),
            PublishSpec(8080, 80, host_address=own),
            PublishSpec(8081, 81, host_address=ANY_ADDRESS),
            PublishSpec(5353, 53, Protocol.UDP, own),
            PublishSpec(5353, 53, Protocol.UDP),
        ),
    )
    b = machine("b", (net, "10.20.0.11"), publish=(PublishSpec(8082, 80, host_address=own),))
    world.ensure(net, a, b)
    guest, second = world.plug(net, a, b)
    is_nat = uplink == "nat"
    if is_nat:
        guest.route()
        second.route()
    seen_from_world = WORLD_ADDRESS if is_nat else GATEWAY
    with (
        listener(guest.path, 80) as web,
        listener(guest.path, 81) as more,
        listener(second.path, 80) as other,
    ):
        assert tcp_reaches(HOST, "127.0.0.1", 8080, web)[0]
        assert tcp_reaches(HOST, HOST_ADDRESS, 8080, web)[0]
        assert tcp_reaches(WORLD, HOST_ADDRESS, 8080, web) == (True, seen_from_world)
        assert tcp_reaches(HOST, "127.0.0.1", 8081, more)[0]
        assert tcp_reaches(WORLD, HOST_ADDRESS, 8081, more)[0]
        assert tcp_reaches(WORLD, HOST_ADDRESS, 8082, other)[0]
        assert not tcp_reaches(HOST, "127.0.0.1", 8082, other, 0.3)[0], "published on another address only"
    with inet_socket(guest.path, UDP, "", 53) as datagrams:
        assert udp_reaches(WORLD, HOST_ADDRESS, 5353, datagrams) == (True, seen_from_world)
        assert udp_reaches(HOST, "127.0.0.1", 5353, datagrams)[0]
    told = json.loads((RUNTIME / "published.json").read_text())
    assert {"protocol": "tcp", "host_address": "127.0.0.1", "host_port": 8080} in told
    assert len(told) == 6
    world.ensure(net, machine("a", (net, "10.20.0.10")), digest="d2")
    with listener(guest.path, 80) as web:
        assert not tcp_reaches(HOST, "127.0.0.1", 8080, web, 0.3)[0], "no longer published"
    assert json.loads((RUNTIME / "published.json").read_text()) == []


@isolated
def test_a_client_whose_address_looks_like_the_networks_is_answered(world: World) -> None:
    net = network(uplink=UplinkKind.NAT, transit="198.19.0.0/31")
    own = IPv4Address(HOST_ADDRESS)
    a = machine("a", (net, "10.20.0.10"), publish=(PublishSpec(8080, 80, host_address=own),))
    world.ensure(net, a)
    (guest,) = world.plug(net, a)
    guest.route()
    run("ip -n world addr add 10.20.0.99/32 dev lo")
    run("ip route add 10.20.0.99/32 via 198.18.0.254")
    with listener(guest.path, 80) as web, inet_socket(WORLD, TCP, "10.20.0.99") as client:
        client.connect((HOST_ADDRESS, 8080))
        connection, source = web.accept()
        assert source[0] == "198.19.0.0"
        connection.close()


@isolated
def test_two_systems_alike_publish_side_by_side(world: World) -> None:
    nets = [
        network(f"net{n}", lineage="root", uplink=UplinkKind.NAT, transit=f"198.19.0.{2 * n}/31")
        for n in (1, 2)
    ]
    machines = [
        machine("a", (net, "10.20.0.10"), identity=f"a{n}", publish=(PublishSpec(8080 + n, 80),))
        for n, net in enumerate(nets)
    ]
    guests = []
    for net, member in zip(nets, machines, strict=True):
        world.ensure(net, member, system=str(net.id))
        guests += world.plug(net, member)
    assert guests[0].mac == guests[1].mac
    for guest in guests:
        guest.route()
    with listener(guests[0].path, 80) as first, listener(guests[1].path, 80) as second:
        for _ in range(3):
            assert tcp_reaches(HOST, "127.0.0.1", 8080, first)[0]
            assert tcp_reaches(HOST, "127.0.0.1", 8081, second)[0]
        assert not tcp_reaches(HOST, "127.0.0.1", 8080, second, 0.3)[0]
    with listener(WORLD, 80) as server:
        assert all(tcp_reaches(guest.path, WORLD_ADDRESS, 80, server)[0] for guest in guests)


@isolated
def test_taken_ports_are_refused_before_anything_changes(world: World) -> None:
    net = network(transit="198.19.0.0/31")

    def publishing(port: int, address: str = "127.0.0.1", protocol: Protocol = Protocol.TCP) -> None:
        spec = PublishSpec(port, 80, protocol, IPv4Address(address))
        world.ensure(net, machine("a", (net, "10.20.0.10"), publish=(spec,)))

    def refusal(port: int, address: str = "127.0.0.1", protocol: Protocol = Protocol.TCP) -> str:
        with pytest.raises(OperationalError) as refused:
            publishing(port, address, protocol)
        assert refused.value.kind is Kind.CONFLICT
        return str(refused.value)

    with (
        listener(HOST, 8080),
        listener(HOST, 8081, HOST_ADDRESS),
        listener(HOST, 8082, "::"),
        inet_socket(HOST, UDP, "127.0.0.1", 5353),
    ):
        assert "a process of this host listens there" in refusal(8080)
        assert "boss-ops/inside: cannot publish 127.0.0.1:8082/tcp to 10.20.0.10" in refusal(8082)
        refusal(8081, HOST_ADDRESS)
        refusal(8081, "0.0.0.0")
        refusal(5353, protocol=Protocol.UDP)
        assert world.networks.networks() == []
        publishing(8081)
        publishing(5353)
    assert "no address of this host" in refusal(80, "192.0.2.55")
    second = network("net2", transit="198.19.0.2/31")
    rival = machine("b", (second, "10.20.0.10"), publish=(PublishSpec(5353, 80),))
    with pytest.raises(OperationalError, match="network boss-ops/inside has it"):
        world.ensure(second, rival, system="other")
    overlapping = network("net2", transit="198.19.0.0/31")
    with pytest.raises(OperationalError, match="belongs to network boss-ops/inside"):
        world.ensure(overlapping, system="other")
    # A port that the network has already is not refused because something listens there by now.
    with listener(HOST, 5353):
        publishing(5353)


@isolated
def test_without_forwarding_on_the_host_it_is_said_what_to_do(world: World) -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    with pytest.raises(OperationalError, match="does not forward IPv4") as refused:
        world.ensure(network(uplink=UplinkKind.NAT, transit="198.19.0.0/31"))
    assert "forkbed host prepare" in refused.value.remedy
    world.ensure(network())


@isolated
def test_bridged_traffic_passes_where_the_host_filters_bridges(world: World) -> None:
    """With `bridge-nf-call-iptables` frames go through the host's inet chains, as container software likes it."""
    switch = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if not switch.exists():
        return
    switch.write_text("1")
    nets = [network(f"net{n}", lineage="root") for n in (1, 2)]
    guests = []
    for net in nets:
        members = [
            machine(name, (net, f"10.20.0.{n}"), identity=f"{net.id}{name}")
            for name, n in (("a", 10), ("b", 11))
        ]
        world.ensure(net, *members, system=str(net.id))
        guests += world.plug(net, *members)
    for a, b in (guests[:2], guests[2:]):
        with listener(b.path, 80) as server:
            assert tcp_reaches(a.path, "10.20.0.11", 80, server)[0]
        assert a.ping(GATEWAY) and lease(a)["ip"] == "10.20.0.10"
    tracked = Path("/proc/net/nf_conntrack")
    assert not tracked.exists() or "10.20.0" not in tracked.read_text(), "forks would share entries"
    # Without the rule the very same traffic is tracked.
    run("nft delete table inet fbt1sthost")
    run("nft add table ip probe")
    run("nft add chain ip probe c { type filter hook forward priority 0 ; }")
    run("nft add rule ip probe c ct state new counter")
    assert guests[0].ping("10.20.0.11")
    assert not tracked.exists() or "10.20.0.11" in tracked.read_text()
