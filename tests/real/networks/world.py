"""A small world for networks without hypervisor: a host, the world outside of it, and fake guests.

Everything lives in network, mount and process namespaces of one child process, so a test leaves nothing behind
even if it is killed. A fake guest is a network namespace whose veth has the tap's name on the host; it sends any
frame through a packet socket. `isolated` runs a test function in such a child.

        world (198.18.0.254) --- host (198.18.0.1) === transits === service namespaces --- bridges --- guests
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import json
import logging
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Protocol

import pytest
import structlog

from forkbed.base.ids import SystemId
from forkbed.core.systems.spec import ResolvedMachine, ResolvedNetwork
from forkbed.core.systems.steps import Effect
from forkbed.drivers import processes
from forkbed.drivers.networks import namespaces
from forkbed.drivers.networks.links import Links
from forkbed.drivers.networks.linux import LinuxNetworks
from tests.unit.networks.builders import INSTALLATION

POOL = IPv4Network("198.19.0.0/16")
HOST_ADDRESS = "198.18.0.1"
WORLD_ADDRESS = "198.18.0.254"
SYSTEM = "boss-ops"
HOST = Path("/proc/1/ns/net")
WORLD = namespaces.path_of("world")
RUNTIME = Path("/run/forkbed")
STATE = Path("/run/forkbed-state")
SOON_S = 10.0
NEVER_S = 0.3
"""How long to wait for what should not come, where nothing that must come can be waited for instead."""

_ALL_PROTOCOLS = 0x0003
_REPOSITORY = Path(__file__).parents[3]


def isolated(function: Callable[..., None]) -> Callable[..., None]:
    """Run the test in a child with namespaces of its own; it gets a `World` before its parameters."""

    @functools.wraps(function)
    def outer(**parameters: object) -> None:
        argv = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        argv += [sys.executable, "-m", __name__, function.__module__, function.__name__]
        argv += [json.dumps(parameters)]
        environment = os.environ | {"PYTHONPATH": f"{_REPOSITORY}:{_REPOSITORY / 'src'}"}
        done = subprocess.run(
            argv, cwd=_REPOSITORY, env=environment, capture_output=True, text=True, timeout=120
        )
        if done.returncode != 0:
            pytest.fail(f"{done.stderr}\n{done.stdout}".strip(), pytrace=False)

    signature = inspect.signature(function)
    outer.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    return outer


def main() -> None:
    """The child: make the world, run the one test, let the kernel clean up."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    module, function, parameters = sys.argv[1:]
    test = getattr(importlib.import_module(module), function).__wrapped__
    world = World()
    try:
        test(world, **json.loads(parameters))
    except BaseException:
        world.describe()
        raise


