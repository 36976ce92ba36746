"""How much a guest can make the recorder hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forkbed.core.networks.recording.limits import Rate, Recent


def test_a_rate_lets_a_burst_through_and_then_so_many_a_second() -> None:
    rate = Rate(2.0, 5)
    assert [rate.admits(100.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [rate.admits(101.0) for _ in range(4)] == [True] * 2 + [False] * 2
    assert [rate.admits(200.0) for _ in range(6)] == [True] * 5 + [False]


@given(st.lists(st.floats(0, 0.3), max_size=200))
def test_a_rate_is_never_exceeded(pauses: list[float]) -> None:
    rate, now, admitted = Rate(3.0, 4), 50.0, 0
    for pause in pauses:
        now += pause
        admitted += rate.admits(now)
    assert admitted <= 4 + 3.0 * (now - 50.0) + 0.001


def test_what_was_met_lately_is_not_new() -> None:
    recent = Recent(30.0, 2)
    assert [recent.is_new(key, now) for key, now in (("a", 0), ("a", 29), ("a", 30), ("a", 59))] == [
        True,
        False,
        True,
        False,
    ]
    assert recent.is_new("b", 59) and recent.is_new("c", 59)
    assert recent.is_new("a", 59), "only two are remembered"
