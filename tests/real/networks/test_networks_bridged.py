"""Networks that lead to a bridge of the host: what passes there, and how the way out changes hands."""

from __future__ import annotations

import itertools
import socket
import time
from pathlib import Path

import pytest

from forkbed.base.errors import OperationalError
from forkbed.core.networks import names
from forkbed.core.systems.spec import PublishSpec, ResolvedMachine, ResolvedNetwork, UplinkKind
from forkbed.drivers import processes
from forkbed.drivers.networks import namespaces
from forkbed.drivers.networks.uplink_port import UplinkPort
from tests.real.networks.test_networks_lifecycle import Crash, crash_after
from tests.real.networks.test_networks_recorded import take_over
from tests.real.networks.world import (
    HOST,
    HOST_ADDRESS,
    LAST,
    WORLD,
    Guest,
    World,
    arp,
    beacon,
    dhcp,
    ethernet,
    every_frame_dropped,
    icmpv6,
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
)
from tests.unit.networks.builders import INSTALLATION, machine, network

GATEWAY = "10.20.0.1"
ON_BRIDGE = "10.20.0.2"
NEIGHBOUR = "10.20.0.3"
EVERYBODY = "ff:ff:ff:ff:ff:ff"
OUTSIDER = namespaces.path_of("outsider")


def host_bridge(net: ResolvedNetwork) -> None:
    """A bridge of the host's with an address of its own, and an outsider on it with a MAC as high as a tap's."""
    run(f"ip link add {net.spec.bridge} type bridge mcast_snooping 0")
    run(f"ip link set {net.spec.bridge} up")
    run(f"ip addr add 10.20.0.2/24 dev {net.spec.bridge}")
    run("ip netns add outsider")
    run("ip link add lan0 address fe:54:00:ff:ff:ff type veth peer name eth0 netns outsider")
    run(f"ip link set lan0 master {net.spec.bridge}")
    run("ip link set lan0 up")
    run("ip -n outsider link set eth0 up")
    run("ip -n outsider addr add 10.20.0.3/24 dev eth0")


@isolated
def test_a_guest_on_a_host_bridge_is_filtered_there(world: World) -> None:
    net = network(uplink=UplinkKind.BRIDGE, bridge="br0")
    fixed = machine("fixed", (net, "10.20.0.10"), declared=True)
    roaming = machine("roaming", (net, "10.20.0.11"))
    with pytest.raises(OperationalError, match="no bridge named br0"):
        world.ensure(net, fixed, roaming)
    assert world.networks.networks() == []
    host_bridge(net)
    world.ensure(net, fixed, roaming)
    assert world.health() == {"net1": True}
    assert world.networks.namespace(net) == "/proc/self/ns/net"
    a, b = world.plug(net, fixed, roaming)
    witness = packet_port(OUTSIDER, "eth0")
    broadcast = "255.255.255.255"

    def sent(guest: Guest, address: str, *, mac: str = "") -> bytes:
        frame = ipv4(address, broadcast, 17, udp(7, 7, b"hello-out"))
        return ethernet(mac or guest.mac, EVERYBODY, 0x0800, frame)

    def passes(guest: Guest, frame: bytes) -> bool:
        witness.drain()
        guest.port().send(frame)
        guest.port().send(beacon(guest, EVERYBODY, broadcast, LAST))
        return witness.sees_before(b"hello-out", LAST)

    assert passes(a, sent(a, "10.20.0.10"))
    assert passes(b, sent(b, "10.20.0.77")), "its address comes from outside"
    for guest, frame in (
        (a, sent(a, "10.20.0.77")),
        (a, sent(a, "10.20.0.10", mac=b.mac)),
        (b, sent(b, "10.20.0.10")),
        (b, sent(b, GATEWAY)),
        (b, sent(b, "192.0.2.1")),
        (
            b,
            ethernet(
                b.mac,
                EVERYBODY,
                0x0806,
                arp(2, (b.mac, GATEWAY), (EVERYBODY, GATEWAY)) + b"hello-out",
            ),
        ),
        (
            b,
            ethernet(
                b.mac,
                EVERYBODY,
                0x0800,
                ipv4("10.20.0.77", broadcast, 17, udp(67, 68, dhcp(2, b.mac, b"hello-out"))),
            ),
        ),
    ):
        assert not passes(guest, frame)
    assert a.ping("10.20.0.3") and a.ping(b.address)