@dataclass(frozen=True, slots=True)
class Port:
    """A packet socket on an interface: sends and sees whole frames."""

    socket: socket.socket

    def send(self, frame: bytes) -> None:
        self.socket.send(frame)

    def drain(self) -> None:
        """Forget what came in so far."""
        while select.select([self.socket], [], [], 0)[0]:
            self.socket.recv(65535)

    def frames(self, timeout_s: float) -> Iterator[bytes]:
        """Incoming frames until the time is over."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            if select.select([self.socket], [], [], left_s)[0]:
                data, source = self.socket.recvfrom(65535)
                if source[2] != socket.PACKET_OUTGOING:
                    yield data

    def sees(self, marker: bytes, timeout_s: float = SOON_S) -> bool:
        """Whether a frame that holds `marker` comes in."""
        return any(marker in frame for frame in self.frames(timeout_s))

    def sees_before(self, marker: bytes, last: bytes) -> bool:
        """Whether a frame with `marker` comes in before one with `last`, which must come."""
        for frame in self.frames(SOON_S):
            if marker in frame:
                return True
            if last in frame:
                return False
        raise AssertionError(f"the frame that must arrive did not: {last!r}")


class Peer(Protocol):
    """What an attack knows of a guest, fake or real."""

    @property
    def mac(self) -> str: ...

    @property
    def address(self) -> str: ...


class Guest:
    """A fake machine's NIC: a namespace with `eth0`, whose other end on the host has the tap's name."""

    def __init__(self, machine: ResolvedMachine, index: int, bridge: str, *, configure: bool = True) -> None:
        self.nic = machine.nics[index]
        self.name = f"guest-{machine.id}-{index}"
        self.path = namespaces.path_of(self.name)
        self.tap = self.nic.tap
        run(f"ip netns add {self.name}")
        run(f"ip link add {self.tap} mtu 1442 type veth peer name eth0 mtu 1442 netns {self.name}")
        run(f"ip -n {self.name} link set eth0 address {self.nic.mac}")
        # As libvirt does: the host's end has a MAC of its own, is joined, then brought up.
        run(f"ip link set {self.tap} address fe{self.nic.mac[2:]}")
        run(f"ip link set {self.tap} master {bridge}")
        run(f"ip link set {self.tap} up")
        run(f"ip -n {self.name} link set eth0 up")
        if configure:
            run(f"ip -n {self.name} addr add {self.nic.address}/24 dev eth0")

    @property
    def address(self) -> str:
        return str(self.nic.address)

    @property
    def mac(self) -> str:
        return self.nic.mac

    def route(self, gateway: str = "10.20.0.1") -> None:
        run(f"ip -n {self.name} route replace default via {gateway}")

    def port(self) -> Port:
        return packet_port(self.path, "eth0")

    def run(self, command: str) -> str:
        return run(f"ip netns exec {self.name} {command}")

    def ping(self, address: str, *, wait_s: float = 2.0) -> bool:
        """Whether it is answered in time."""
        command = f"ip netns exec {self.name} ping -n -q -c 1 -W {wait_s} {address}"
        return subprocess.run(command.split(), capture_output=True).returncode == 0


class World:
    """The host with a way to the world, and the driver under test."""

    def __init__(self) -> None:
        run("mount -t tmpfs none /run")
        run("ip link set lo up")
        for key, value in (("ip_forward", "1"), ("conf/all/rp_filter", "0"), ("conf/default/rp_filter", "0")):
            Path(f"/proc/sys/net/ipv4/{key}").write_text(value)
        for kind in ("iptables", "ip6tables", "arptables"):
            with contextlib.suppress(FileNotFoundError):
                Path(f"/proc/sys/net/bridge/bridge-nf-call-{kind}").write_text("0")
        run("ip netns add world")
        run("ip link add outside type veth peer name host netns world")
        run(f"ip addr add {HOST_ADDRESS}/24 dev outside")
        run("ip link set outside up")
        run("ip -n world link set lo up")
        run("ip -n world link set host up")
        run(f"ip -n world addr add {WORLD_ADDRESS}/24 dev host")
        run(f"ip route add default via {WORLD_ADDRESS}")
        RUNTIME.mkdir(mode=0o755)
        Path("/run/resolv.conf").write_text(f"nameserver {WORLD_ADDRESS}\n")
        self.networks = self.driver()

    def driver(self) -> LinuxNetworks:
        """Another instance with the same settings, as after a restart."""
        return LinuxNetworks(INSTALLATION, RUNTIME, STATE, POOL, resolvers=[Path("/run/resolv.conf")])

    def ensure(
        self, network: ResolvedNetwork, *members: ResolvedMachine, digest: str = "d1", system: str = SYSTEM
    ) -> Effect:
        return self.networks.ensure(SystemId(f"id-of-{system}"), system, network, members, digest)

    def plug(
        self, network: ResolvedNetwork, *members: ResolvedMachine, configure: bool = True
    ) -> list[Guest]:
        """The members' NICs on the network."""
        bridge = self.networks.bridge_name(network)
        return [
            Guest(machine, index, bridge, configure=configure)
            for machine in members
            for index, nic in enumerate(machine.nics)
            if nic.network_id == network.id
        ]

    def drop_rules(self, *networks: ResolvedNetwork) -> None:
        """Remove every rule on the host and in the service namespaces: what an attack meets without us."""
        run("nft flush ruleset")
        for network in networks:
            namespaces.run_inside(Path(self.networks.namespace(network)), lambda: run("nft flush ruleset"))

    def health(self) -> dict[str, bool]:
        return {str(view.network_id): view.healthy for view in self.networks.networks()}

    def describe(self) -> None:
        """Print what there is, for whoever reads about a failure."""
        for command in ("ip -br link", "ip -br addr", "ip netns", "nft list ruleset"):
            print(f"--- {command}\n{run(command)}")
        for log in RUNTIME.glob("networks/*/*.log"):
            print(f"--- {log}\n{log.read_text()}")


def run(command: str) -> str:
    """A command's output; it must succeed."""
    return processes.run(command.split()).text


def mac_of(interface: str, namespace: Path = HOST) -> str:
    """The MAC of an interface, of the host's if no namespace is given."""

    def look() -> str:
        with Links() as links:
            return links.all()[interface].mac

    return namespaces.run_inside(namespace, look)


def packet_port(namespace: Path, interface: str) -> Port:
    def open_socket() -> Port:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
        opened.bind((interface, _ALL_PROTOCOLS))
        return Port(opened)

    return namespaces.run_inside(namespace, open_socket)


def inet_socket(namespace: Path, kind: socket.SocketKind, address: str = "", port: int = 0) -> socket.socket:
    """A socket of that namespace, bound where an address or port is given."""

    def open_socket() -> socket.socket:
        opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address or port:
            opened.bind((address, port))
        opened.settimeout(SOON_S)
        return opened

    return namespaces.run_inside(namespace, open_socket)


