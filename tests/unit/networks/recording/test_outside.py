"""What is outside of a fork's network."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from forkbed.core.networks.recording.outside import NAME_POOLS, inside, leads_to_neighbours, name_pool

SUBNET, GATEWAY = IPv4Network("10.20.0.0/24"), IPv4Address("10.20.0.1")
MACHINES = (IPv4Address("10.20.0.10"), IPv4Address("10.20.0.11"))


def holds(networks: tuple[IPv4Network, ...], address: str) -> bool:
    return any(IPv4Address(address) in network for network in networks)


def test_the_subnet_is_inside_and_so_is_what_leads_nowhere() -> None:
    own = inside(SUBNET, GATEWAY, MACHINES, is_shared=False)
    assert all(
        holds(own, a) for a in ("10.20.0.1", "10.20.0.99", "169.254.169.254", "127.0.0.1", "224.0.0.1")
    )
    assert not any(holds(own, a) for a in ("10.20.1.1", "8.8.8.8", "198.18.0.1", "192.168.1.1"))


def test_on_a_shared_segment_only_the_forks_own_machines_are_inside() -> None:
    own = inside(SUBNET, GATEWAY, MACHINES, is_shared=True)
    assert all(holds(own, a) for a in ("10.20.0.1", "10.20.0.10", "10.20.0.11", "10.20.0.255", "239.1.1.1"))
    assert not any(holds(own, a) for a in ("10.20.0.99", "10.20.0.254", "8.8.8.8"))
    unknown = inside(SUBNET, GATEWAY, (*MACHINES, None), is_shared=True)
    assert unknown == inside(SUBNET, GATEWAY, MACHINES, is_shared=False)
    assert not leads_to_neighbours((None,), is_shared=True)


@given(st.integers(0, 2**32 - 1), st.integers(8, 29), st.booleans())
def test_no_two_of_them_overlap(address: int, length: int, is_shared: bool) -> None:
    """nft would refuse them."""
    subnet = IPv4Network((address, length), strict=False)
    own = sorted(inside(subnet, subnet[1], [subnet[2], subnet[3]], is_shared=is_shared))
    assert not any(one.overlaps(other) for one, other in pairwise(own))


def test_names_get_addresses_that_the_network_has_not() -> None:
    assert name_pool(SUBNET) == NAME_POOLS[0]
    assert name_pool(IPv4Network("198.18.200.0/24")) == NAME_POOLS[1]
    assert name_pool(IPv4Network("100.64.0.0/10")) == NAME_POOLS[0]
    assert not NAME_POOLS[0].overlaps(IPv4Network("198.19.0.0/16")), "transits"
