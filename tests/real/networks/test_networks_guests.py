"""The same walls, with real guests: two systems with the same subnet, MACs and names side by side.

A guest sends the crafted frames itself (`frames.c`). Each is first sent without any rules, where it must arrive; then
the networks are repaired while the guests run, and nothing may arrive.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from forkbed import lab as labs
from forkbed.drivers import processes
from forkbed.drivers.networks import namespaces
from forkbed.lab.session import forkbed_program
from tests.real.networks.test_networks_attacks import (
    ADDRESSES,
    ANY_IPV6,
    BROADCAST,
    DHCP,
    ETHERNET,
    EVERYBODY,
    Attack,
)
from tests.real.networks.test_networks_traffic import resolve
from tests.real.networks.world import LAST, Port, beacon, ethernet, inet_socket, ipv4, packet_port, udp

HERE = Path(__file__).parent
RECIPE = HERE.parents[2] / "examples/micro/micro.yaml"
ATTACKS: Mapping[str, Attack] = {**ETHERNET, **ADDRESSES, **DHCP, **ANY_IPV6}
GATEWAY = "10.40.0.1"
HOST_ADDRESS, WORLD_ADDRESS = "198.18.0.1", "198.18.0.254"
MANIFEST = """\
version: 1
system: {name}
networks:
  lan:
    subnet: 10.40.0.0/24
    uplink: {uplink}
machines:
{machines}
"""
MACHINE = """\
  {name}:
    image: micro
    memory: 128MiB
    nics:
      - network: lan
        address: 10.40.0.{number}
        mac: 02:00:00:40:00:{number}
    files:
      - path: /usr/local/bin/frames
        source: frames
        mode: "0755"
    ready:
      - tcp: 22
"""


@dataclass(frozen=True)
class Real:
    """A running guest of one of the systems."""

    lab: labs.Lab
    system: str
    name: str
    number: int

    @property
    def mac(self) -> str:
        return f"02:00:00:40:00:{self.number}"

    @property
    def address(self) -> str:
        return f"10.40.0.{self.number}"

    def run(self, script: str, *, data: bytes | None = None) -> processes.Completed:
        """A shell script in the guest, whatever its status; by the agent, which no attack keeps away."""
        words = ["exec", "--via", "agent", f"{self.system}/{self.name}", "--", "sh", "-c", script]
        return forkbed(self.lab, *words, data=data, accept=None)

    def send(self, frames: list[bytes]) -> None:
        done = self.run("frames send eth0", data="".join(f"{frame.hex()}\n" for frame in frames).encode())
        assert done.status == 0, done.complaint

    def start_watching(self) -> None:
        self.run(
            "frames watch eth0 60 </dev/null >/tmp/seen 2>&1 & while ! grep -q ready /tmp/seen; do :; done"
        )

    def seen(self) -> set[str]:
        """The markers that it saw, once it has seen the last frame."""
        script = "while ! grep -q end /tmp/seen; do sleep 0.2; done; cat /tmp/seen"
        told = self.run(script).text.split()
        assert "end" in told, told
        return set(told) - {"ready", "end"}


@dataclass(frozen=True)
class Site:
    """Both systems; `gateways` are the service namespaces' interfaces, `manifests` what was brought up."""

    lab: labs.Lab
    a: Real
    b: Real
    other: Real
    namespaces: Mapping[str, Path]
    manifests: tuple[Path, ...]


def forkbed(
    lab: labs.Lab, *words: str, data: bytes | None = None, accept: tuple[int, ...] | None = (0,)
) -> processes.Completed:
    argv: list[processes.Argument] = [forkbed_program(), "--lab", lab.name, *words]
    return processes.run(argv, input=data, accept=accept, timeout_s=120)


