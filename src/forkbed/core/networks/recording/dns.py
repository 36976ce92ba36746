"""Questions to name servers, and answers to them (RFC 1035, 6891, 7871). Pure.

Only the one question of a message and its options are read; nothing of it is trusted. An answer never has more than
one record.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from forkbed.core.networks.recording.text import printable

A, PTR, OPTIONS, ANY = 1, 12, 41, 255
NO_ERROR, FORMAT_ERROR, NO_SUCH_NAME, NOT_IMPLEMENTED = 0, 1, 3, 4
TTL_S = 60

_TYPES = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 35: "NAPTR",
    43: "DS", 48: "DNSKEY", 64: "SVCB", 65: "HTTPS", 255: "ANY", 257: "CAA",
}  # fmt: skip
_HEADER = struct.Struct("!6H")
_RECORD = struct.Struct("!HHIH")
_CLASS_IN = 1
_IS_ANSWER, _OPCODE, _WANTS_RECURSION = 0x8000, 0x7800, 0x0100
_ANSWER_FLAGS = 0x8080  # an answer; recursion is available
_QUESTION_AT = 0xC00C  # a pointer to the name in the question
_CLIENT_SUBNET = 8
_UDP_SIZE = 1232
_LONGEST_NAME = 255
_LONGEST_LABEL = 63
_MOST_RECORDS = 4
_REVERSE = ".in-addr.arpa"


@dataclass(frozen=True, slots=True)
class Query:
    """A question that can be answered. `name` is printable, in lower case, "." for the root.

    `client` is the address for which another name server asks (EDNS client subnet), None if it asks for itself.
    """

    identifier: int
    flags: int
    name: str
    kind: int
    question: bytes  # as it was sent: answers repeat it
    has_options: bool
    client: IPv4Address | None

    @property
    def type_name(self) -> str:
        return _TYPES.get(self.kind, f"TYPE{self.kind}")

    @property
    def reversed_address(self) -> IPv4Address | None:
        """The address whose name is asked for."""
        if self.kind != PTR or not self.name.endswith(_REVERSE):
            return None
        parts = self.name.removesuffix(_REVERSE).split(".")
        try:
            return IPv4Address(".".join(reversed(parts)))
        except ValueError:
            return None


def parse_query(data: bytes) -> Query | bytes | None:
    """The question of a message; or the refusal to be sent; or None if it is not to be answered at all."""
    if len(data) < _HEADER.size:
        return None
    identifier, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _IS_ANSWER:
        return None
    if flags & _OPCODE:
        return _refusal(identifier, flags, NOT_IMPLEMENTED)
    try:
        if questions != 1 or answers or authorities or additional > _MOST_RECORDS:
            raise _MalformedError
        name, end = _name(data, _HEADER.size)
        kind, of_class = struct.unpack_from("!HH", data, end)
        if of_class not in {_CLASS_IN, ANY}:
            return _refusal(identifier, flags, NOT_IMPLEMENTED)
        question = data[_HEADER.size : end + 4]
        has_options, client = _options(data, end + 4, additional)
    except (_MalformedError, struct.error):
        return _refusal(identifier, flags, FORMAT_ERROR)
    return Query(identifier, flags, name, kind, question, has_options, client)


def render_address(query: Query, address: IPv4Address) -> bytes:
    """The answer that the name has this address."""
    return _answer(query, NO_ERROR, (A, address.packed))


def render_name(query: Query, name: str) -> bytes:
    """The answer that the address has this name, which consists of letters as they are sent."""
    labels = [label.encode("ascii") for label in name.split(".")]
    return _answer(query, NO_ERROR, (PTR, b"".join(bytes([len(label)]) + label for label in labels) + b"\0"))


def render_empty(query: Query, code: int = NO_ERROR) -> bytes:
    """The answer that there is nothing of the kind, or with another code."""
    return _answer(query, code, None)


class _MalformedError(Exception):
    pass


def _name(data: bytes, at: int) -> tuple[str, int]:
    """A name without compression, which nobody uses in questions, and where it ends."""
    labels = []
    begin = at
    while True:
        if at >= len(data):
            raise _MalformedError
        length = data[at]
        at += 1
        if length == 0:
            break
        if length > _LONGEST_LABEL or at + length > len(data) or at + length - begin > _LONGEST_NAME:
            raise _MalformedError
        label = printable(data[at : at + length].lower(), length)
        labels.append(label.replace(".", "\\x2e"))
        at += length
    return ".".join(labels) or ".", at


def _options(data: bytes, at: int, count: int) -> tuple[bool, IPv4Address | None]:
    has_options, client = False, None
    for _ in range(count):
        _, at = _name(data, at)
        kind, _, _, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if at + length > len(data):
            raise _MalformedError
        if kind == OPTIONS:
            has_options = True
            client = _client(data[at : at + length]) or client
        at += length
    return has_options, client


def _client(options: bytes) -> IPv4Address | None:
    at = 0
    while at + 4 <= len(options):
        code, length = struct.unpack_from("!HH", options, at)
        value = options[at + 4 : at + 4 + length]
        if code == _CLIENT_SUBNET and len(value) == 8 and value[:3] == b"\x00\x01\x20":  # IPv4, all 32 bits
            return IPv4Address(value[4:])
        at += 4 + length
    return None


def _answer(query: Query, code: int, record: tuple[int, bytes] | None) -> bytes:
    flags = _ANSWER_FLAGS | (query.flags & _WANTS_RECURSION) | code
    counts = (1, 1 if record else 0, 0, 1 if query.has_options else 0)
    parts = [_HEADER.pack(query.identifier, flags, *counts), query.question]
    if record is not None:
        kind, value = record
        parts += [struct.pack("!H", _QUESTION_AT), _RECORD.pack(kind, _CLASS_IN, TTL_S, len(value)), value]
    if query.has_options:
        parts += [b"\0", _RECORD.pack(OPTIONS, _UDP_SIZE, 0, 0)]
    return b"".join(parts)


def _refusal(identifier: int, flags: int, code: int) -> bytes:
    kept = flags & (_OPCODE | _WANTS_RECURSION)
    return _HEADER.pack(identifier, _ANSWER_FLAGS | kept | code, 0, 0, 0, 0)
