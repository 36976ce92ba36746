from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forkbed.cli.terminal import Escape

CONSOLE = b"\x1d"


def _feed(escape: Escape, *pieces: bytes) -> tuple[bytes, bool]:
    sent = b""
    for piece in pieces:
        data, leaves = escape.feed(piece)
        sent += data
        if leaves:
            return sent, True
    return sent, False


def test_one_key_leaves_anywhere() -> None:
    assert _feed(Escape(CONSOLE), b"ls\r", b"x\x1dy") == (b"ls\rx", True)


def test_two_keys_leave_at_the_beginning_of_a_line() -> None:
    assert _feed(Escape(b"~.", line_start=True), b"~.") == (b"", True)
    assert _feed(Escape(b"~.", line_start=True), b"ls\r", b"~", b".") == (b"ls\r", True)
    assert _feed(Escape(b"~.", line_start=True), b"cd ~.\r") == (b"cd ~.\r", False)


def test_what_was_held_back_is_sent_when_it_is_not_meant() -> None:
    assert _feed(Escape(b"~.", line_start=True), b"~", b"/x") == (b"~/x", False)


@given(st.lists(st.binary(max_size=8)))
def test_all_else_passes_unchanged(pieces: list[bytes]) -> None:
    typed = b"".join(pieces)
    sent, leaves = _feed(Escape(b"~.", line_start=True), *pieces, b"\r")
    if not leaves:
        assert sent == typed + b"\r"
