from __future__ import annotations

import socket
from ipaddress import IPv4Address

from forkbed.core.systems.spec import Protocol
from forkbed.drivers.networks.listening import is_in_use, parse_sockets

TCP = """\
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1234 1 0000 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1235 1 0000 100 0 0 10 0
   2: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 1236 1 0000 100 0 0 10 0
""".splitlines()
TCP6 = """\
   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 1 1 0 1
   1: 0000000000000000FFFF00000100007F:0051 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 1 1 0 1
   2: 00000000000000000000000001000000:0052 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 1 1 0 1
""".splitlines()


def test_listening_sockets_are_read_from_the_kernels_tables() -> None:
    assert list(parse_sockets(TCP, "0A")) == [
        (IPv4Address("127.0.0.1"), 8080),
        (IPv4Address("0.0.0.0"), 22),
    ]
    assert list(parse_sockets(TCP6, "0A")) == [
        (IPv4Address("0.0.0.0"), 80),
        (IPv4Address("127.0.0.1"), 81),
    ], "::1 is no IPv4 address"


def test_a_port_is_in_use_at_its_address_and_at_all() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert is_in_use(Protocol.TCP, IPv4Address("127.0.0.1"), port)
        assert is_in_use(Protocol.TCP, IPv4Address("0.0.0.0"), port)
        assert not is_in_use(Protocol.TCP, IPv4Address("127.0.0.2"), port)
        assert not is_in_use(Protocol.UDP, IPv4Address("127.0.0.1"), port)
    assert not is_in_use(Protocol.TCP, IPv4Address("127.0.0.1"), port)
