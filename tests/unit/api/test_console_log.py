from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forkbed.api.server.console_log import new_output


@given(st.binary(max_size=3000), st.binary(max_size=3000))
def test_what_was_appended_is_new(before: bytes, added: bytes) -> None:
    assert new_output(before, before + added) == added


@given(st.integers(0, 500), st.binary(max_size=100))
def test_a_rotated_log_goes_on_where_it_was(cut: int, added: bytes) -> None:
    before = b"".join(b"%d line\n" % number for number in range(1000))
    assert new_output(before, before[cut:] + added) == added


def test_a_replaced_log_is_all_new() -> None:
    assert new_output(b"old\n" * 100, b"new\n") == b"new\n"
