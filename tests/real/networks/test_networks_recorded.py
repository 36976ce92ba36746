"""A fork's world: what its guests try ends in the recorder, is understood and written down, and nothing leaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import smtplib
import socket
import ssl
import struct
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError

import pytest

from forkbed.core.networks.intents import Intent, IntentKind
from forkbed.core.systems.spec import ResolvedMachine, ResolvedNetwork, UplinkKind
from forkbed.drivers.networks import namespaces
from tests.contract import contracts, cut_contracts
from tests.real.networks.test_networks_traffic import NO_SUCH_NAME, lease, resolve
from tests.real.networks.world import (
    HOST_ADDRESS,
    LAST,
    NEVER_S,
    RUNTIME,
    SOON_S,
    STATE,
    WORLD,
    WORLD_ADDRESS,
    Guest,
    World,
    beacon,
    ethernet,
    inet_socket,
    ipv4,
    isolated,
    listener,
    mac_of,
    packet_port,
    run,
    tcp_reaches,
    udp,
    wait_until,
)
from tests.unit.networks.builders import machine, network

GATEWAY = "10.20.0.1"
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
IPV4 = 0x0800
Result = TypeVar("Result")


def original(uplink: UplinkKind = UplinkKind.NAT) -> tuple[ResolvedNetwork, ResolvedMachine]:
    net = network("net1", lineage="root", uplink=uplink, transit="198.19.0.0/31")
    return net, machine("a", (net, "10.20.0.10"))


def fork(identity: str = "net2", *names: str) -> tuple[ResolvedNetwork, tuple[ResolvedMachine, ...]]:
    net = network(identity, lineage="root", uplink=UplinkKind.RECORDED)
    members = tuple(
        machine(name, (net, f"10.20.0.{number}"), identity=f"{identity}-{name}")
        for number, name in enumerate(names or ("a",), start=10)
    )
    return net, members


def forked(world: World) -> tuple[ResolvedNetwork, Guest]:
    """A fork with one guest that knows its way out."""
    net, (a,) = fork()
    world.ensure(net, a)
    (guest,) = world.plug(net, a)
    guest.route()
    return net, guest


def inside(guest: Guest, action: Callable[[], Result]) -> Result:
    return namespaces.run_inside(guest.path, action)


def intents(world: World, net: ResolvedNetwork, after: int = 0) -> Sequence[Intent]:
    return world.networks.intents(net.id, after=after, limit=10_000)


def awaited(world: World, net: ResolvedNetwork, kind: IntentKind, count: int = 1) -> list[Intent]:
    """The intents of that kind, once there are so many."""

    def found() -> list[Intent]:
        return [intent for intent in intents(world, net) if intent.kind is kind]

    wait_until(lambda: len(found()) >= count, f"{count} of {kind}")
    assert len(found()) == count
    return found()


def counted(world: World, net: ResolvedNetwork) -> int:
    """How many tries are told of, those that were dropped too."""
    found = intents(world, net)
    return sum(int(i.details["count"]) if i.kind is IntentKind.DROPPED else 1 for i in found)


def recorder_pid(name: str = "recorder.pid", net: str = "net2") -> int:
    return int((RUNTIME / "networks" / net / name).read_text().partition(":")[0])


@contextlib.contextmanager
def connected(guest: Guest, address: str, port: int) -> Iterator[socket.socket]:
    with inet_socket(guest.path, TCP) as client:
        client.connect((address, port))
        yield client


def ends(client: socket.socket) -> bool:
    """Whether the other side ends the connection."""
    client.settimeout(SOON_S)
    try:
        while client.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    return True


# What a fork finds


@isolated
def test_a_fork_finds_the_same_gateway_names_and_addresses(world: World) -> None:
    old, a = original()
    world.ensure(old, a)
    (first,) = world.plug(old, a, configure=False)
    new, (copy,) = fork()
    world.ensure(new, copy, digest="d2")
    (second,) = world.plug(new, copy, configure=False)
    assert lease(first) == lease(second)
    assert lease(second)["router"] == GATEWAY
    gateways = [Path(world.networks.namespace(net)) for net in (old, new)]
    assert mac_of("eth0", gateways[0]) == mac_of("eth0", gateways[1])
    for guest in (first, second):
        guest.run("ip addr add 10.20.0.10/24 dev eth0")
        assert resolve(guest.path, "a.boss-ops") == (0, "10.20.0.10")
    assert world.health() == {"net1": True, "net2": True}
    shown = namespaces.run_inside(gateways[1], lambda: json.loads(run("ip -j link")))
    assert {link["ifname"] for link in shown} == {"lo", "eth0"}, "no interface leads out"
    assert world.ensure(new, copy, digest="d2") == "already"
    assert world.driver().ensure("id-of-boss-ops", "boss-ops", new, [copy], "d2") == "already"  # type: ignore[arg-type]


@isolated
def test_names_lead_to_the_recorder_and_are_written_down(world: World) -> None:
    net, guest = forked(world)
    code, address = resolve(guest.path, "Example.org")
    assert code == 0 and address.startswith("198.18.")
    assert resolve(guest.path, "example.org") == (0, address), "the same again"
    assert resolve(guest.path, "example.org", server="9.9.9.9") == (0, address), "whoever is asked"
    assert resolve(guest.path, "example.org", kind=28) == (0, "")
    assert resolve(guest.path, "other.org")[1] not in ("", address)
    assert resolve(guest.path, "nobody.boss-ops") == (NO_SUCH_NAME, ""), (
        "the system's names are dnsmasq's alone"
    )
    found = awaited(world, net, IntentKind.DNS, 3)
    assert [(i.host, i.details["type"], i.details["answer"]) for i in found] == [
        ("example.org", "A", address),
        ("example.org", "AAAA", ""),
        ("other.org", "A", found[2].details["answer"]),
    ]
    assert {(i.source, i.destination, i.port) for i in found} == {("10.20.0.10", GATEWAY, 53)}


@isolated
def test_who_asks_for_a_name_is_known_though_it_says_otherwise(world: World) -> None:
    net, members = fork("net2", "a", "b")
    world.ensure(net, *members)
    for guest, server, name in zip(world.plug(net, *members), (GATEWAY, "9.9.9.9"), "xy", strict=True):
        guest.route()
        subnet = struct.pack("!HHHBB", 8, 8, 1, 32, 0) + socket.inet_aton("10.20.0.99")
        record = b"\0" + struct.pack("!HHIH", 41, 1232, 0, len(subnet)) + subnet
        query = (
            struct.pack("!6H", 7, 0x0100, 1, 0, 0, 1) + b"\1" + name.encode() + b"\3org\0\0\1\0\1" + record
        )
        with inet_socket(guest.path, UDP) as client:
            client.sendto(query, (server, 53))
            assert client.recv(1000)[6:8] == b"\0\1"
    found = awaited(world, net, IntentKind.DNS, 2)
    assert {i.host: (i.source, i.destination) for i in found} == {
        "x.org": ("10.20.0.10", GATEWAY),
        "y.org": ("10.20.0.11", "9.9.9.9"),
    }


@isolated
def test_names_are_answered_over_tcp_too(world: World) -> None:
    net, guest = forked(world)
    query = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\1%c\3org\0\0\1\0\1"
    for server, letter in ((GATEWAY, b"x"), ("9.9.9.9", b"y")):
        with connected(guest, server, 53) as client:
            client.sendall(len(query % letter).to_bytes(2, "big") + query % letter)
            assert client.recv(1000)[2 + 6 : 2 + 8] == b"\0\1"
    found = awaited(world, net, IntentKind.DNS, 2)
    assert [(i.host, i.source, i.destination) for i in found] == [
        ("x.org", "10.20.0.10", GATEWAY),
        ("y.org", "10.20.0.10", "9.9.9.9"),
    ]


# What it tries


@isolated
def test_a_request_by_name(world: World) -> None:
    net, guest = forked(world)
    address = resolve(guest.path, "example.org")[1]
    body = b"x" * (1 << 20)  # more than fits into any buffer: the answer has to arrive in spite of it

    def post() -> tuple[int, bytes]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(
            f"http://{address}:8080/orders?id=1", body, {"Host": "example.org:8080"}
        )
        try:
            opener.open(request, timeout=SOON_S)
        except HTTPError as refused:
            return refused.code, refused.read()
        raise AssertionError("it was accepted")

    code, text = inside(guest, post)
    assert code == 503 and b"This is a fork" in text
    (found,) = awaited(world, net, IntentKind.HTTP)
    assert (found.source, found.destination, found.port, found.host) == (
        "10.20.0.10",
        address,
        8080,
        "example.org",
    )
    assert found.details == {"method": "POST", "host": "example.org:8080", "path": "/orders?id=1"}


@isolated
@pytest.mark.parametrize("port", [25, 4025])
def test_a_mail(world: World, port: int) -> None:
    net, guest = forked(world)
    message = "Subject: The report\r\n\r\n" + "line\r\n" * 50_000

    def send() -> None:
        with smtplib.SMTP("192.0.2.25", port, timeout=SOON_S) as client:
            client.login("somebody", "secret")
            refused = client.sendmail("boss@example.org", ["a@x.org", "b@y.org"], message)
            assert not refused

    inside(guest, send)
    (found,) = awaited(world, net, IntentKind.SMTP)
    assert (found.destination, found.port) == ("192.0.2.25", port)
    assert found.details == {
        "sender": "boss@example.org",
        "recipients": "a@x.org, b@y.org",
        "subject": "The report",
    }
    assert "secret" not in (STATE / "intents/net2/intents-0.jsonl").read_text()


@isolated
def test_an_encrypted_connection(world: World) -> None:
    net, guest = forked(world)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with connected(guest, "192.0.2.1", 443) as client, pytest.raises(ssl.SSLError, match="handshake failure"):
        context.wrap_socket(client, server_hostname="shop.example.org")
    (found,) = awaited(world, net, IntentKind.TLS)
    assert (found.host, found.details, found.port) == ("shop.example.org", {"host": "shop.example.org"}, 443)


@isolated
def test_other_connections_are_known_by_their_first_bytes(world: World) -> None:
    net, guest = forked(world)
    with connected(guest, "192.0.2.5", 5432) as client:
        client.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")
        assert ends(client)
    with connected(guest, "192.0.2.6", 22):
        pass  # gone before anything was said
    with connected(guest, "192.0.2.7", 3306) as client:
        assert client.recv(100).startswith(b"220 "), "as a mail server, to see who waits"
    found = {i.destination: i for i in awaited(world, net, IntentKind.TCP, 3)}
    assert found["192.0.2.5"].first_bytes == r"\x00\x00\x00\x08\x04\xd2\x16/"
    assert {i.port for i in found.values()} == {5432, 22, 3306}


@isolated
def test_datagrams_of_one_exchange_are_one_try(world: World) -> None:
    net, guest = forked(world)
    with inet_socket(guest.path, UDP) as client, inet_socket(guest.path, UDP) as other:
        for _ in range(3):
            client.sendto(b"\x1b\0\0hello", ("192.0.2.123", 123))
        client.sendto(b"elsewhere", ("192.0.2.124", 53))
        other.sendto(b"", ("192.0.2.123", 123))
    found = awaited(world, net, IntentKind.UDP, 3)
    assert [(i.destination, i.port, i.first_bytes) for i in found] == [
        ("192.0.2.123", 123, r"\x1b\x00\x00hello"),
        ("192.0.2.124", 53, "elsewhere"),
        ("192.0.2.123", 123, ""),
    ]


@isolated
def test_what_was_connected_before_the_cut_is_reset(world: World) -> None:
    """A guest is taken over to the fork with its connections: one outwards, one to a neighbour, one from its host.

    The last one is not: should the fork take the original's place, whoever asked still waits for the answer.
    """
    old, a = original()
    b = machine("b", (old, "10.20.0.11"))
    world.ensure(old, a, b)
    first, second = world.plug(old, a, b)
    first.route()
    new, copies = fork("net2", "a", "b")
    world.ensure(new, *copies, digest="d2")
    gateway = Path(world.networks.namespace(old))
    with (
        listener(WORLD, 80) as web,
        listener(first.path, 22) as ssh,
        listener(second.path, 5432) as database,
        connected(first, WORLD_ADDRESS, 80) as outwards,
        connected(first, second.address, 5432) as to_neighbour,
        inet_socket(gateway, TCP) as from_host,
    ):
        from_host.connect((first.address, 22))
        answering, connections = ssh.accept()[0], [web.accept()[0], database.accept()[0]]
        for guest, copy in ((first, copies[0]), (second, copies[1])):
            take_over(guest, copy, world.networks.bridge_name(new))
        outwards.sendall(b"still there?")
        assert ends(outwards)
        answering.sendall(b"still there?")
        answering.settimeout(0.5)
        with pytest.raises(TimeoutError):
            answering.recv(1)
        to_neighbour.sendall(b"still there?")
        connections[1].settimeout(SOON_S)
        assert connections[1].recv(100) == b"still there?", "inside the fork connections live on"
        for connection in (answering, *connections):
            connection.close()


def take_over(guest: Guest, copy: ResolvedMachine, bridge: str) -> None:
    """Plug what is running into the fork's network, as its memory would be."""
    run(f"ip link set {guest.tap} down")
    run(f"ip link set {guest.tap} name {copy.nics[0].tap}")
    run(f"ip link set {copy.nics[0].tap} master {bridge}")
    run(f"ip link set {copy.nics[0].tap} up")


