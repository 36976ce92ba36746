"""Each rule of what must fit together, with one system that breaks it and a neighbour that does not."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from forkbed.core.systems.check import check_images, check_system
from forkbed.core.systems.check_networks import Unread
from forkbed.core.systems.spec import (
    FileSpec,
    MachineSpec,
    NetworkSpec,
    NicSpec,
    ProbeKind,
    ProbeSpec,
    Protocol,
    PublishSpec,
    SecretSpec,
    SetupSpec,
    SystemSpec,
    UplinkKind,
    UserSpec,
    VolumeSpec,
)

MEBIBYTE = 1024**2
ANY = IPv4Address("0.0.0.0")
OTHER = IPv4Address("192.0.2.1")


def network(subnet: str, name: str = "n", **more: Any) -> NetworkSpec:
    return NetworkSpec(name, IPv4Network(subnet), **more)


def machine(name: str = "a", **more: Any) -> MachineSpec:
    return MachineSpec(
        name, "i", **{"cpus": 1, "memory_bytes": 256 * MEBIBYTE, "nics": (NicSpec("n"),), **more}
    )


def system(*machines: MachineSpec, networks: tuple[NetworkSpec, ...] | None = None) -> SystemSpec:
    return SystemSpec("s", (network("10.0.0.0/24"),) if networks is None else networks, machines)


def at(address: str | None = None, mac: str | None = None, on: str = "n") -> NicSpec:
    return NicSpec(on, None if address is None else IPv4Address(address), mac)


def volume(name: str = "d", size_bytes: int = MEBIBYTE, mount: str = "") -> VolumeSpec:
    return VolumeSpec(name, size_bytes, mount)


def problems(spec: SystemSpec, unread: Unread | None = None) -> list[str]:
    return [
        f"{'.'.join(map(str, problem.path))}: {problem.wrong}; {problem.right}"
        for problem in check_system(spec, unread)
    ]


def pair(a: dict[str, Any], b: dict[str, Any]) -> SystemSpec:
    return system(machine("a", **a), machine("b", **b))


RULES: list[tuple[str, SystemSpec, SystemSpec, str]] = [
    ("a system has a machine", system(), system(machine()), "machines: a system needs a machine"),
    (
        "subnets do not overlap",
        system(machine(), networks=(network("10.0.0.0/16"), network("10.0.9.0/24", "m"))),
        system(machine(), networks=(network("10.0.0.0/16"), network("10.1.9.0/24", "m"))),
        "networks.m.subnet: 10.0.9.0/24 overlaps 10.0.0.0/16 of the network `n`",
    ),
    *[
        (
            f"no subnet of {subnet}",
            system(machine(), networks=(network(subnet),)),
            system(machine(), networks=(network("192.168.0.0/24"),)),
            f"networks.n.subnet: {subnet} cannot be used: ",
        )
        for subnet in ("0.0.0.0/24", "127.1.0.0/24", "169.254.3.0/24", "224.0.1.0/24", "250.0.0.0/24")
    ],
    (
        "a subnet has room",
        system(machine(), networks=(network("10.0.0.0/30"),)),
        system(machine(), networks=(network("10.0.0.0/29"),)),
        "networks.n.subnet: 10.0.0.0/30 is too small",
    ),
    (
        "a subnet is not the world",
        system(machine(), networks=(network("64.0.0.0/7"),)),
        system(machine(), networks=(network("10.0.0.0/8"),)),
        "networks.n.subnet: 64.0.0.0/7 is too large",
    ),
    (
        "not more NICs than addresses",
        system(*(machine(f"m{n}") for n in range(6)), networks=(network("10.0.0.0/29"),)),
        system(*(machine(f"m{n}") for n in range(5)), networks=(network("10.0.0.0/29"),)),
        "networks.n.subnet: 10.0.0.0/29 has 5 addresses for machines, and 6 NICs are on it",
    ),
    (
        "a NIC's network exists",
        system(machine(nics=(at(on="nn"),))),
        system(machine(nics=(at(on="n"),))),
        "machines.a.nics.0.network: there is no network `nn`; did you mean `n`?",
    ),
    (
        "not too many NICs",
        system(machine(nics=(at(),) * 9)),
        system(machine(nics=(at(),) * 8)),
        "machines.a.nics: 9 NICs are too many; at most 8",
    ),
    (
        "an address is in the subnet",
        system(machine(nics=(at("10.0.1.2"),))),
        system(machine(nics=(at("10.0.0.2"),))),
        "machines.a.nics.0.address: 10.0.1.2 is not in 10.0.0.0/24 of the network `n`; one from 10.0.0.2 to 10.0.0.254",
    ),
    (
        "not the network's address",
        system(machine(nics=(at("10.0.0.0"),))),
        system(machine(nics=(at("10.0.0.2"),))),
        "machines.a.nics.0.address: 10.0.0.0 is the network address",
    ),
    (
        "not the broadcast address",
        system(machine(nics=(at("10.0.0.255"),))),
        system(machine(nics=(at("10.0.0.254"),))),
        "machines.a.nics.0.address: 10.0.0.255 is the broadcast address",
    ),
    (
        "not the gateway's address",
        system(machine(nics=(at("10.0.0.1"),))),
        system(machine(nics=(at("10.0.0.2"),))),
        "machines.a.nics.0.address: 10.0.0.1 is the gateway",
    ),
    (
        "an address is given once",
        pair({"nics": (at("10.0.0.7"),)}, {"nics": (at("10.0.0.7"),)}),
        pair({"nics": (at("10.0.0.7"),)}, {"nics": (at("10.0.0.8"),)}),
        "machines.b.nics.0.address: 10.0.0.7 belongs to the machine `a` already",
    ),
    (
        "a MAC is given once on a network",
        pair({"nics": (at(mac="52:54:00:00:00:01"),)}, {"nics": (at(mac="52:54:00:00:00:01"),)}),
        system(
            machine("a", nics=(at(mac="52:54:00:00:00:01"),)),
            machine("b", nics=(at(mac="52:54:00:00:00:01", on="m"),)),
            networks=(network("10.0.0.0/24"), network("10.0.1.0/24", "m")),
        ),
        "machines.b.nics.0.mac: 52:54:00:00:00:01 belongs to the machine `a` on the network `n` already",
    ),
    (
        "a MAC is no group address",
        system(machine(nics=(at(mac="53:54:00:00:00:01"),))),
        system(machine(nics=(at(mac="52:54:00:00:00:01"),))),
        "machines.a.nics.0.mac: 53:54:00:00:00:01 is a group address",
    ),
    (
        "a MAC is not nothing",
        system(machine(nics=(at(mac="00:00:00:00:00:00"),))),
        system(machine(nics=(at(mac="00:00:00:00:00:01"),))),
        "machines.a.nics.0.mac: all zeros is no address",
    ),
    (
        "a host port leads to one machine",
        pair({"publish": (PublishSpec(80, 1),)}, {"publish": (PublishSpec(80, 2),)}),
        pair({"publish": (PublishSpec(80, 1),)}, {"publish": (PublishSpec(81, 2),)}),
        "machines.b.publish.0: tcp port 80 of the host leads to the machine `a` already",
    ),
    (
        "all addresses of the host are each of them",
        pair({"publish": (PublishSpec(80, 1, host_address=OTHER),)},
             {"publish": (PublishSpec(80, 2, host_address=ANY),)}),
        pair({"publish": (PublishSpec(80, 1, host_address=OTHER),)}, {"publish": (PublishSpec(80, 2),)}),
        "machines.b.publish.0: tcp port 80 of the host leads to the machine `a` already",
    ),
    (
        "tcp and udp ports are different ones",
        system(machine(publish=(PublishSpec(53, 1), PublishSpec(53, 1)))),
        system(machine(publish=(PublishSpec(53, 1), PublishSpec(53, 1, Protocol.UDP)))),
        "machines.a.publish.1: tcp port 53 of the host leads to the machine `a` already",
    ),
    (
        "publishing needs a network",
        system(machine(nics=(), publish=(PublishSpec(80, 1),))),
        system(machine(publish=(PublishSpec(80, 1),))),
        "machines.a.publish: the machine is on no network",
    ),
    (
        "nothing is published on a host bridge",
        system(
            machine(publish=(PublishSpec(80, 1),)),
            networks=(network("10.0.0.0/24", uplink=UplinkKind.BRIDGE, bridge="br0"),),
        ),
        system(
            machine(publish=(PublishSpec(80, 1),)), networks=(network("10.0.0.0/24", uplink=UplinkKind.NAT),)
        ),
        "machines.a.publish: the network `n` of its first NIC is joined to a host bridge",
    ),
    (
        "probes over the network need one",
        system(machine(nics=(), ready=(ProbeSpec(ProbeKind.TCP, 1),))),
        system(machine(nics=(), ready=(ProbeSpec(ProbeKind.EXEC, command="true"),))),
        "machines.a.ready.0: a probe of kind tcp needs a network, and the machine is on none",
    ),
    (
        "checks over the network need one",
        system(machine(nics=(), checks=(ProbeSpec(ProbeKind.HTTP, 1),))),
        system(machine(checks=(ProbeSpec(ProbeKind.HTTP, 1),))),
        "machines.a.checks.0: a probe of kind http needs a network, and the machine is on none",
    ),
    ("at least one CPU", system(machine(cpus=0)), system(machine(cpus=1)), "machines.a.cpus: 0 CPUs are not possible"),
    (
        "not too many CPUs",
        system(machine(cpus=257)),
        system(machine(cpus=256)),
        "machines.a.cpus: 257 CPUs are not possible; a number from 1 to 256",
    ),
    (
        "enough memory",
        system(machine(memory_bytes=63 * MEBIBYTE)),
        system(machine(memory_bytes=64 * MEBIBYTE)),
        "machines.a.memory: 63 MiB is too small; 64 MiB to 4 TiB",
    ),
    (
        "not too much memory",
        system(machine(memory_bytes=5 << 40)),
        system(machine(memory_bytes=4 << 40)),
        "machines.a.memory: 5 TiB is too large",
    ),
    (
        "a root volume has a size",
        system(machine(root_size_bytes=MEBIBYTE - 1)),
        system(machine(root_size_bytes=MEBIBYTE)),
        "machines.a.root: 1024.0 KiB is too small",
    ),
    (
        "a volume has a size",
        system(machine(volumes=(volume(size_bytes=1024),))),
        system(machine(volumes=(volume(size_bytes=MEBIBYTE),))),
        "machines.a.volumes.d.size: 1 KiB is too small; 1 MiB to 64 TiB",
    ),
    (
        "some names of volumes are taken",
        system(machine(volumes=(volume("root"),))),
        system(machine(volumes=(volume("roots"),))),
        "machines.a.volumes.root: `root` cannot name a volume",
    ),
    (
        "the guest can tell its disks apart",
        system(machine(volumes=(volume("database-of-users"), volume("database-of-user")))),
        system(machine(volumes=(volume("database-of-them"), volume("database-of-user")))),
        "machines.a.volumes.database-of-user: begins like the volume `database-of-users`",
    ),
    (
        "not too many volumes",
        system(machine(volumes=tuple(volume(f"v{n}") for n in range(25)))),
        system(machine(volumes=tuple(volume(f"v{n}") for n in range(24)))),
        "machines.a.volumes: 25 volumes are too many; at most 24",
    ),
    (
        "one volume at a mount point",
        system(machine(volumes=(volume("d", mount="/x"), volume("e", mount="/x")))),
        system(machine(volumes=(volume("d", mount="/x"), volume("e", mount="/x/y")))),
        "machines.a.volumes.e.mount: the volume `d` is mounted at /x too",
    ),
    (
        "no volume over the system's own files",
        system(machine(volumes=(volume(mount="/etc"),))),
        system(machine(volumes=(volume(mount="/etc/app"),))),
        "machines.a.volumes.d.mount: a volume at /etc would hide the guest's own files",
    ),
    (
        "a file is written once",
        system(machine(files=(FileSpec("/x", ""), FileSpec("/y", "")), secrets=(SecretSpec("/x", "", ""),))),
        system(machine(files=(FileSpec("/x", ""), FileSpec("/y", "")), secrets=(SecretSpec("/z", "", ""),))),
        "machines.a.secrets.0.path: /x is written twice",
    ),
    (
        "a file is no directory",
        system(machine(files=(FileSpec("/x", ""), FileSpec("/x/y", "")))),
        system(machine(files=(FileSpec("/x", ""), FileSpec("/xx/y", "")))),
        "machines.a.files.1.path: /x is a file too, it cannot hold /x/y",
    ),
    (
        "root is no further user",
        system(machine(users=(UserSpec("root"),))),
        system(machine(users=(UserSpec("ann"),))),
        "machines.a.ssh.users.root: root is there already",
    ),
    (
        "a set-up command has time",
        system(machine(setup=(SetupSpec("x", timeout_s=0),))),
        system(machine(setup=(SetupSpec("x", timeout_s=1),))),
        "machines.a.setup.0.timeout: no time at all",
    ),
    (
        "a probe has time",
        system(machine(ready=(ProbeSpec(ProbeKind.TCP, 1, timeout_s=0),))),
        system(machine(ready=(ProbeSpec(ProbeKind.TCP, 1, timeout_s=1),))),
        "machines.a.ready.0.timeout: no time at all",
    ),
    (
        "a probe gives time",
        system(machine(checks=(ProbeSpec(ProbeKind.TCP, 1, interval_s=0.01),))),
        system(machine(checks=(ProbeSpec(ProbeKind.TCP, 1, interval_s=0.05),))),
        "machines.a.checks.0.interval: asks too often; at least 50ms",
    ),
    (
        "what comes before exists",
        pair({"after": ("bb",)}, {}),
        pair({"after": ("b",)}, {}),
        "machines.a.after.0: there is no machine `bb`; did you mean `b`?",
    ),
    (
        "nothing comes before itself",
        system(machine(after=("a",))),
        system(machine()),
        "machines.a.after.0: a machine cannot start after itself",
    ),
    (
        "named once",
        pair({"after": ("b", "b")}, {}),
        pair({"after": ("b",)}, {}),
        "machines.a.after.1: `b` is named twice",
    ),
    (
        "no circle of waiting",
        system(machine("a", after=("b",)), machine("b", after=("c",)), machine("c", after=("b",))),
        system(machine("a", after=("b", "c")), machine("b", after=("c",)), machine("c")),
        "machines.b.after.0: they wait for each other: b after c after b; remove one of these",
    ),
    (
        "a name is a name",
        system(machine("A")),
        system(machine("a")),
        "machines.A: `A` cannot be a name",
    ),
    (
        "a name is used once",
        system(machine("a"), machine("a")),
        system(machine("a"), machine("b")),
        "machines.a: the name is used twice",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "good", "line"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES]
)
def test_rules(bad: SystemSpec, good: SystemSpec, line: str) -> None:
    found = problems(bad)
    assert len(found) == 1, found
    assert found[0].startswith(line)
    assert problems(good) == []


def test_a_wide_subnet_overlaps_also_those_beyond_the_next() -> None:
    inside = (network("10.0.1.0/24", "m"), network("10.0.9.0/24", "o"))
    assert [
        line.split(": ")[0]
        for line in problems(system(machine(), networks=(network("10.0.0.0/16"), *inside)))
    ] == [
        "networks.m.subnet",
        "networks.o.subnet",
    ]


def test_images() -> None:
    known = {"i": 2 << 30, "other": 1}
    spec = system(machine("a", root_size_bytes=1 << 30), replace(machine("b"), image="othr"))
    assert [(problem.path, problem.wrong, problem.right) for problem in check_images(spec, known)] == [
        (("machines", "a", "root"), "1 GiB is smaller than the image `i`", "at least 2 GiB"),
        (("machines", "b", "image"), "there is no image `othr`", "did you mean `other`?"),
    ]
    assert check_images(system(machine("a", root_size_bytes=2 << 30), machine("b")), known) == []
    assert check_images(system(machine()), {})[0].right == "build or import it first"


def test_of_two_circles_both_are_named() -> None:
    spec = system(
        machine("a", after=("b",)),
        machine("b", after=("a",)),
        machine("c", after=("d", "a")),
        machine("d", after=("c",)),
    )
    assert [line.split("; ")[0] for line in problems(spec)] == [
        "machines.a.after.0: they wait for each other: a after b after a",
        "machines.c.after.0: they wait for each other: c after d after c",
    ]


def test_a_long_chain_is_no_circle() -> None:
    chain = [machine(f"m{n}", after=(f"m{n + 1}",)) for n in range(3000)]
    spec = system(*chain, machine("m3000"), networks=(network("10.0.0.0/16"),))
    assert problems(spec) == []


def test_nothing_is_said_of_what_is_missing_because_it_could_not_be_read() -> None:
    spec = system(
        machine("a", nics=(at(on="x"),), after=("gone",)),
        machine("b", nics=(), publish=(PublishSpec(1, 1),), ready=(ProbeSpec(ProbeKind.TCP, 1),)),
    )
    assert len(problems(spec)) == 4
    assert problems(spec, Unread(frozenset({"x"}), frozenset({"gone", "b"}))) == []
    assert problems(system(), Unread(machines=frozenset({"a"}))) == []
