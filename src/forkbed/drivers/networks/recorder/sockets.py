"""The recorder's sockets: opened as root, used without any rights."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

from forkbed.drivers.networks.recorder.settings import LOOPBACK, NAMES_PORT, PORT

Address = tuple[str, int]

_IP_TRANSPARENT, _IP_RECVORIGDSTADDR = 19, 20  # of linux/in.h; the socket module has no names for them
_SO_RCVBUFFORCE, _SO_RXQ_OVFL = 33, 40  # of asm-generic/socket.h
_WAITING_BYTES = 1 << 20  # of datagrams that came while others were attended to
_UDP_PROTOCOL = 17
_LARGEST_DATAGRAM = 65535
_AT_ONCE = 64
"""So many datagrams or connections are taken before others get their turn."""


class Sockets:
    """What guests send elsewhere comes to `tcp` and `udp`, what dnsmasq asks to `names_tcp` and `names_udp`."""

    def __init__(self) -> None:
        self.tcp = _bound(socket.SOCK_STREAM, PORT)
        self.udp = _bound(socket.SOCK_DGRAM, PORT)
        self.udp.setsockopt(socket.SOL_IP, _IP_RECVORIGDSTADDR, 1)
        self.udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _WAITING_BYTES)
        self.udp.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
        self.names_tcp = _bound(socket.SOCK_STREAM, NAMES_PORT)
        self.names_udp = _bound(socket.SOCK_DGRAM, NAMES_PORT)
        self._answers = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._answers.setblocking(False)
        self._overflown = self._told_overflown = 0

    def datagrams(self) -> Iterator[tuple[bytes, Address, Address]]:
        """What guests sent by UDP: content, source, destination."""
        with contextlib.suppress(OSError):
            for _ in range(_AT_ONCE):
                data, ancillary, _, source = self.udp.recvmsg(_LARGEST_DATAGRAM, 128)
                for level, kind, content in ancillary:
                    if (level, kind) == (socket.SOL_IP, _IP_RECVORIGDSTADDR):
                        port, packed = struct.unpack_from("!2xH4s", content)
                        yield data, source, (str(IPv4Address(packed)), port)
                    elif (level, kind) == (socket.SOL_SOCKET, _SO_RXQ_OVFL):
                        self._overflown = struct.unpack("=I", content)[0]

    def take_overflown(self) -> int:
        """How many datagrams of guests the kernel had no room for since this was asked last."""
        count = (self._overflown - self._told_overflown) % (1 << 32)
        self._told_overflown = self._overflown
        return count

    def questions(self) -> Iterator[tuple[bytes, Address]]:
        """What dnsmasq asked by UDP, and where the answer is to go."""
        with contextlib.suppress(OSError):
            for _ in range(_AT_ONCE):
                yield self.names_udp.recvfrom(_LARGEST_DATAGRAM)

    def answer_guest(self, data: bytes, source: Address, target: Address) -> None:
        """Send a datagram from anywhere; it may get lost, as any."""
        with contextlib.suppress(OSError):
            self._answers.sendto(datagram(data, source, target), (target[0], 0))

    def answer_dnsmasq(self, data: bytes, target: Address) -> None:
        """Send an answer to a question."""
        with contextlib.suppress(OSError):
            self.names_udp.sendto(data, target)


def accepted(listener: socket.socket) -> Iterator[tuple[socket.socket, Address]]:
    """New connections, each with its source."""
    with contextlib.suppress(OSError):
        for _ in range(_AT_ONCE):
            yield listener.accept()


def datagram(data: bytes, source: Address, target: Address) -> bytes:
    """An IPv4 packet with a UDP datagram; the kernel fills in length and checksum."""
    udp = struct.pack("!HHHH", source[1], target[1], 8 + len(data), 0) + data
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, _UDP_PROTOCOL, 0) + addresses + udp


def _bound(kind: socket.SocketKind, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, kind)
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
    opened.bind((LOOPBACK, port))
    if kind is socket.SOCK_STREAM:
        opened.listen(128)
    return opened