@pytest.fixture(scope="module")
def site(serving_lab: labs.Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two systems alike, `alpha` with two guests and a way out, `beta` with one guest and none."""
    lab, directory = serving_lab, tmp_path_factory.mktemp("systems")
    processes.run(["gcc", "-static", "-Os", "-o", directory / "frames", HERE / "frames.c"])
    forkbed(lab, "image", "build", str(RECIPE))
    manifests = []
    for name, uplink, members in (("alpha", "nat", (("a", 10), ("b", 11))), ("beta", "none", (("a", 10),))):
        machines = "".join(MACHINE.format(name=machine, number=number) for machine, number in members)
        manifest = directory / f"{name}.yaml"
        manifest.write_text(MANIFEST.format(name=name, uplink=uplink, machines=machines))
        manifests.append(manifest)
        forkbed(lab, "up", str(manifest))
    try:
        yield Site(
            lab,
            Real(lab, "alpha", "a", 10),
            Real(lab, "alpha", "b", 11),
            Real(lab, "beta", "a", 10),
            {name: service_namespace(lab, name) for name in ("alpha", "beta")},
            tuple(manifests),
        )
    finally:
        for name in ("alpha", "beta"):
            forkbed(lab, "down", name, "--delete", accept=None)


def service_namespace(lab: labs.Lab, system: str) -> Path:
    """The service namespace of the system's only network, as seen from outside the lab."""
    shown = json.loads(forkbed(lab, "show", system, "--json").text)
    return seen_from_outside(lab, shown["networks"][0]["namespace"])


def seen_from_outside(lab: labs.Lab, path: str) -> Path:
    return Path(f"/proc/{lab.init.pid}/root{path}")


def host_namespace(lab: labs.Lab) -> Path:
    return Path(f"/proc/{lab.init.pid}/ns/net")


def empty_rules(site: Site) -> None:
    """Take every rule away, but leave the tables on the host: Forkbed would at once repair what it sees missing."""
    for table in site.lab.run(["nft", "list", "tables"]).text.splitlines():
        site.lab.run(["nft", "flush", *table.split()])
    for path in site.namespaces.values():
        namespaces.run_inside(path, lambda: processes.run(["nft", "flush", "ruleset"]))


def restore_rules(site: Site) -> None:
    """Remove the tables too, and have the systems brought up again."""
    site.lab.run(["nft", "flush", "ruleset"])
    for manifest in site.manifests:
        forkbed(site.lab, "up", str(manifest))


def markers_at(port: Port) -> set[str]:
    """The markers in the frames that came in, until the last one."""
    found: set[str] = set()
    for frame in port.frames(30):
        for kind in (b"atk", b"ctl", b"awy"):
            if (at := frame.find(kind)) >= 0:
                found.add(frame[at : at + 8].decode(errors="replace"))
        if LAST in frame:
            return found
    raise AssertionError("the frame that must arrive did not")


def carry_out(site: Site, kind: str) -> tuple[set[str], set[str], set[str], set[str]]:
    """All attacks by `a`; who sees which: `b`, the own service namespace, the other guest and namespace."""
    own, foreign = (packet_port(site.namespaces[name], "eth0") for name in ("alpha", "beta"))
    site.b.start_watching()
    site.other.start_watching()
    own.drain()
    foreign.drain()
    frames = [attack(site.a, site.b, f"{kind}{n:05}".encode()) for n, attack in enumerate(ATTACKS.values())]
    site.a.send([*frames, beacon(site.a, EVERYBODY, BROADCAST, LAST)])
    seen = site.b.seen(), markers_at(own)
    # Whatever got over to the other system did so by now; this ends the watching there.
    last = ipv4(GATEWAY, BROADCAST, 17, udp(7777, 7777, LAST))
    foreign.send(ethernet("02:00:00:00:00:99", EVERYBODY, 0x0800, last))
    others_seen = {str(frame) for frame in foreign.frames(0.5) if kind.encode() in frame}
    return *seen, site.other.seen(), others_seen


@pytest.fixture(scope="module")
def attacked(site: Site) -> Iterator[dict[str, tuple[set[str], set[str], set[str], set[str]]]]:
    """What was seen of all attacks without rules ("ctl") and with them ("atk")."""
    empty_rules(site)
    results = {"ctl": carry_out(site, "ctl")}
    restore_rules(site)
    # What the attacks made everybody believe of the others' MACs.
    for path in site.namespaces.values():
        namespaces.run_inside(path, lambda: processes.run(["ip", "neigh", "flush", "all"]))
    results["atk"] = carry_out(site, "atk")
    yield results


def test_without_rules_every_attack_arrives(attacked: dict[str, tuple[set[str], ...]]) -> None:
    """Else the next test would show nothing."""
    by_guest, by_gateway, _, _ = attacked["ctl"]
    unseen = [name for n, name in enumerate(ATTACKS) if not {f"ctl{n:05}"} <= by_guest & by_gateway]
    assert not unseen


def test_no_attack_arrives(attacked: dict[str, tuple[set[str], ...]]) -> None:
    by_guest, by_gateway, _, _ = attacked["atk"]
    arrived = [name for n, name in enumerate(ATTACKS) if {f"atk{n:05}"} & (by_guest | by_gateway)]
    assert not arrived


def test_nothing_gets_over_to_the_other_system_even_without_rules(
    attacked: dict[str, tuple[set[str], ...]],
) -> None:
    assert [attacked[kind][2:] for kind in ("ctl", "atk")] == [(set(), set())] * 2


def test_a_guest_that_takes_anothers_address_gets_nothing(site: Site) -> None:
    """By the guest's own means: it configures the other's address, then its MAC."""
    script = f"""
        while ! ping -c 1 -W 1 {GATEWAY}; do :; done >/dev/null; echo before
        ip addr add {site.b.address}/24 dev eth0
        ping -c 1 -W 1 -I {site.b.address} {GATEWAY} >/dev/null && echo stolen address
        ip addr del {site.b.address}/24 dev eth0
        ip link set eth0 address {site.b.mac}
        ping -c 1 -W 1 {GATEWAY} >/dev/null && echo stolen MAC
        ip link set eth0 address {site.a.mac}
        ping -c 1 -W 2 {GATEWAY} >/dev/null && echo after
        """
    forkbed(site.lab, "exec", "alpha/a", "--", "sh", "-c", f"({script}) >/tmp/log 2>&1 </dev/null &")
    wait_until(lambda: "after" in site.a.run("cat /tmp/log").text, "the guest's own address works again")
    log = site.a.run("cat /tmp/log").text
    assert "before" in log
    assert "stolen" not in log
    assert site.b.run("hostname").text == "b\n"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def answers(guest: Real, address: str, port: int) -> bool:
    return guest.run(f"nc -w 2 {address} {port} </dev/null").text == "reached"


def test_the_hosts_services_are_not_reached(site: Site) -> None:
    with serving(host_namespace(site.lab), 2222), serving(site.namespaces["alpha"], 2222):
        for address in (HOST_ADDRESS, "198.19.0.0", GATEWAY, "127.0.0.1"):
            assert not answers(site.a, address, 2222), address


def test_nat_leads_out_and_no_uplink_does_not(site: Site) -> None:
    world = seen_from_outside(site.lab, "/run/netns/world")
    with serving(world, 8000):
        assert answers(site.a, WORLD_ADDRESS, 8000)
        assert not answers(site.other, WORLD_ADDRESS, 8000)


def test_names_and_addresses_are_the_systems_own(site: Site) -> None:
    for guest, peers in ((site.a, {"a": "10.40.0.10", "b": "10.40.0.11"}), (site.other, {"a": "10.40.0.10"})):
        for name, address in peers.items():
            for asked in (name, f"{name}.{guest.system}"):
                assert f"Address: {address}" in guest.run(f"nslookup {asked}").text
        assert guest.run("ip -o link show eth0").text.split("mtu ")[1].startswith("1442")
    assert "Address: 10.40" not in site.other.run("nslookup b").text.partition("Name:")[2]


def test_dhcp_and_names_work_while_serve_is_down(site: Site) -> None:
    pid_file = site.lab.api_socket.with_suffix(".pid")
    pid = pid_file.read_text().partition(":")[0].strip()
    site.lab.run(["kill", "-9", pid])
    assert resolve(site.namespaces["alpha"], "a", server=GATEWAY) == (0, "10.40.0.10")
    site.lab.start_serve()
    assert json.loads(forkbed(site.lab, "show", "alpha", "--json").text)["networks"][0]["healthy"]


@contextlib.contextmanager
def serving(namespace: Path, port: int) -> Iterator[None]:
    """A TCP service in a namespace that says "reached" to whoever connects."""
    listener = inet_socket(namespace, socket.SOCK_STREAM, "", port)
    listener.settimeout(None)
    listener.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"reached")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()
