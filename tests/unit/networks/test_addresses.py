from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import InstallationId, MachineId, NetworkId
from forkbed.core.networks import names
from forkbed.core.networks.addresses import allocate, choose_transit, derive_mac, gateway_of

SUBNET = IPv4Network("10.20.0.0/24")
TINY = IPv4Network("10.20.0.0/29")


def test_automatic_addresses_begin_at_ten_and_follow_each_other() -> None:
    assert [str(a) for a in allocate(SUBNET, [None, None])] == ["10.20.0.10", "10.20.0.11"]


def test_a_wanted_address_is_given_and_others_go_around_it() -> None:
    wanted = [None, IPv4Address("10.20.0.10"), None]
    got = allocate(SUBNET, wanted, taken=[IPv4Address("10.20.0.11")])
    assert [str(a) for a in got] == ["10.20.0.12", "10.20.0.10", "10.20.0.13"]


@pytest.mark.parametrize("address", ["10.20.0.0", "10.20.0.1", "10.20.0.255", "10.21.0.5"])
def test_addresses_that_no_machine_can_have_are_refused(address: str) -> None:
    with pytest.raises(OperationalError, match="no machine in") as error:
        allocate(SUBNET, [IPv4Address(address)])
    assert error.value.kind is Kind.INVALID


def test_an_address_cannot_be_had_twice() -> None:
    twice = IPv4Address("10.20.0.9")
    with pytest.raises(OperationalError, match="another machine"):
        allocate(SUBNET, [twice, twice])
    with pytest.raises(OperationalError, match="another machine"):
        allocate(SUBNET, [twice], taken=[twice])


def test_a_small_subnet_is_used_to_the_last_address() -> None:
    assert [str(a) for a in allocate(TINY, [None] * 5)] == [f"10.20.0.{last}" for last in range(2, 7)]
    with pytest.raises(OperationalError, match="no free address"):
        allocate(TINY, [None] * 6)


@given(
    prefix=st.integers(20, 29),
    taken=st.sets(st.integers(0, 40), max_size=20),
    count=st.integers(0, 4),
)
def test_allocated_addresses_are_usable_free_and_distinct(prefix: int, taken: set[int], count: int) -> None:
    subnet = IPv4Network((int(IPv4Address("10.0.0.0")), prefix))
    used = {subnet.network_address + offset for offset in taken}
    try:
        got = allocate(subnet, [None] * count, used)
    except OperationalError:
        assert len(set(subnet.hosts()) - used - {gateway_of(subnet)}) < count
        return
    assert len(set(got)) == count
    assert not set(got) & used
    assert set(got) <= set(subnet.hosts()) - {gateway_of(subnet)}


def test_macs_are_local_unicast_and_depend_on_lineage_and_address_only() -> None:
    mac = derive_mac(NetworkId("abc"), IPv4Address("10.20.0.11"))
    assert mac == derive_mac(NetworkId("abc"), IPv4Address("10.20.0.11"))
    assert mac.startswith("02:")
    assert mac.endswith(":14:00:0b")
    assert mac != derive_mac(NetworkId("abd"), IPv4Address("10.20.0.11"))


@given(st.lists(st.integers(0, 2**24 - 1), unique=True, max_size=20))
def test_macs_of_one_network_differ(offsets: list[int]) -> None:
    macs = {derive_mac(NetworkId("n"), IPv4Address("10.0.0.0") + offset) for offset in offsets}
    assert len(macs) == len(offsets)


def test_transits_are_the_lowest_free_pairs_of_the_pool() -> None:
    pool = IPv4Network("198.19.0.0/29")
    taken: list[IPv4Network] = []
    for _ in range(4):
        taken.append(choose_transit(pool, taken))
    assert [str(t) for t in taken] == [f"198.19.0.{n}/31" for n in (0, 2, 4, 6)]
    with pytest.raises(OperationalError, match="every /31"):
        choose_transit(pool, taken)
    assert str(choose_transit(pool, [taken[0], *taken[2:]])) == "198.19.0.2/31"


@given(st.text("abcdefgh0123", min_size=1, max_size=40), st.integers(0, 30))
def test_interface_names_fit_and_bear_the_installation(identity: str, index: int) -> None:
    installation = InstallationId("ab12")
    network = NetworkId(identity)
    made = {
        names.bridge_name(installation, network),
        names.service_port_name(installation, network),
        names.transit_name(installation, network),
        names.uplink_port_name(installation, network),
        names.outer_port_name(installation, network),
        names.tap_name(installation, MachineId(identity), index),
    }
    assert len(made) == 6
    assert all(len(name) <= 15 and name.startswith("fbab12") for name in made)