# As the ports promise


@isolated
def test_the_recorder_keeps_its_contract(world: World) -> None:
    old, a = original(UplinkKind.NONE)
    world.ensure(old, a)
    new, guest = forked(world)
    world.plug(old, a)[0].route()
    for port in (80, 443, 25):
        for path in (namespaces.path_of("guest-m-a-0"), guest.path):
            with inet_socket(path, TCP) as client:
                client.settimeout(0.2 if path != guest.path else SOON_S)
                with contextlib.suppress(TimeoutError):
                    client.connect(("192.0.2.1", port))
        awaited(world, new, IntentKind.TCP, (80, 443, 25).index(port) + 1)
    cut_contracts.recorders_tell_in_order(world.networks, new.id, old.id)


@isolated
def test_a_forks_network_keeps_the_contract_of_networks(world: World) -> None:
    net, (a,) = fork()
    contracts.networks_are_there_or_not(world.networks, net, a)


# What it does not reach


@isolated
def test_nothing_leaves(world: World) -> None:
    old, a = original()
    world.ensure(old, a)
    (first,) = world.plug(old, a)
    net, guest = forked(world)
    gateway_mac = mac_of("eth0", Path(world.networks.namespace(net)))
    foreign = Path(world.networks.namespace(old))
    witnesses = [
        packet_port(WORLD, "host"),
        packet_port(Path("/proc/1/ns/net"), "outside"),
        packet_port(foreign, "eth0"),
        packet_port(foreign, "uplink"),
        first.port(),
    ]
    addresses = (
        WORLD_ADDRESS,
        HOST_ADDRESS,
        "198.19.0.0",
        "198.19.0.1",
        "10.20.0.11",
        "255.255.255.255",
        "8.8.8.8",
    )
    for address in addresses:
        for protocol, payload in (
            (17, udp(7777, 9999, b"leak")),
            (6, struct.pack("!HHIIBBHHH", 7777, 80, 1, 0, 0x50, 0x02, 8192, 0, 0) + b"leak"),
            (1, b"\x08\0\0\0\0\0\0\0leak"),
            (47, b"\0\0\x08\0leak"),
            (132, b"leak" * 4),
        ):
            guest.port().send(
                ethernet(guest.mac, gateway_mac, IPV4, ipv4(guest.address, address, protocol, payload))
            )
    with listener(WORLD, 80) as server:
        assert not tcp_reaches(guest.path, WORLD_ADDRESS, 80, server, NEVER_S)[0], "the recorder took it"
    for address in (WORLD_ADDRESS, HOST_ADDRESS, "8.8.8.8", "169.254.169.254"):
        assert not guest.ping(address, wait_s=NEVER_S)
    assert guest.ping(GATEWAY)
    first.port().send(beacon(first, "ff:ff:ff:ff:ff:ff", "255.255.255.255", LAST))
    assert not witnesses[2].sees_before(b"leak", LAST)
    assert not any(witness.sees(b"leak", NEVER_S) for witness in witnesses)
    # The control: by the original's way out the same datagram is seen.
    first.route()
    with inet_socket(first.path, UDP) as client:
        client.sendto(b"leak", (WORLD_ADDRESS, 9999))
        assert witnesses[0].sees(b"leak")
    found = {(i.kind, i.destination) for i in intents(world, net)}
    assert {("udp", address) for address in addresses[:4]} <= found
    assert not {i.destination for i in intents(world, net)} & {
        "10.20.0.11",
        "255.255.255.255",
        "169.254.169.254",
    }