@isolated
@pytest.mark.parametrize("filtering", ["0", "1"])
def test_a_guest_on_a_host_bridge_talks_to_the_host_only_when_spoken_to(world: World, filtering: str) -> None:
    """Also where frames go through the host's inet chains (`bridge-nf-call-iptables`), on either bridge."""
    switch = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if switch.exists():
        switch.write_text(filtering)
    net = network(uplink=UplinkKind.BRIDGE, bridge="br0")
    a = machine("a", (net, "10.20.0.10"))
    host_bridge(net)
    world.ensure(net, a)
    (guest,) = world.plug(net, a)
    with listener(HOST, 2222) as server, listener(guest.path, 22) as ssh:
        assert not tcp_reaches(guest.path, "10.20.0.2", 2222, server, 0.3)[0]
        assert not tcp_reaches(guest.path, HOST_ADDRESS, 2222, server, 0.3)[0]
        assert not guest.ping("10.20.0.2", wait_s=0.3)
        assert tcp_reaches(HOST, "10.20.0.10", 22, ssh)[0]
        # The bridge's other ports are none of ours.
        assert tcp_reaches(OUTSIDER, "10.20.0.2", 2222, server)[0]
        assert tcp_reaches(OUTSIDER, "10.20.0.10", 22, ssh)[0]
        world.drop_rules()
        assert tcp_reaches(guest.path, "10.20.0.2", 2222, server)[0], "no way even without rules"
    world.ensure(net, a)
    assert world.networks.remove(net.id) == "changed"
    assert "br0" in run("ip -br link"), "the bridge is the host's"
    assert run("nft list tables") == ""


def bridged(identity: str = "net1", lineage: str = "root") -> ResolvedNetwork:
    return network(identity, lineage=lineage, uplink=UplinkKind.BRIDGE, bridge="br0")


def neighbour_of(guest: Guest, address: str) -> str:
    """What the guest believes the neighbour's MAC to be."""
    words = guest.run(f"ip neigh show {address}").split()
    return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def about(bridge: str) -> str:
    """What the host's bridge is like: MAC, MTU and settings, but not its ports."""
    return run(f"ip -d -o link show {bridge}").split(" bridge ", 1)[0]


@isolated
def test_the_way_out_moves_to_the_next_generation(world: World) -> None:
    """As in a promotion: the fork's guest goes on with the original's memory, hence with its open connections."""
    old = bridged()
    a = machine("a", (old, "10.20.0.10"), declared=True)
    host_bridge(old)
    run("ip link set br0 mtu 1500")
    before, mac = about("br0"), mac_of("eth0", OUTSIDER)
    world.ensure(old, a)
    assert about("br0") == before
    (guest,) = world.plug(old, a)
    fork = network("net2", lineage="root", uplink=UplinkKind.RECORDED, bridge="br0")
    copy = machine("a", (fork, "10.20.0.10"), declared=True, identity="copy-of-a")
    with listener(guest.path, 80) as server, inet_socket(OUTSIDER, socket.SOCK_STREAM) as client:
        client.connect((guest.address, 80))
        connection, _ = server.accept()
        connection.settimeout(10.0)
        client.sendall(b"before")
        assert connection.recv(100) == b"before"
        world.ensure(fork, copy, system="attempt")
        take_over(guest, copy, world.networks.bridge_name(fork))
        guest.run("ip neigh flush dev eth0")
        assert not guest.ping(NEIGHBOUR, wait_s=0.3), "a fork has no way out"
        assert neighbour_of(guest, NEIGHBOUR) not in ("", mac), "there the recorder is everybody"
        time.sleep(1.1)  # so long a guest's kernel believes in an answer against all later ones

        witness = packet_port(OUTSIDER, "eth0")
        world.ensure(network(lineage="root"), a, digest="kept")
        assert about("br0") == before
        assert not (guest.ping(NEIGHBOUR, wait_s=0.3) or pings(OUTSIDER, guest.address)), "neither leads out"
        promoted = bridged("net2")
        witness.drain()
        assert world.ensure(promoted, copy, digest="live") == "changed"
        own = (guest.mac, guest.address)
        assert witness.sees(arp(1, own, ("00:00:00:00:00:00", guest.address))), "nobody was told of the move"
        client.sendall(b"after")
        assert connection.recv(100) == b"after"
        assert neighbour_of(guest, NEIGHBOUR) == mac
        connection.sendall(b"answer")
        assert client.recv(100) == b"answer"
        connection.close()
    assert pings(HOST, guest.address)
    assert about("br0") == before
    assert world.health() == {"net1": True, "net2": True}
    witness.drain()
    assert world.ensure(promoted, copy, digest="live") == "already"
    guest.port().send(beacon(guest, EVERYBODY, NEIGHBOUR, LAST))
    assert not witness.sees_before(arp(1, own, own)[:8], LAST), "said once"


