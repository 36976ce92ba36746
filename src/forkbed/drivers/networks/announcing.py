"""Make guests and the neighbours on a host's bridge known to each other, as soon as the way there is joined.

The neighbours are told where the guests are now: switches learn the port, caches are renewed (RFC 5227, 3). The guests
are told where the neighbours are by asking for them in the guests' name, since the answers renew what a guest believes:
in a fork the recorder answered for the whole segment, and without this a promoted guest would go on to send to it until
its cache gives the entry up, some 50 seconds.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network

from forkbed.drivers.networks.filters import MARK_OUTSIDE, GuestPort

_MOST_ASKED = 1024
"""In a larger subnet the guests' own caches have to do."""

_ARP = 0x0806
_BROADCAST = b"\xff" * 6
_REQUEST = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)  # Ethernet, IPv4


def announce(port: str, subnet: IPv4Network, guests: Sequence[GuestPort]) -> None:
    """Send it out through the port, for guests whose address is fixed. What cannot be sent is found out in time."""
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender,
    ):
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_OUTSIDE)
        sender.bind((port, 0))
        for frame in frames(subnet, guests):
            sender.send(frame)


def frames(subnet: IPv4Network, guests: Sequence[GuestPort]) -> Iterator[bytes]:
    """First that each guest is there, then its questions: ARP requests of 42 bytes, to everybody."""
    known = [(bytes.fromhex(guest.mac.replace(":", "")), guest.address) for guest in guests if guest.address]
    for mac, address in known:
        yield _request(mac, address, address)
    if subnet.num_addresses > _MOST_ASKED:
        return
    for mac, address in known:
        for neighbour in subnet.hosts():
            if neighbour != address:
                yield _request(mac, address, neighbour)


def _request(mac: bytes, address: IPv4Address, target: IPv4Address) -> bytes:
    ethernet = _BROADCAST + mac + struct.pack("!H", _ARP)
    return ethernet + _REQUEST + mac + address.packed + bytes(6) + target.packed