@isolated
def test_the_recorder_has_no_rights(world: World) -> None:
    _, guest = forked(world)
    with connected(guest, "192.0.2.1", 80):
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{recorder_pid()}/status").read_text().splitlines()
        )
    assert "0" not in status["Uid"].split() + status["Gid"].split()
    assert status["Groups"].strip() == ""
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapInh"], 16) == 0
    assert os.getpriority(os.PRIO_PROCESS, recorder_pid()) > 0, "guests come first"


@isolated
def test_identical_connections_in_original_and_forks_do_not_meet(world: World) -> None:
    """Same addresses, ports, and MACs at the same time, also where the host looks at bridged frames."""
    bridged = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if bridged.exists():
        bridged.write_text("1")
    sides = []
    old, a = original()
    world.ensure(old, a, machine("b", (old, "10.20.0.11")))
    sides.append((old, world.plug(old, a, machine("b", (old, "10.20.0.11")))))
    for identity in ("net2", "net3"):
        net, members = fork(identity, "a", "b")
        world.ensure(net, *members, system=identity)
        sides.append((net, world.plug(net, *members)))
    with contextlib.ExitStack() as stack:
        pairs = []
        for _, (first, second) in sides:
            server = stack.enter_context(listener(second.path, 80))
            client = stack.enter_context(inet_socket(first.path, TCP, "", 7777))
            client.connect((second.address, 80))
            pairs.append((client, stack.enter_context(server.accept()[0])))
        for number, (client, server_end) in enumerate(pairs):
            client.sendall(b"%d" % number)
            server_end.settimeout(SOON_S)
            assert server_end.recv(10) == b"%d" % number
            server_end.sendall(b"%d" % number)
            assert client.recv(10) == b"%d" % number
        tracked = Path("/proc/net/nf_conntrack")
        assert "10.20.0." not in (tracked.read_text() if tracked.exists() else run("conntrack -L"))
        for net, (first, _) in sides[1:]:
            first.route()
            with connected(first, "192.0.2.1", 80) as client:
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert ends(client)
            inside_count = namespaces.run_inside(
                Path(world.networks.namespace(net)),
                lambda: Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text(),
            )
            assert int(inside_count) == 0, (
                "what goes to the recorder is not tracked, so guests cannot fill the table"
            )


