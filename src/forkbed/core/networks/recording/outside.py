"""Which destinations are outside of a fork's network, and which addresses names outside are given. Pure.

A network whose original was on a host bridge is a piece of somebody else's segment: there all addresses but those of
the fork's own machines are outside, the router and the neighbours too. That needs every machine's address to be known;
where one was given by the outside, the whole subnet stays inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

_NOWHERE = tuple(IPv4Network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"))
"""What NAT would not let out either: a cloud's metadata service listens at a link-local address."""

NAME_POOLS = (IPv4Network("198.18.128.0/17"), IPv4Network("100.127.0.0/17"))
"""For benchmarks of network equipment, and shared between providers and customers: neither is a service's address."""


def name_pool(subnet: IPv4Network) -> IPv4Network:
    """The addresses that stand for names outside, for a network with that subnet."""
    return next(pool for pool in NAME_POOLS if not pool.overlaps(subnet))


def inside(
    subnet: IPv4Network, gateway: IPv4Address, machines: Sequence[IPv4Address | None], *, is_shared: bool
) -> tuple[IPv4Network, ...]:
    """The destinations that do not lead outside, without overlaps.

    `machines` are the addresses of the NICs on the network, None for one that is not known. `is_shared`: the
    original shares the subnet with machines that are not its own.
    """
    own: tuple[IPv4Network, ...] = (subnet,)
    if leads_to_neighbours(machines, is_shared=is_shared):
        known = [address for address in machines if address is not None]
        own = tuple(IPv4Network(address) for address in (gateway, subnet.broadcast_address, *known))
    return tuple(collapse_addresses([*own, *_NOWHERE]))


def leads_to_neighbours(machines: Sequence[IPv4Address | None], *, is_shared: bool) -> bool:
    """Whether the addresses of the subnet that no machine has are outside."""
    return is_shared and None not in machines
