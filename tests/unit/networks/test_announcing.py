"""What is said on a host's bridge when a network's port there was joined."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from forkbed.drivers.networks.announcing import frames
from forkbed.drivers.networks.filters import GuestPort

FIXED = GuestPort("tap0", "02:6c:27:14:00:0a", IPv4Address("10.20.0.10"))
ROAMING = GuestPort("tap1", "02:6c:27:14:00:0b", None)
HEAD = "ffffffffffff026c2714000a08060001080006040001026c2714000a0a14000a"
NOBODY = "000000000000"


def test_a_guest_is_announced_and_asks_for_everybody_else() -> None:
    said = [frame.hex() for frame in frames(IPv4Network("10.20.0.8/29"), [FIXED, ROAMING])]
    assert said[0] == HEAD + NOBODY + "0a14000a", "as its own sender and target (RFC 5227)"
    assert said[1:] == [HEAD + NOBODY + f"0a1400{number:02x}" for number in (9, 11, 12, 13, 14)]


def test_a_large_subnet_is_not_asked_address_by_address() -> None:
    assert len(list(frames(IPv4Network("10.20.0.0/22"), [FIXED]))) == 1022
    assert len(list(frames(IPv4Network("10.20.0.0/21"), [FIXED]))) == 1


def test_an_address_that_the_outside_gives_is_not_known_here() -> None:
    assert list(frames(IPv4Network("10.20.0.0/24"), [ROAMING])) == []