# How much of it


@isolated
def test_what_is_too_much_is_counted(world: World) -> None:
    """Also what the kernel had no room for: it tells with the next datagram that finds room."""
    net, guest = forked(world)
    sent = 0
    with inet_socket(guest.path, UDP) as client:

        def send(count: int) -> None:
            nonlocal sent
            for _ in range(count):
                sent += 1
                client.sendto(b"flood", ("192.0.2.1", 1000 + sent))

        def all_are_told() -> bool:
            send(1)
            time.sleep(0.1)
            return counted(world, net) == sent

        send(5000)
        wait_until(all_are_told, "that all are told of")
    assert 500 <= len(intents(world, net)) < 2000


@isolated
def test_connections_at_a_time_are_bounded(world: World) -> None:
    net, members = fork("net2", *"abcdef")
    world.ensure(net, *members)
    held = refused = 0
    with contextlib.ExitStack() as stack:
        for guest in world.plug(net, *members):
            guest.route()
            for _ in range(80):
                client = stack.enter_context(inet_socket(guest.path, TCP))
                try:
                    client.connect(("192.0.2.25", 25))
                    client.recv(100)
                    held += 1
                except ConnectionResetError:
                    refused += 1
        assert (held, refused) == (256, 6 * 80 - 256)
        memory = Path(f"/proc/{recorder_pid()}/status").read_text()
        assert int(memory.partition("VmRSS:")[2].split()[0]) < 64 << 10
    wait_until(lambda: counted(world, net) >= held + refused, "that all are told of")
    assert counted(world, net) == held + refused