@contextlib.contextmanager
def listener(namespace: Path, port: int, address: str = "") -> Iterator[socket.socket]:
    """A TCP socket that listens."""
    with inet_socket(namespace, socket.SOCK_STREAM, address, port) as opened:
        opened.listen()
        yield opened


def tcp_reaches(
    namespace: Path, address: str, port: int, server: socket.socket, timeout_s: float = 2.0
) -> tuple[bool, str]:
    """Whether a connection from the namespace is taken by `server` and carries bytes; the client it sees."""
    with inet_socket(namespace, socket.SOCK_STREAM) as client:
        client.settimeout(timeout_s)
        try:
            client.connect((address, port))
        except OSError:
            return False, ""
        if not select.select([server], [], [], timeout_s)[0]:
            return False, ""
        connection, source = server.accept()
        with connection:
            client.sendall(b"to and")
            heard = connection.recv(100)
            connection.sendall(b"fro")
            return (heard, client.recv(100)) == (b"to and", b"fro"), str(source[0])


def udp_reaches(
    namespace: Path, address: str, port: int, server: socket.socket, timeout_s: float = 2.0
) -> tuple[bool, str]:
    """Whether a datagram from the namespace reaches `server` and its answer comes back; the client it sees."""
    with inet_socket(namespace, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout_s)
        try:
            client.sendto(b"to", (address, port))
        except OSError:
            return False, ""
        if not select.select([server], [], [], timeout_s)[0]:
            return False, ""
        data, source = server.recvfrom(100)
        server.sendto(b"fro", source)
        return (data, client.recv(100)) == (b"to", b"fro"), str(source[0])


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)


# Frames


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def address_bytes(address: str) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address)


def ethernet(source: str, target: str, kind: int, payload: bytes) -> bytes:
    return mac_bytes(target) + mac_bytes(source) + struct.pack("!H", kind) + payload


def arp(operation: int, sender: tuple[str, str], target: tuple[str, str]) -> bytes:
    """An ARP message of (MAC, IP) sender and target."""
    return (
        struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
        + mac_bytes(sender[0])
        + address_bytes(sender[1])
        + mac_bytes(target[0])
        + address_bytes(target[1])
    )


def checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return int(~(total + (total >> 16)) & 0xFFFF)


def ipv4(source: str, target: str, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    """`fragment`: offset in 8-byte units, with 0x2000 for "more to come"."""
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0)
    header += address_bytes(source) + address_bytes(target)
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def udp(source_port: int, target_port: int, payload: bytes) -> bytes:
    return struct.pack("!HHHH", source_port, target_port, 8 + len(payload), 0) + payload


def ipv6(source: str, target: str, next_header: int, payload: bytes) -> bytes:
    return (
        struct.pack("!IHBB", 0x60000000, len(payload), next_header, 255)
        + address_bytes(source)
        + address_bytes(target)
        + payload
    )


def icmpv6(source: str, target: str, kind: int, body: bytes) -> bytes:
    """The ICMPv6 message alone, with a good checksum."""
    message = struct.pack("!BBH", kind, 0, 0) + body
    pseudo = address_bytes(source) + address_bytes(target) + struct.pack("!II", len(message), 58)
    return message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]


def dhcp(operation: int, client_mac: str, marker: bytes, relay: str = "0.0.0.0") -> bytes:
    """A DHCP message: 1 from a client (discover), 2 from a server (offer)."""
    kind = {1: 1, 2: 2}[operation]
    head = struct.pack("!BBBBIHH", operation, 1, 6, 0, 0x1234, 0, 0x8000)
    addresses = bytes(12) + address_bytes(relay)
    return (
        head
        + addresses
        + mac_bytes(client_mac).ljust(16, b"\0")
        + marker.ljust(64, b"\0")
        + bytes(128)
        + bytes([0x63, 0x82, 0x53, 0x63, 53, 1, kind, 255])
        + bytes(60)
    )


def beacon(guest: Peer, target_mac: str, target: str, marker: bytes) -> bytes:
    """A frame that the guest may send: a datagram from its own MAC and address."""
    return ethernet(guest.mac, target_mac, 0x0800, ipv4(guest.address, target, 17, udp(7777, 7777, marker)))


def every_frame_dropped(
    sender: Port, witnesses: Iterable[Port], attack: bytes, marker: bytes, allowed: bytes
) -> bool:
    """Whether no witness sees the attack although each sees the allowed frame (marked LAST) sent after it."""
    witnesses = list(witnesses)
    for witness in witnesses:
        witness.drain()
    sender.send(attack)
    sender.send(allowed)
    return not any(witness.sees_before(marker, LAST) for witness in witnesses)


LAST = b"forkbed-last-frame"

if __name__ == "__main__":
    main()
