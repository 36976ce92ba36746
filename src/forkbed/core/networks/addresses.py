"""Which addresses, MACs and transits networks and their machines get. Pure.

All of these are decided once and then stored: a machine keeps its address when others come and go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import NetworkId

LARGEST_PREFIX = 29
"""A subnet with a longer prefix has no room for a gateway and several machines."""

SMALLEST_PREFIX = 8
"""MACs carry the low 24 bits of the address, so they differ only within a subnet of that size."""

_FIRST_AUTOMATIC = 10


def gateway_of(subnet: IPv4Network) -> IPv4Address:
    """The address of the service namespace: the subnet's first."""
    return subnet[1]


def usable_addresses(subnet: IPv4Network) -> range:
    """The addresses that machines may have, as integers: all but network, gateway and broadcast."""
    return range(int(subnet.network_address) + 2, int(subnet.broadcast_address))


def allocate(
    subnet: IPv4Network, wanted: Sequence[IPv4Address | None], taken: Collection[IPv4Address] = ()
) -> tuple[IPv4Address, ...]:
    """An address for each entry of `wanted`, in that order: the one asked for, or a free one for None.

    `taken` are addresses that NICs have already; nobody else gets them. Automatic addresses begin at .10 where
    the subnet is large enough, so that low ones stay free to be given by hand. Raises INVALID for an
    address that is no machine's to have, CONFLICT for one that is taken or asked for twice or a full subnet.
    """
    used = {int(address) for address in taken}
    for address in wanted:
        if address is None:
            continue
        _check(subnet, address, used)
        used.add(int(address))
    free = _free_addresses(subnet, used)
    return tuple(address if address is not None else _next(subnet, free) for address in wanted)


def derive_mac(lineage: NetworkId, address: IPv4Address) -> str:
    """The MAC of the NIC with that address: locally administered, the same on every host and in every fork.

    Two bytes come from the network's lineage and three from the address, so two NICs of one network never
    share a MAC.
    """
    lineage_bytes = hashlib.sha256(lineage.encode()).digest()[:2]
    return ":".join(f"{byte:02x}" for byte in (0x02, *lineage_bytes, *address.packed[1:]))


def choose_transit(pool: IPv4Network, taken: Iterable[IPv4Network]) -> IPv4Network:
    """The first /31 of `pool` that overlaps none of `taken`. Raises CONFLICT if there is none."""
    used: set[int] = set()
    for network in taken:
        used.update(range(int(network.network_address) >> 1, (int(network.broadcast_address) >> 1) + 1))
    first = int(pool.network_address) >> 1
    for pair in range(first, first + pool.num_addresses // 2):
        if pair not in used:
            return IPv4Network((pair << 1, 31))
    raise OperationalError(
        Kind.CONFLICT,
        f"transit pool {pool}",
        "every /31 of it is in use by a network",
        "remove networks with NAT or published ports, or set a larger transit_pool",
    )


def _check(subnet: IPv4Network, address: IPv4Address, used: Collection[int]) -> None:
    usable = usable_addresses(subnet)
    if int(address) not in usable:
        raise OperationalError(
            Kind.INVALID,
            f"address {address}",
            f"no machine in {subnet} can have it",
            f"choose one from {IPv4Address(usable.start)} to {IPv4Address(usable.stop - 1)}"
            f" ({gateway_of(subnet)} is the gateway's)",
        )
    if int(address) in used:
        raise OperationalError(
            Kind.CONFLICT,
            f"address {address}",
            f"another machine in {subnet} has it already",
            "choose another one, or leave it out to be given a free one",
        )


def _free_addresses(subnet: IPv4Network, used: Collection[int]) -> Iterator[IPv4Address]:
    usable = usable_addresses(subnet)
    begin = int(subnet.network_address) + _FIRST_AUTOMATIC
    if subnet.num_addresses < 4 * _FIRST_AUTOMATIC:
        begin = usable.start
    for number in (*range(begin, usable.stop), *range(usable.start, begin)):
        if number not in used:
            yield IPv4Address(number)


def _next(subnet: IPv4Network, free: Iterator[IPv4Address]) -> IPv4Address:
    address = next(free, None)
    if address is None:
        raise OperationalError(
            Kind.CONFLICT, f"network {subnet}", "has no free address left", "give it a larger subnet"
        )
    return address