@isolated
def test_a_guest_that_never_hangs_up_is_cut_off(world: World) -> None:
    net, guest = forked(world)
    namespace = Path(world.networks.namespace(net))

    def sockets() -> list[str]:
        """What the kernel keeps of connections, listening sockets left out."""
        lines = namespaces.run_inside(namespace, lambda: Path("/proc/thread-self/net/tcp").read_text())
        return [line for line in lines.splitlines()[1:] if line.split()[3] != "0A"]

    with connected(guest, "192.0.2.1", 80) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 503")
        assert sockets()
        wait_until(lambda: not sockets(), "that nothing is left of the connection")
    awaited(world, net, IntentKind.HTTP)


# How long it lives


@isolated
def test_the_recorder_outlives_who_started_it(world: World) -> None:
    net, (a,) = fork()
    child = os.fork()
    if child == 0:  # a `serve` that is killed as soon as the network is there
        world.ensure(net, a)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (guest,) = world.plug(net, a)
    guest.route()
    assert resolve(guest.path, "example.org")[0] == 0
    awaited(world, net, IntentKind.DNS)
    assert world.health() == {"net2": True}
    assert world.ensure(net, a) == "already"


@isolated
def test_a_recorder_that_was_killed_comes_back_by_itself(world: World) -> None:
    net, guest = forked(world)
    address = resolve(guest.path, "example.org")[1]
    keeper, killed = recorder_pid("recorder-keeper.pid"), recorder_pid()
    assert os.getsid(keeper) == keeper, "a session of its own"
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: recorder_pid() != killed and world.health() == {"net2": True}, "its return")
    with connected(guest, address, 22):
        pass
    (found,) = awaited(world, net, IntentKind.TCP)
    assert (found.sequence, found.host) == (2, "example.org"), "names and numbers go on"
    # The keeper itself is started anew by `ensure`.
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: world.health() == {"net2": False}, "that it is missed")
    assert resolve(guest.path, "a") == (0, "10.20.0.10"), "dnsmasq does without"
    assert world.ensure(net, fork()[1][0]) == "changed"
    assert world.health() == {"net2": True}
    assert resolve(guest.path, "example.org") == (0, address)
    session = recorder_pid("recorder-keeper.pid")
    shown = run(f"ps -ww -s {session} -o args").splitlines()
    assert sum("net2/recorder.json" in line for line in shown) == 2, "keeper and recorder"


