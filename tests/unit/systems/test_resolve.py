"""What is decided once stays: ids, addresses, MACs and volumes from revision to revision."""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import ImageId, InstallationId
from forkbed.core.systems.resolve import ImageFacts, Surroundings, resolve_system
from forkbed.core.systems.spec import (
    MachineSpec,
    NetworkSpec,
    NicSpec,
    PublishSpec,
    ResolvedSystem,
    SystemSpec,
    UplinkKind,
    VolumeSpec,
)

GIBIBYTE = 1 << 30
POOL = IPv4Network("198.19.0.0/30")
IMAGES = {"a": ImageFacts(ImageId("a" * 64), GIBIBYTE), "b": ImageFacts(ImageId("b" * 64), GIBIBYTE)}
LAN = NetworkSpec("lan", IPv4Network("10.1.0.0/24"))


def machine(name: str, address: str | None = None, **changes: object) -> MachineSpec:
    nic = NicSpec("lan", IPv4Address(address) if address else None)
    spec = MachineSpec(name, "a", cpus=1, memory_bytes=GIBIBYTE, nics=(nic,))
    return replace(spec, **changes)  # type: ignore[arg-type]


def resolve(
    *machines: MachineSpec,
    before: ResolvedSystem | None = None,
    network: NetworkSpec = LAN,
    taken: tuple[str, ...] = (),
) -> ResolvedSystem:
    numbers = itertools.count(1 if before is None else 1000)
    around = Surroundings(
        installation=InstallationId("t0st"),
        images=IMAGES,
        transit_pool=POOL,
        taken_transits=frozenset(map(IPv4Network, taken)),
        draw_id=lambda length: f"{next(numbers):0{length}d}",
        draw_uuid=lambda: f"uuid-{next(numbers)}",
    )
    return resolve_system(SystemSpec("demo", (network,), machines), before, around)


def address_of(system: ResolvedSystem, name: str) -> str:
    return str(system.machine(name).nics[0].address)


def test_the_same_manifest_resolves_to_the_same() -> None:
    first = resolve(machine("x"), machine("y"))
    assert resolve(machine("x"), machine("y"), before=first) == first


def test_a_machine_keeps_its_address_when_others_come_and_go() -> None:
    first = resolve(machine("x"), machine("y"))
    kept = address_of(first, "y")
    assert address_of(resolve(machine("y"), before=first), "y") == kept
    assert address_of(resolve(machine("new"), machine("y"), machine("x"), before=first), "y") == kept


def test_a_written_address_takes_it_from_a_machine_that_only_had_it_by_chance() -> None:
    first = resolve(machine("x"))
    had = address_of(first, "x")
    second = resolve(machine("x"), machine("y", had), before=first)
    assert address_of(second, "y") == had != address_of(second, "x")


def test_addresses_follow_the_subnet() -> None:
    first = resolve(machine("x"))
    other = replace(LAN, subnet=IPv4Network("10.2.0.0/24"))
    second = resolve(machine("x"), before=first, network=other)
    assert IPv4Address(address_of(second, "x")) in other.subnet
    assert second.networks[0].id == first.networks[0].id


def test_the_mac_follows_from_lineage_and_address_and_can_be_written() -> None:
    system = resolve(machine("x"), machine("y", nics=(NicSpec("lan", None, "52:54:00:aa:bb:cc"),)))
    assert system.machine("y").nics[0].mac == "52:54:00:aa:bb:cc"
    again = resolve(machine("x"), machine("y"))
    assert again.machine("x").nics[0].mac == system.machine("x").nics[0].mac


def test_volumes_live_on_unless_they_have_to_be_made_anew() -> None:
    data = VolumeSpec("data", GIBIBYTE)
    first = resolve(machine("x", volumes=(data,)))
    ids = [volume.id for volume in first.machine("x").volumes]
    grown = resolve(machine("x", volumes=(replace(data, size_bytes=2 * GIBIBYTE),)), before=first)
    assert [volume.id for volume in grown.machine("x").volumes] == ids
    shrunk = resolve(machine("x", volumes=(replace(data, size_bytes=GIBIBYTE // 2),)), before=first)
    assert shrunk.machine("x").volumes[1].id not in ids
    other = resolve(machine("x", image="b", volumes=(data,)), before=first)
    assert other.machine("x").volumes[0].id not in ids
    assert other.machine("x").volumes[1].id == ids[1]
    assert other.machine("x").instance_id != first.machine("x").instance_id


def test_transits_are_given_where_needed_and_to_one_network_only() -> None:
    assert resolve(machine("x")).networks[0].transit is None
    nat = replace(LAN, uplink=UplinkKind.NAT)
    assert str(resolve(machine("x"), network=nat).networks[0].transit) == "198.19.0.0/31"
    second = resolve(machine("x"), network=nat, taken=("198.19.0.0/31",))
    assert str(second.networks[0].transit) == "198.19.0.2/31"
    published = resolve(machine("x", publish=(PublishSpec(80, 80),)))
    assert published.networks[0].transit is not None
    with pytest.raises(OperationalError) as caught:
        resolve(machine("x"), network=nat, taken=("198.19.0.0/31", "198.19.0.2/31"))
    assert caught.value.kind is Kind.CONFLICT


def test_a_full_subnet_is_refused() -> None:
    small = replace(LAN, subnet=IPv4Network("10.1.0.0/29"))
    resolve(*(machine(f"m{n}") for n in range(5)), network=small)
    with pytest.raises(OperationalError):
        resolve(*(machine(f"m{n}") for n in range(6)), network=small)


def test_tap_names_fit_the_kernel_and_differ() -> None:
    system = resolve(*(machine(f"m{n}") for n in range(200)))
    taps = {m.nics[0].tap for m in system.machines}
    assert len(taps) == 200
    assert max(map(len, taps)) <= 15