def pings(namespace: Path, address: str) -> bool:
    command = ["ping", "-n", "-q", "-c", "1", "-W", "0.5", address]
    return namespaces.run_inside(namespace, lambda: processes.run(command, accept=None).status == 0)


@isolated
def test_a_port_that_its_network_gave_up_is_silent(world: World) -> None:
    """At no moment two generations lead out: before the old one's port goes, nothing passes there any more."""
    net = bridged()
    a = machine("a", (net, "10.20.0.10"), declared=True)
    host_bridge(net)
    world.ensure(net, a)
    (guest,) = world.plug(net, a)
    assert guest.ping(NEIGHBOUR)

    def die(*_: object) -> bool:
        raise InterruptedError

    whole, UplinkPort.ensure_absent = UplinkPort.ensure_absent, die  # type: ignore[assignment, method-assign]
    with pytest.raises(InterruptedError):
        world.ensure(network(lineage="root"), a, digest="kept")
    UplinkPort.ensure_absent = whole  # type: ignore[method-assign]
    assert names.outer_port_name(INSTALLATION, net.id) in run("ip -br link show master br0")
    assert not guest.ping(NEIGHBOUR, wait_s=0.3)
    assert not pings(OUTSIDER, guest.address)
    assert not pings(HOST, guest.address)
    assert world.ensure(network(lineage="root"), a, digest="kept") == "changed"
    assert names.outer_port_name(INSTALLATION, net.id) not in run("ip -br link")
    assert guest.ping(GATEWAY)


@isolated
def test_a_crash_while_the_way_out_comes_or_goes_is_mended(world: World) -> None:
    ways = bridged(), network(lineage="root")
    a = machine("a", (ways[0], "10.20.0.10"), declared=True)
    host_bridge(ways[0])
    world.ensure(ways[1], a, digest="none")
    (guest,) = world.plug(ways[1], a)
    witness = packet_port(OUTSIDER, "eth0")
    announcement = arp(1, (guest.mac, guest.address), ("00:00:00:00:00:00", guest.address))
    crashes = 0
    for point in itertools.count():
        crashed = 0
        for net in ways:
            digest, leads_out = str(net.spec.uplink), net is ways[0]
            witness.drain()
            with pytest.MonkeyPatch.context() as monkeypatch:
                crash_after(point, monkeypatch)
                try:
                    world.ensure(net, a, digest=digest)
                except Crash:
                    crashed += 1
            world.ensure(net, a, digest=digest)
            assert world.health() == {"net1": True}, f"{digest}, point {point}"
            assert guest.ping(NEIGHBOUR, wait_s=2.0 if leads_out else 0.1) is leads_out, (
                f"{digest}, point {point}"
            )
            assert not leads_out or witness.sees(announcement), f"point {point}"
        crashes += crashed
        if not crashed:
            break
    assert crashes > 25, "the crashes met too few effects to show anything"