@isolated
def test_intents_outlive_the_runtime_directory_and_go_with_the_network(world: World) -> None:
    net, guest = forked(world)
    resolve(guest.path, "example.org")
    awaited(world, net, IntentKind.DNS)
    # As after a boot of the host: what is in memory is gone.
    run("ip link delete " + world.networks.bridge_name(net))
    run("nft flush ruleset")
    run("rm -r /run/forkbed/networks/net2")
    for name in ("recorder.json", "dnsmasq.conf"):
        for pid in [
            int(line.split()[0]) for line in run("ps -eo pid,args").splitlines() if f"net2/{name}" in line
        ]:
            os.kill(pid, signal.SIGKILL)
    run("ip netns delete fb-t1st-net2")
    (view,) = world.driver().networks()
    assert (view.network_id, view.system_id, view.digest, view.healthy) == (
        "net2",
        "id-of-boss-ops",
        "",
        False,
    )
    assert len(intents(world, net)) == 1
    assert world.ensure(net, fork()[1][0]) == "changed"
    gateway = Path(world.networks.namespace(net))
    resolve(gateway, "other.org")
    assert [i.sequence for i in awaited(world, net, IntentKind.DNS, 2)] == [1, 2]
    assert world.networks.remove(net.id) == "changed"
    assert intents(world, net) == []
    assert list((STATE / "intents").iterdir()) == []
    assert world.networks.networks() == []
    assert world.networks.remove(net.id) == "already"


