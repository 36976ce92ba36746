"""Which address stands for a name outside, and which name an address stands for. Pure.

An address follows from the name alone, unless two names meet: so it is the same after the memory of it was lost. The
memory is bounded: the names that nobody asked for the longest are forgotten first.
"""

from __future__ import annotations

from binascii import crc32
from ipaddress import IPv4Address, IPv4Network

from forkbed.core.networks.recording import dns

MOST_NAMES = 4096


class Names:
    """The names asked for so far; `pool` has many more addresses than `most` names."""

    def __init__(self, pool: IPv4Network, most: int = MOST_NAMES) -> None:
        self._first, self._size = int(pool.network_address) + 1, pool.num_addresses - 2
        self._most = most
        self._addresses: dict[str, IPv4Address] = {}
        self._names: dict[IPv4Address, str] = {}

    def address_of(self, name: str) -> IPv4Address:
        """The address that stands for the name from now on."""
        address = self._addresses.get(name) or self._free_address(name)
        self.remember(name, address)
        return address

    def name_of(self, address: IPv4Address) -> str:
        """The name that the address stands for, empty if for none."""
        return self._names.get(address, "")

    def remember(self, name: str, address: IPv4Address) -> None:
        """Let the address stand for the name, and for no other."""
        before = self._addresses.pop(name, None)
        if before is not None:
            del self._names[before]
        other = self._names.pop(address, None)
        if other is not None:
            del self._addresses[other]
        self._addresses[name], self._names[address] = address, name
        while len(self._addresses) > self._most:
            oldest = next(iter(self._addresses))
            del self._names[self._addresses.pop(oldest)]

    def answer(self, query: dns.Query) -> tuple[bytes, str]:
        """The answer to a question, and what it says in words, empty if it says that there is nothing."""
        if query.kind in {dns.A, dns.ANY} and query.name != ".":
            address = self.address_of(query.name)
            return dns.render_address(query, address), str(address)
        if query.kind != dns.PTR:
            return dns.render_empty(query), ""
        reversed_address = query.reversed_address
        name = self.name_of(reversed_address) if reversed_address else ""
        if not name or "\\" in name:
            return dns.render_empty(query, dns.NO_SUCH_NAME), ""
        return dns.render_name(query, name), name

    def _free_address(self, name: str) -> IPv4Address:
        number = crc32(name.encode())  # who makes names meet on purpose makes us look a little longer
        address = IPv4Address(self._first + number % self._size)
        while address in self._names:
            number += 1
            address = IPv4Address(self._first + number % self._size)
        return address
