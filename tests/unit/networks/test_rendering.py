"""The rule sets and configuration files of example networks, word for word.

After a wanted change: FORKBED_WRITE_GOLDEN=1 pytest tests/unit/networks, then read the difference.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from forkbed.base.ids import NetworkId, SystemId
from forkbed.core.networks.publications import publications
from forkbed.core.networks.recording import outside
from forkbed.core.systems.spec import Ipv6Policy, Protocol, PublishSpec, UplinkKind
from forkbed.drivers.networks import dnsmasq, filters, host_rules, service_rules
from forkbed.drivers.networks.linux import guest_ports
from forkbed.drivers.networks.records import Record, Records
from tests.unit.networks.builders import INSTALLATION, machine, network

GOLDEN = Path(__file__).parent / "golden"
NAT = network(uplink=UplinkKind.NAT, transit="198.19.0.0/31")
BOSS = machine(
    "boss",
    (NAT, "10.20.0.10"),
    publish=(
        PublishSpec(8080, 80),
        PublishSpec(8080, 80, host_address=IPv4Address("192.0.2.7")),
        PublishSpec(2049, 2049, host_address=IPv4Address("0.0.0.0")),
        PublishSpec(53, 53, Protocol.UDP),
    ),
)
OPS = machine("ops", (NAT, "10.20.0.11"))


def record() -> Record:
    return Record(
        network_id=NAT.id,
        system_id=SystemId("s"),
        label="boss-ops/inside",
        bridge="fbt1st00000001",
        subnet=NAT.spec.subnet,
        transit=NAT.transit,
        nat=True,
        publications=publications(NAT, [BOSS, OPS]),
        digest="d",
    )


def same_as_golden(name: str, text: str) -> bool:
    path = GOLDEN / name
    if os.environ.get("FORKBED_WRITE_GOLDEN"):
        path.write_text(text)
    return path.read_text() == text


@pytest.mark.parametrize("policy", list(Ipv6Policy))
def test_filters(policy: Ipv6Policy) -> None:
    text = filters.render_filters(
        filters.FilteredNetwork(
            table="fbt1st00000001",
            subnet=NAT.spec.subnet,
            gateway=NAT.gateway,
            ipv6=policy,
            port="fbt1st00000001s",
            ports=guest_ports(NAT, [BOSS, OPS]),
        )
    )
    assert same_as_golden(f"filters-{policy}.nft", text)


def test_filters_on_a_host_bridge_hold_only_declared_addresses() -> None:
    bridged = network(uplink=UplinkKind.BRIDGE, bridge="br0")
    ports = guest_ports(
        bridged,
        [machine("fixed", (bridged, "10.20.0.10"), declared=True), machine("free", (bridged, "10.20.0.11"))],
    )
    assert [port.address for port in ports] == [IPv4Address("10.20.0.10"), None]
    text = filters.render_filters(
        filters.FilteredNetwork(
            "fbt1st00000001",
            bridged.spec.subnet,
            bridged.gateway,
            Ipv6Policy.BLOCK,
            "fbt1st00000001u",
            ports,
            on_host_bridge=True,
        )
    )
    assert same_as_golden("filters-host-bridge.nft", text)


def test_a_network_without_machines_has_filters_too() -> None:
    text = filters.render_filters(
        filters.FilteredNetwork(
            "fbt1st00000001", NAT.spec.subnet, NAT.gateway, Ipv6Policy.BLOCK, "fbt1st00000001s", ()
        )
    )
    assert "elements = {  }" not in text
    assert "set guests { type ifname; }" in text


def test_host_rules() -> None:
    isolated = Record(NetworkId("net2"), SystemId("s"), "x/y", "fbt1st00000002", NAT.spec.subnet)
    on_bridge = Record(
        NetworkId("net3"), SystemId("s"), "x/z", "fbt1st00000003", NAT.spec.subnet, outside="br0"
    )
    records = [record(), isolated, on_bridge]
    tables = (host_rules.render_guard, host_rules.render_host_table)
    assert same_as_golden("host.nft", "".join(render(INSTALLATION, records) for render in tables))


def test_the_last_network_takes_the_hosts_rules_along() -> None:
    assert host_rules.render_guard(INSTALLATION, []) == ""
    assert host_rules.render_host_table(INSTALLATION, []) == ""


@pytest.mark.parametrize("nat", [True, False])
def test_service_rules(nat: bool) -> None:
    known = record()
    text = service_rules.render_service_rules(
        service_rules.ServiceNamespace(
            subnet=known.subnet,
            gateway=NAT.gateway,
            transit=known.transit_service(),
            transit_pool=IPv4Network("198.19.0.0/16"),
            nat=nat,
            publications=known.publications,
        )
    )
    assert same_as_golden(f"service-{'nat' if nat else 'none'}.nft", text)


@pytest.mark.parametrize("is_shared", [False, True])
def test_service_rules_of_a_fork(is_shared: bool) -> None:
    addresses = [machine.nics[0].address for machine in (BOSS, OPS)]
    text = service_rules.render_service_rules(
        service_rules.ServiceNamespace(
            subnet=NAT.spec.subnet,
            gateway=NAT.gateway,
            transit=None,
            transit_pool=IPv4Network("198.19.0.0/16"),
            nat=False,
            publications=(),
            inside=outside.inside(NAT.spec.subnet, NAT.gateway, addresses, is_shared=is_shared),
        )
    )
    assert same_as_golden(f"service-recorded-{'shared' if is_shared else 'own'}.nft", text)


def test_frames_for_any_mac_are_taken() -> None:
    assert same_as_golden("service-any-mac.nft", service_rules.render_any_mac())


def test_nothing_is_published_of_a_fork() -> None:
    assert publications(network(uplink=UplinkKind.RECORDED), [BOSS, OPS]) == ()


def test_in_a_fork_of_what_was_on_a_host_bridge_only_declared_addresses_are_held() -> None:
    recorded = network(uplink=UplinkKind.RECORDED, bridge="br0")
    members = [
        machine("fixed", (recorded, "10.20.0.10"), declared=True),
        machine("free", (recorded, "10.20.0.11")),
    ]
    assert [port.address for port in guest_ports(recorded, members)] == [IPv4Address("10.20.0.10"), None]


@pytest.mark.parametrize("way_out", ["nat", "none", "recorded"])
def test_dnsmasq_files(way_out: str) -> None:
    files = dnsmasq.render_files(
        dnsmasq.NameService(
            directory=Path("/run/forkbed/networks/net1"),
            system_name="boss-ops",
            subnet=NAT.spec.subnet,
            gateway=NAT.gateway,
            mtu=1442,
            is_way_out=way_out != "none",
            resolvers=Path("/etc/resolv.conf") if way_out == "nat" else None,
            recorded=way_out == "recorded",
            user="dnsmasq",
            leases=tuple(dnsmasq.Lease(m.nics[0].mac, m.nics[0].address, m.name) for m in (BOSS, OPS)),
        )
    )
    text = "".join(f"--- {name}\n{content}" for name, content in files.items())
    assert same_as_golden(f"dnsmasq-{way_out}.txt", text)


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([("a", "nameserver 192.0.2.1\n")], "a"),
        ([("a", "# nothing\nnameserver 127.0.0.53\noptions edns0\n"), ("b", "nameserver 192.0.2.1\n")], "b"),
        ([("a", "nameserver ::1\nnameserver 192.0.2.1\n")], "a"),
        ([("a", "nameserver 127.0.0.1\n"), ("b", "search example.org\n")], None),
        ([], None),
    ],
)
def test_resolvers_are_those_that_another_namespace_can_ask(
    candidates: list[tuple[str, str]], chosen: str | None
) -> None:
    found = dnsmasq.choose_resolvers([(Path(name), content) for name, content in candidates])
    assert found == (Path(chosen) if chosen else None)


def test_the_link_local_address_follows_from_the_mac() -> None:
    port = filters.GuestPort("tap", "52:54:00:12:34:56", None)
    assert str(port.link_local) == "fe80::5054:ff:fe12:3456"


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert records.read_all() == {}
    assert records.write(record())
    assert not records.write(record())
    (tmp_path / "half").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "record.json").write_text('{"network_id": "torn"')
    assert records.read_all() == {"half": None, NAT.id: record(), "torn": None}
    records.remove(NAT.id)
    records.remove(NAT.id)
    assert set(records.read_all()) == {"half", "torn"}