@isolated
def test_two_networks_on_one_host_bridge_are_neighbours(world: World) -> None:
    nets = [bridged("net1"), bridged("net2", lineage="other")]
    members = [
        machine(name, (net, address), declared=True)
        for net, name, address in zip(nets, "ab", ("10.20.0.10", "10.20.0.11"), strict=True)
    ]
    host_bridge(nets[0])
    for net, member in zip(nets, members, strict=True):
        world.ensure(net, member, system=str(net.id))
    (a,), (b,) = (world.plug(net, member) for net, member in zip(nets, members, strict=True))
    assert a.ping(b.address) and b.ping(a.address)
    offer = ipv4("10.20.0.10", "255.255.255.255", 17, udp(67, 68, dhcp(2, b.mac, b"offered")))
    attack = ethernet(a.mac, EVERYBODY, 0x0800, offer)
    allowed = beacon(a, EVERYBODY, "255.255.255.255", LAST)
    witnesses = [b.port(), packet_port(OUTSIDER, "eth0")]
    assert every_frame_dropped(a.port(), witnesses, attack, b"offered", allowed)
    world.networks.remove(nets[0].id)
    assert world.health() == {"net2": True}
    assert b.ping(NEIGHBOUR)


@isolated
def test_of_what_is_outside_a_guest_hears_what_is_for_it(world: World) -> None:
    net = bridged()
    a = machine("a", (net, "10.20.0.10"), declared=True)
    host_bridge(net)
    world.ensure(net, a)
    (guest,) = world.plug(net, a)
    outside, witness = packet_port(OUTSIDER, "eth0"), guest.port()
    mac = mac_of("eth0", OUTSIDER)
    last = ethernet(mac, guest.mac, 0x0800, ipv4(NEIGHBOUR, guest.address, 17, udp(7, 7, LAST)))

    def heard(frame: bytes) -> bool:
        witness.drain()
        outside.send(frame)
        outside.send(last)
        return witness.sees_before(b"heard", LAST)

    offer = ipv4(NEIGHBOUR, "255.255.255.255", 17, udp(67, 68, dhcp(2, guest.mac, b"heard")))
    assert heard(ethernet(mac, EVERYBODY, 0x0800, offer)), "addresses come from outside"
    other = ethernet(mac, "02:00:00:00:00:77", 0x0800, ipv4(NEIGHBOUR, "10.20.0.77", 17, udp(7, 7, b"heard")))
    assert not heard(other)
    router, everybody = "fe80::1", "ff02::1"
    advertisement = icmpv6(router, everybody, 134, b"heard".ljust(12, b"\0"))
    announced = ethernet(mac, "33:33:00:00:00:01", 0x86DD, ipv6(router, everybody, 58, advertisement))
    assert not heard(announced)
    # The network's own bridge is nobody: only the host's answers for the host, and for no address that is elsewhere.
    guest.ping(ON_BRIDGE, wait_s=0.3)
    assert neighbour_of(guest, ON_BRIDGE) == mac_of("br0")
    witness.drain()
    guest.run("ip neigh flush dev eth0")
    guest.ping(ON_BRIDGE, wait_s=0.3)
    answers = [frame for frame in witness.frames(0.3) if frame[12:14] == b"\x08\x06" and frame[21] == 2]
    assert len(answers) == 1


@isolated
def test_a_host_bridge_may_go_and_come_back(world: World) -> None:
    net = bridged()
    a = machine("a", (net, "10.20.0.10"), declared=True)
    host_bridge(net)
    world.ensure(net, a)
    (guest,) = world.plug(net, a)
    run("ip link delete br0")
    assert world.health() == {"net1": False}
    with pytest.raises(OperationalError, match="no bridge named br0"):
        world.ensure(net, a)
    run("ip link add br0 type bridge")
    run("ip link set br0 up")
    run("ip link set lan0 master br0")
    assert world.health() == {"net1": False}
    assert world.ensure(net, a) == "changed"
    assert world.health() == {"net1": True}
    assert guest.ping(NEIGHBOUR)
    run(f"ip link delete {names.uplink_port_name(INSTALLATION, net.id)}")
    assert world.health() == {"net1": False}
    assert world.ensure(net, a) == "changed"
    assert guest.ping(NEIGHBOUR)
    with pytest.raises(OperationalError, match="is a network's of Forkbed"):
        world.ensure(network("net2", uplink=UplinkKind.BRIDGE, bridge=world.networks.bridge_name(net)))


