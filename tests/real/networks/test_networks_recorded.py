"""A fork's world: what its guests try ends in the recorder, and nothing leaves."""

from __future__ import annotations

import json
from pathlib import Path

from forkbed.core.systems.spec import ResolvedMachine, ResolvedNetwork, UplinkKind
from forkbed.drivers.networks import namespaces
from tests.real.networks.test_networks_traffic import lease, resolve
from tests.real.networks.world import World, isolated, mac_of, run
from tests.unit.networks.builders import machine, network

GATEWAY = "10.20.0.1"


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
