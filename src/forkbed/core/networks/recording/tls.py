"""The greeting of a TLS client, as far as it tells whom it wants to reach (RFC 8446, 6066). Pure."""

from __future__ import annotations

import struct
from enum import Enum

from forkbed.core.networks.recording.text import printable

LONGEST_HELLO = 16 << 10
REFUSAL = b"\x15\x03\x01\x00\x02\x02\x28"
"""A fatal alert: no handshake."""

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _HOST_NAME = 0, 0
_LONGEST_NAME = 255


class Greeting(Enum):
    """What the bytes are, where they are not a whole greeting."""

    INCOMPLETE = "incomplete"
    OTHER = "other"


def may_begin(data: bytes) -> bool:
    """Whether a TLS record with a handshake may begin with these bytes."""
    return data[:2] == b"\x16\x03"[: len(data)] and len(data) > 0


def server_name(data: bytes) -> str | Greeting:
    """The name of the server that the client asks for, printable; empty if it names none."""
    if not may_begin(data):
        return Greeting.OTHER
    message = _handshake(data)
    if isinstance(message, Greeting):
        return message
    try:
        return _name_in(message)
    except (struct.error, IndexError):
        return Greeting.OTHER


def _handshake(data: bytes) -> bytes | Greeting:
    """The first handshake message, put together from as many records as it takes."""
    fragments = b""
    at = 0
    while True:
        if len(fragments) >= 4:
            if fragments[0] != _CLIENT_HELLO:
                return Greeting.OTHER
            length = 4 + int.from_bytes(fragments[1:4], "big")
            if length > LONGEST_HELLO:
                return Greeting.OTHER
            if len(fragments) >= length:
                return fragments[4:length]
        if len(data) < at + 5:
            return Greeting.INCOMPLETE
        kind, version, length = struct.unpack_from("!BBxH", data, at)
        if kind != _HANDSHAKE or version != 3 or length == 0:
            return Greeting.OTHER
        at += 5
        if len(data) < at + length:
            return Greeting.INCOMPLETE
        fragments += data[at : at + length]
        at += length


def _name_in(hello: bytes) -> str:
    at = 2 + 32  # version, random
    at += 1 + hello[at]  # session id
    at += 2 + struct.unpack_from("!H", hello, at)[0]  # cipher suites
    at += 1 + hello[at]  # compression methods
    if at == len(hello):
        return ""  # no extensions
    end = at + 2 + struct.unpack_from("!H", hello, at)[0]
    at += 2
    while at + 4 <= min(end, len(hello)):
        kind, length = struct.unpack_from("!HH", hello, at)
        at += 4
        if kind == _SERVER_NAME:
            _, name_kind, name_length = struct.unpack_from("!HBH", hello, at)
            name = hello[at + 5 : at + 5 + name_length]
            return printable(name.lower(), _LONGEST_NAME) if name_kind == _HOST_NAME else ""
        at += length
    return ""