@isolated
def test_guests_of_an_earlier_version_are_taken_over(world: World) -> None:
    """It joined them to the host's bridge itself."""
    net = bridged()
    a = machine("a", (net, "10.20.0.10"), declared=True)
    host_bridge(net)
    guest = Guest(a, 0, "br0")
    world.ensure(net, a)
    assert guest.tap in run(f"ip -br link show master {world.networks.bridge_name(net)}")
    assert guest.ping(NEIGHBOUR)
    assert world.ensure(net, a) == "already"


_PUBLISH = (PublishSpec(8080, 80),)
_WAY_OUT = {"uplink": UplinkKind.NAT, "transit": "198.19.0.0/31"}


def led_out(identity: str) -> ResolvedNetwork:
    """One with the way out that goes from generation to generation."""
    return network(identity, lineage="root", **_WAY_OUT)  # type: ignore[arg-type]


def attempt() -> tuple[ResolvedNetwork, ResolvedMachine]:
    """The fork's network and machine."""
    net = network("net2", lineage="root", uplink=UplinkKind.RECORDED)
    return net, machine("a", (net, "10.20.0.10"), identity="copy-of-a")


def withdraw(world: World) -> ResolvedNetwork:
    """Take the way out from the old generation."""
    closed = network("net1", lineage="root")
    world.ensure(closed, machine("a", (closed, "10.20.0.10")), digest="kept")
    return closed


def take_up(world: World) -> None:
    """Give it to the new one."""
    promoted = led_out("net2")
    world.ensure(promoted, machine("a", (promoted, "10.20.0.10"), publish=_PUBLISH, identity="copy-of-a"))


@isolated
def test_published_ports_move_to_the_next_generation(world: World) -> None:
    """Without a host bridge: transit and ports go to another service namespace, which is reached at once."""
    live, (fork, copy) = led_out("net1"), attempt()
    a = machine("a", (live, "10.20.0.10"), publish=_PUBLISH)
    world.ensure(live, a)
    world.ensure(fork, copy, system="attempt")
    (old,), (new,) = world.plug(live, a), world.plug(fork, copy)
    for guest in (old, new):
        guest.route()
    with listener(old.path, 80) as server:
        assert tcp_reaches(HOST, "127.0.0.1", 8080, server)[0]
        assert tcp_reaches(WORLD, HOST_ADDRESS, 8080, server)[0] is False, "published on the loopback"
    withdraw(world)
    take_up(world)
    with listener(new.path, 80) as server, listener(WORLD, 80) as outside:
        assert tcp_reaches(HOST, "127.0.0.1", 8080, server, 0.5)[0]
        assert tcp_reaches(new.path, "198.18.0.254", 80, outside, 0.5)[0]
        assert not tcp_reaches(old.path, "198.18.0.254", 80, outside, 0.3)[0]


@isolated
def test_a_client_that_waits_is_answered_by_the_next_generation(world: World) -> None:
    """It has asked and says nothing more; the guest answers in the fork already, and again once it is live."""
    live, (fork, copy) = led_out("net1"), attempt()
    a = machine("a", (live, "10.20.0.10"), publish=_PUBLISH)
    world.ensure(live, a)
    (guest,) = world.plug(live, a)
    guest.route()
    with listener(guest.path, 80) as server, inet_socket(HOST, socket.SOCK_STREAM) as client:
        client.connect(("127.0.0.1", 8080))
        connection, _ = server.accept()
        client.sendall(b"question")
        assert connection.recv(100) == b"question"
        world.ensure(fork, copy, system="attempt")
        take_over(guest, copy, world.networks.bridge_name(fork))
        connection.sendall(b"answer")
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.recv(1)
        closed = withdraw(world)
        for _ in ("at first", "again after a crash"):
            world.networks.hand_over(closed, led_out("net2"))
        take_up(world)
        client.settimeout(60)  # TCP says it again after pauses that double: as long as all of it took so far
        assert client.recv(100) == b"answer"
        client.sendall(b"thanks")
        connection.settimeout(60)
        assert connection.recv(100) == b"thanks"
        connection.close()
