from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.core.networks.publications import publications
from forkbed.core.systems.spec import Protocol, PublishSpec, UplinkKind
from tests.unit.networks.builders import machine, network

OTHER = IPv4Address("192.0.2.7")


def test_a_port_is_published_through_the_first_nic_only() -> None:
    first, second = network("one", subnet="10.1.0.0/24"), network("two", subnet="10.2.0.0/24")
    boss = machine("boss", (first, "10.1.0.10"), (second, "10.2.0.10"), publish=(PublishSpec(8080, 80),))
    (publication,) = publications(first, [boss])
    assert publication.machine_address == IPv4Address("10.1.0.10")
    assert publication.label == "127.0.0.1:8080/tcp"
    assert publications(second, [boss]) == ()


def test_the_client_is_hidden_where_answers_would_not_come_back_through_the_network() -> None:
    nat, none = network(uplink=UplinkKind.NAT), network("two", subnet="10.2.0.0/24")
    publish = (PublishSpec(80, 80),)
    assert not publications(nat, [machine("a", (nat, "10.20.0.10"), publish=publish)])[0].hides_client
    assert publications(none, [machine("a", (none, "10.2.0.10"), publish=publish)])[0].hides_client
    two = machine("a", (nat, "10.20.0.10"), (none, "10.2.0.10"), publish=publish)
    assert publications(nat, [two])[0].hides_client


def test_one_host_port_on_two_addresses_gets_two_transit_ports() -> None:
    net = network()
    a = machine("a", (net, "10.20.0.10"), publish=(PublishSpec(80, 8000),))
    b = machine("b", (net, "10.20.0.11"), publish=(PublishSpec(80, 80, host_address=OTHER),))
    found = publications(net, [b, a])
    assert [(str(p.host_address), p.transit_port) for p in found] == [("127.0.0.1", 80), ("192.0.2.7", 81)]


def test_tcp_and_udp_do_not_meet() -> None:
    net = network()
    a = machine("a", (net, "10.20.0.10"), publish=(PublishSpec(53, 53), PublishSpec(53, 53, Protocol.UDP)))
    assert [p.transit_port for p in publications(net, [a])] == [53, 53]


@pytest.mark.parametrize("second", ["127.0.0.1", "0.0.0.0"])
def test_one_port_cannot_be_published_twice(second: str) -> None:
    net = network()
    a = machine("a", (net, "10.20.0.10"), publish=(PublishSpec(80, 80),))
    b = machine("b", (net, "10.20.0.11"), publish=(PublishSpec(80, 81, host_address=IPv4Address(second)),))
    with pytest.raises(OperationalError, match="already published to") as error:
        publications(net, [a, b])
    assert error.value.kind is Kind.CONFLICT


def test_a_machine_on_a_host_bridge_cannot_publish() -> None:
    net = network(uplink=UplinkKind.BRIDGE, bridge="br0")
    a = machine("a", (net, "10.20.0.10"), publish=(PublishSpec(80, 80),))
    with pytest.raises(OperationalError, match="host bridge br0") as error:
        publications(net, [a])
    assert error.value.kind is Kind.INVALID
