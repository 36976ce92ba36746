"""Questions to name servers, answers to them, and the addresses that stand for names."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkbed.core.networks.recording import dns
from forkbed.core.networks.recording.names import Names

POOL = IPv4Network("198.18.128.0/17")
A, AAAA, MX, PTR, ANY = 1, 28, 15, 12, 255
NO_ERROR, FORMAT_ERROR, NO_SUCH_NAME, NOT_IMPLEMENTED = 0, 1, 3, 4


def wire_name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def message(
    name: bytes,
    kind: int = A,
    *,
    flags: int = 0x0100,
    counts: tuple[int, ...] = (1, 0, 0, 0),
    rest: bytes = b"",
) -> bytes:
    return struct.pack("!6H", 77, flags, *counts) + name + struct.pack("!HH", kind, 1) + rest


def options(content: bytes) -> bytes:
    return b"\0" + struct.pack("!HHIH", 41, 1232, 0, len(content)) + content


def query(name: str, kind: int = A) -> dns.Query:
    parsed = dns.parse_query(message(wire_name(name), kind))
    assert isinstance(parsed, dns.Query)
    return parsed


def records(answer: bytes, question: bytes) -> tuple[int, bytes]:
    """Response code and the data of the one answer, empty without one."""
    identifier, flags, questions, answers, _, _ = struct.unpack_from("!6H", answer)
    assert identifier == 77 and flags & 0x8000 and questions == 1
    at = 12 + len(question)
    if not answers:
        return flags & 15, b""
    _, _, _, ttl, length = struct.unpack_from("!HHHIH", answer, at)
    assert 0 < ttl <= 300
    return flags & 15, answer[at + 12 : at + 12 + length]


def test_a_name_gets_an_address_and_an_address_its_name() -> None:
    names = Names(POOL)
    asked = query("Example.org")
    assert (asked.name, asked.type_name) == ("example.org", "A")
    answer, says = names.answer(asked)
    code, data = records(answer, asked.question)
    assert (code, str(IPv4Address(data))) == (NO_ERROR, says)
    assert IPv4Address(says) in POOL
    assert names.name_of(IPv4Address(says)) == "example.org"
    backwards = query(".".join(reversed(says.split("."))) + ".in-addr.arpa", PTR)
    answer, says = names.answer(backwards)
    assert (records(answer, backwards.question), says) == (
        (NO_ERROR, wire_name("example.org")),
        "example.org",
    )


@pytest.mark.parametrize("kind", [AAAA, MX, 16, 33, 65, 999])
def test_of_other_kinds_there_is_nothing(kind: int) -> None:
    """So clients go on to ask for an IPv4 address."""
    names = Names(POOL)
    asked = query("example.org", kind)
    answer, says = names.answer(asked)
    assert (records(answer, asked.question), says) == ((NO_ERROR, b""), "")


@pytest.mark.parametrize("name", ["4.3.2.1.in-addr.arpa", "x.in-addr.arpa", "1.in-addr.arpa", "a.b.ip6.arpa"])
def test_addresses_that_stand_for_nothing_have_no_name(name: str) -> None:
    asked = query(name, PTR)
    assert records(Names(POOL).answer(asked)[0], asked.question) == (NO_SUCH_NAME, b"")


def test_who_asks_for_somebody_says_so() -> None:
    subnet = struct.pack("!HHHBB", 8, 8, 1, 32, 0) + bytes([10, 20, 0, 11])
    asked = dns.parse_query(
        message(wire_name("x.org"), counts=(1, 0, 0, 1), rest=options(b"\0\x0a\0\x02ab" + subnet))
    )
    assert isinstance(asked, dns.Query)
    assert asked.client == IPv4Address("10.20.0.11")
    answer, _ = Names(POOL).answer(asked)
    assert answer.endswith(b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)), "options are answered with options"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (message(wire_name("a"), flags=0x2800), NOT_IMPLEMENTED),
        (message(wire_name("a"), counts=(2, 0, 0, 0)), FORMAT_ERROR),
        (message(wire_name("a"), counts=(1, 1, 0, 0)), FORMAT_ERROR),
        (message(wire_name("a"), counts=(1, 0, 0, 60000)), FORMAT_ERROR),
        (message(wire_name("a"), counts=(1, 0, 0, 1)), FORMAT_ERROR),
        (
            message(wire_name("a"), counts=(1, 0, 0, 1), rest=b"\0\0\x29" + bytes(6) + b"\xff\xff"),
            FORMAT_ERROR,
        ),
        (message(b"\xc0\x0c"), FORMAT_ERROR),
        (message(b"\x40" + bytes(64) + b"\0"), FORMAT_ERROR),
        (message((b"\x3f" + b"a" * 63) * 4 + b"\0"), FORMAT_ERROR),
        (message(b"\x05abc"), FORMAT_ERROR),
        (message(wire_name("a"))[:-1], FORMAT_ERROR),
        (struct.pack("!6H", 77, 0, 1, 0, 0, 0), FORMAT_ERROR),
    ],
)
def test_what_is_no_question_is_refused(data: bytes, code: int) -> None:
    refused = dns.parse_query(data)
    assert isinstance(refused, bytes)
    assert struct.unpack_from("!HH", refused)[0] == 77
    assert struct.unpack_from("!HH", refused)[1] & 0x800F == 0x8000 | code


@pytest.mark.parametrize("data", [b"", b"short", message(wire_name("a"), flags=0x8180)])
def test_answers_and_scraps_are_not_answered(data: bytes) -> None:
    assert dns.parse_query(data) is None


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_are_taken(data: bytes) -> None:
    for sent in (data, struct.pack("!6H", 77, 0x0100, 1, 0, 0, 1) + data):
        parsed = dns.parse_query(sent)
        if isinstance(parsed, dns.Query):
            answer, _ = Names(POOL).answer(parsed)
            assert len(answer) <= len(sent) + 300
            assert parsed.name.isascii() and parsed.name.isprintable()


def test_a_name_is_shown_harmlessly_whatever_it_holds() -> None:
    parsed = dns.parse_query(message(b"\x05a.b\x1b\\\x03ORG\0"))
    assert isinstance(parsed, dns.Query)
    assert parsed.name == r"a\x2eb\x1b\\.org"


@settings(deadline=None)
@given(st.lists(st.text("ab.", min_size=1, max_size=4), max_size=40), st.integers(1, 8))
def test_names_keep_their_addresses_apart(asked: list[str], most: int) -> None:
    names = Names(IPv4Network("198.18.128.0/28"), most)
    lately: list[str] = []
    for name in asked:
        address = names.address_of(name)
        assert names.name_of(address) == name
        lately = [*(n for n in lately if n != name), name][-most:]
        told = {n: names.address_of(n) for n in lately}
        assert len(set(told.values())) == len(lately), "each has one of its own"
        assert all(address in IPv4Network("198.18.128.0/28") for address in told.values())


def test_a_name_has_the_same_address_after_all_was_forgotten() -> None:
    first, second = Names(POOL), Names(POOL)
    second.address_of("other.org")
    assert first.address_of("example.org") == second.address_of("example.org")


def test_what_was_told_before_is_told_again() -> None:
    names = Names(POOL)
    names.remember("example.org", IPv4Address("198.18.130.7"))
    assert names.address_of("example.org") == IPv4Address("198.18.130.7")
    names.remember("other.org", IPv4Address("198.18.130.7"))
    assert names.name_of(IPv4Address("198.18.130.7")) == "other.org"
    assert names.address_of("example.org") != IPv4Address("198.18.130.7")
