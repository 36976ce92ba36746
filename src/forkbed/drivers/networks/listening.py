"""Which ports of this host are in use by its own processes."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from forkbed.core.networks.publications import ANY_ADDRESS
from forkbed.core.systems.spec import Protocol

_TABLES = Path("/proc/thread-self/net")
_LISTENS = "0A"
_UNCONNECTED = "07"
_WAITING = {Protocol.TCP: _LISTENS, Protocol.UDP: _UNCONNECTED}


def is_in_use(protocol: Protocol, address: IPv4Address, port: int) -> bool:
    """Whether a process of the calling thread's network namespace waits at that address and port."""
    for table in (str(protocol), f"{protocol}6"):
        try:
            lines = (_TABLES / table).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue  # a kernel without IPv6
        if any(_meets(address, port, entry) for entry in parse_sockets(lines, _WAITING[protocol])):
            return True
    return False


def parse_sockets(lines: Iterable[str], state: str) -> Iterable[tuple[IPv4Address, int]]:
    """Local IPv4 address and port of each socket in that state, of lines as in /proc/net/tcp and tcp6.

    A socket on all IPv6 addresses counts as one on all IPv4 addresses, as it usually is.
    """
    for line in lines:
        words = line.split()
        if words[3] != state:
            continue
        address, _, port = words[1].partition(":")
        # The kernel prints each 32-bit word in the machine's byte order.
        octets = b"".join(
            int(address[i : i + 8], 16).to_bytes(4, "little") for i in range(0, len(address), 8)
        )
        if len(octets) == 4:
            yield IPv4Address(octets), int(port, 16)
            continue
        ipv6 = IPv6Address(octets)
        if ipv6.ipv4_mapped is not None:
            yield ipv6.ipv4_mapped, int(port, 16)
        elif ipv6 == IPv6Address(0):
            yield ANY_ADDRESS, int(port, 16)


def _meets(address: IPv4Address, port: int, used: tuple[IPv4Address, int]) -> bool:
    used_address, used_port = used
    return port == used_port and (used_address == address or ANY_ADDRESS in (address, used_address))
