"""A fork reaches nothing but itself: not the original, not its twin, not the host, not the world.

By crafted frames of every kind, by a DHCP server of its own, and by ordinary means. That the same frames arrive
where no rules are is shown in `tests/real/networks`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from forkbed.drivers import processes
from forkbed.drivers.networks import namespaces
from tests.real.forks.original import ADDRESS, GATEWAY, NAME, TALKERS, Site
from tests.real.networks.test_networks_attacks import (
    ADDRESSES,
    ANY_IPV6,
    BROADCAST,
    DHCP,
    ETHERNET,
    EVERYBODY,
)
from tests.real.networks.test_networks_guests import Real, host_namespace, seen_from_outside, serving
from tests.real.networks.world import LAST, beacon, ethernet, ipv4, packet_port, udp

SYSTEMS = (NAME, "twin-1", "twin-2")
ATTACKS = (*ETHERNET.values(), *ADDRESSES.values(), *DHCP.values(), *ANY_IPV6.values())
HOST, WORLD = "198.18.0.1", "198.18.0.254"
QUIET_S = 0.5
_ALL_PROTOCOLS = 3


@dataclass(frozen=True)
class Guest(Real):
    """A guest with the MAC that it was given."""

    own_mac: str = ""

    @property
    def mac(self) -> str:
        return self.own_mac

    @property
    def address(self) -> str:
        return ADDRESS[self.name]


@dataclass(frozen=True)
class System:
    """One of the systems alike, and where it touches the host. `interfaces` are those of its network on the host."""

    a: Guest
    b: Guest
    namespace: Path
    gateway_mac: str
    interfaces: frozenset[str]


@pytest.fixture(scope="module")
def systems(twins: Site) -> Mapping[str, System]:
    return {name: _look(twins, name) for name in SYSTEMS}


def _look(site: Site, name: str) -> System:
    shown = site.show(name)
    macs = {machine["name"]: machine["addresses"][0][2] for machine in shown["machines"]}
    a, b = (Guest(site.lab, name, machine, 0, macs[machine]) for machine in TALKERS)
    bridge = shown["networks"][0]["bridge"]
    links = json.loads(site.lab.run(["ip", "-j", "link"]).text)
    own = {
        link["ifname"] for link in links if link.get("master") == bridge or link["ifname"].startswith(bridge)
    }
    namespace = site.namespace(name)
    shown = namespaces.run_inside(namespace, lambda: processes.run(["ip", "-j", "link", "show", "eth0"]).text)
    return System(a, b, namespace, json.loads(shown)[0]["address"], frozenset(own))


class Everywhere:
    """Sees all frames on all interfaces of a network namespace."""

    def __init__(self, namespace: Path) -> None:
        self._socket = namespaces.run_inside(
            namespace, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
        )

    def seen(self, marker: bytes) -> set[str]:
        """The interfaces on which frames with the marker were seen."""
        found = set()
        self._socket.settimeout(QUIET_S)
        with contextlib.closing(self._socket), contextlib.suppress(TimeoutError):
            deadline = time.monotonic() + 10 * QUIET_S
            while time.monotonic() < deadline:
                frame, (interface, *_) = self._socket.recvfrom(65535)
                found |= {interface} if marker in frame else set()
        return found


@pytest.mark.parametrize("name", ["twin-1", NAME])
def test_no_frame_gets_from_one_to_another(twins: Site, systems: Mapping[str, System], name: str) -> None:
    """From a fork to the original and the other fork, and from the original to its forks."""
    sender = systems[name]
    others = [systems[other] for other in SYSTEMS if other != name]
    watchers = [other.b for other in others]
    for watcher in (sender.b, *watchers):
        watcher.start_watching()
    everywhere = Everywhere(host_namespace(twins.lab))
    frames = [attack(sender.a, sender.b, f"atk{n:05}".encode()) for n, attack in enumerate(ATTACKS)]
    sender.a.send([*frames, beacon(sender.a, EVERYBODY, BROADCAST, b"ctl00000" + LAST)])
    assert sender.b.seen() == {"ctl00000"}, "what is allowed arrives at home, and no attack does"
    assert everywhere.seen(b"ctl00000") <= sender.interfaces
    for other, watcher in zip(others, watchers, strict=True):
        # This ends the watching there.
        last = ethernet(
            other.gateway_mac, EVERYBODY, 0x0800, ipv4(GATEWAY, BROADCAST, 17, udp(7777, 7777, LAST))
        )
        packet_port(other.namespace, "eth0").send(last)
        assert watcher.seen() == set()


def test_a_dhcp_server_in_a_fork_serves_nobody(twins: Site, systems: Mapping[str, System]) -> None:
    server, client = "twin-1/b", "udhcpc -i eth0 -f -n -q -t 3 -T 2 -s /run/tell 2>&1"
    twins.shell(
        server,
        """printf '%s\n' 'start 10.20.0.200' 'end 10.20.0.210' 'interface eth0' 'lease_file /run/leases' \
               'pidfile /run/udhcpd.pid' 'opt router 10.20.0.11' >/run/udhcpd.conf
           touch /run/leases; udhcpd -f /run/udhcpd.conf </dev/null >/run/udhcpd.log 2>&1 &""",
    )
    tell = """printf '#!/bin/sh\n[ $1 != bound ] || echo got $ip of $serverid by $router\n' >/run/tell
              chmod +x /run/tell"""
    for name in SYSTEMS:
        told = twins.shell(f"{name}/a", f"{tell}; {client}")
        assert f"got {ADDRESS['a']} of {GATEWAY} by {GATEWAY}" in told
    assert "started" in twins.shell(server, "kill $(cat /run/udhcpd.pid); cat /run/udhcpd.log")


def test_a_fork_does_not_reach_the_host_or_the_world(twins: Site, systems: Mapping[str, System]) -> None:
    world = seen_from_outside(twins.lab, "/run/netns/world")
    original, fork = systems[NAME], systems["twin-1"]
    with serving(world, 8000), serving(host_namespace(twins.lab), 2222), serving(fork.namespace, 2222):
        assert says(original.a, WORLD, 8000) == "reached", "the original has a way out"
        for address, port in ((WORLD, 8000), (HOST, 2222), (GATEWAY, 2222)):
            assert says(fork.a, address, port) != "reached", address
    for address, namespace in ((WORLD, world), (HOST, host_namespace(twins.lab))):
        everywhere = Everywhere(namespace)
        for system, marker in ((original, b"ctl"), (fork, b"awy")):
            packet = ipv4(system.a.address, address, 17, udp(7777, 7777, marker + b"out00"))
            system.a.send([ethernet(system.a.mac, system.gateway_mac, 0x0800, packet)])
        seen = everywhere.seen(b"awyout00")
        assert seen <= fork.interfaces, address


def says(guest: Guest, address: str, port: int) -> str:
    """What a service says at once; a recorder may keep the connection."""
    return guest.run(f"timeout 4 nc -w 2 {address} {port} </dev/null").text


def test_neighbours_in_a_fork_do_not_answer_by_ipv6(twins: Site) -> None:
    own = twins.shell("twin-1/b", "ip -6 -o addr show dev eth0 scope link").split()[3].partition("/")[0]
    assert own.startswith("fe80::")
    ping = f"ping -6 -c 1 -W 1 {own}%eth0 >/dev/null && echo answered || echo silence"
    assert twins.shell("twin-1/b", ping) == "answered"
    assert twins.shell("twin-1/a", ping) == "silence"


def test_what_a_fork_tries_to_do_to_the_world_is_written_down(twins: Site) -> None:
    dialogue = (
        "HELO a",
        "MAIL FROM:<boss@example.org>",
        "RCPT TO:<all@example.com>",
        "DATA",
        "hi",
        ".",
        "QUIT",
    )
    mail = "".join(f"{line}\\r\\n" for line in dialogue)
    twins.shell(
        "twin-1/a",
        f"""timeout 5 wget -qO- "http://shop.example.com/order?n=1"
            (sleep 1; printf '{mail}'; sleep 2) | timeout 8 nc mail.example.com 25
            echo secret plan | timeout 4 nc -w 2 203.0.113.7 4711; true""",
    )
    found = {intent["kind"]: intent for intent in _intents(twins, "twin-1")}
    assert found["http"]["host"] == "shop.example.com"
    assert (found["http"]["details"]["method"], found["http"]["details"]["path"]) == ("GET", "/order?n=1")
    assert (found["smtp"]["details"]["sender"], found["smtp"]["details"]["recipients"]) == (
        "boss@example.org",
        "all@example.com",
    )
    assert (found["tcp"]["destination"], found["tcp"]["port"]) == ("203.0.113.7", 4711)
    assert "secret plan" in found["tcp"]["first_bytes"]
    names = {intent["details"]["name"] for intent in _intents(twins, "twin-1") if intent["kind"] == "dns"}
    assert names >= {"shop.example.com", "mail.example.com"}
    assert not [intent for intent in _intents(twins, "twin-2") if intent["kind"] != "dns"]
    assert "is no fork" in twins.forkbed("intents", NAME, status=4).err


def _intents(site: Site, fork: str) -> list[Any]:
    views = site.forkbed("intents", fork, "--json").json()
    assert {view["machine"] for view in views} <= {"a"}
    return [view["intent"] for view in views]