@isolated
def test_a_fork_that_gets_the_way_out_records_no_more(world: World) -> None:
    """And back again."""
    net, guest = forked(world)
    with listener(WORLD, 80) as server:
        assert not tcp_reaches(guest.path, WORLD_ADDRESS, 80, server, NEVER_S)[0]
        promoted = network("net2", lineage="root", uplink=UplinkKind.NAT, transit="198.19.0.2/31")
        assert world.ensure(promoted, fork()[1][0], digest="d2") == "changed"
        assert tcp_reaches(guest.path, WORLD_ADDRESS, 80, server)[0]
        assert intents(world, net) == []
        assert not [line for line in run("ps -eo args").splitlines() if "recorder.json" in line]
        assert world.ensure(net, fork()[1][0], digest="d3") == "changed"
        assert not tcp_reaches(guest.path, WORLD_ADDRESS, 80, server, NEVER_S)[0]
    assert awaited(world, net, IntentKind.TCP)[0].destination == WORLD_ADDRESS


# What was on a host bridge


def bridge_fork(
    *members: tuple[str, str], declared: bool = True
) -> tuple[ResolvedNetwork, list[ResolvedMachine]]:
    net = network("net2", lineage="root", uplink=UplinkKind.RECORDED, bridge="br0")
    return net, [machine(name, (net, address), declared=declared) for name, address in members]


@isolated
def test_on_a_segment_of_others_the_neighbours_are_the_world(world: World) -> None:
    net, members = bridge_fork(("a", "10.20.0.10"), ("b", "10.20.0.11"))
    world.ensure(net, *members)
    a, b = world.plug(net, *members)
    a.route("10.20.0.254")  # the segment's router, which the fork has not
    gateway = Path(world.networks.namespace(net))
    assert a.ping(b.address)
    with listener(b.path, 80) as server:
        assert tcp_reaches(a.path, b.address, 80, server)[0], "its own machines are reached"
        assert tcp_reaches(gateway, b.address, 80, server)[0], "from the host too"
    for address in ("10.20.0.99", "192.0.2.1"):
        with connected(a, address, 80) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 503")
    assert [i.destination for i in awaited(world, net, IntentKind.HTTP, 2)] == ["10.20.0.99", "192.0.2.1"]
    assert resolve(a.path, "example.org", server="10.20.0.254")[1].startswith("198.18.")
    assert world.ensure(net, *members) == "already"
    # The router as the guest knew it before the cut, also after the namespace's interface was made anew.
    a.run("ip neigh replace 10.20.0.254 lladdr 02:00:00:00:00:99 dev eth0 nud permanent")
    for damage in (f"ip link set {a.tap} up", f"ip link delete {world.networks.bridge_name(net)}s"):
        run(damage)
        world.ensure(net, *members)
        with connected(a, "192.0.2.2", 80) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 503")
    assert world.ensure(net, members[0], digest="d2") == "changed"
    assert lease(a)["ip"] == "10.20.0.10"


@isolated
def test_an_address_that_the_segment_gave_is_the_guests_own(world: World) -> None:
    net, (member,) = bridge_fork(("a", "10.20.0.10"), declared=False)
    world.ensure(net, member)
    (a,) = world.plug(net, member, configure=False)
    a.run("ip addr add 10.20.0.137/24 dev eth0")
    a.route()
    with connected(a, "192.0.2.1", 22):
        pass
    assert awaited(world, net, IntentKind.TCP)[0].source == "10.20.0.137"
    own = network("net2", lineage="root", uplink=UplinkKind.RECORDED)
    assert world.ensure(own, member, digest="d2") == "changed"
    assert world.ensure(own, member, digest="d2") == "already"
    tables = namespaces.run_inside(Path(world.networks.namespace(net)), lambda: run("nft list tables"))
    assert tables == "table inet forkbed\n", "frames for other MACs are not taken where there are no others"
