"""Sets of bytes, against sets of numbers."""

from hypothesis import given
from hypothesis import strategies as some

from forkbed.core.diffs.ranges import ranges

NUMBERS = some.integers(0, 40)
PAIRS = some.lists(some.tuples(NUMBERS, NUMBERS), max_size=8)


def numbers(pairs: object) -> set[int]:
    assert isinstance(pairs, list)
    return {number for start, end in pairs for number in range(start, end)}


@given(PAIRS)
def test_a_set_holds_its_bytes_in_order_and_apart(pairs: list[tuple[int, int]]) -> None:
    found = list(ranges(pairs))
    assert numbers(found) == numbers(pairs)
    edges = [edge for pair in found for edge in pair]
    assert edges == sorted(set(edges))
    assert ranges(pairs).total_bytes == len(numbers(pairs))


@given(PAIRS, NUMBERS, NUMBERS)
def test_meets_and_within(pairs: list[tuple[int, int]], start: int, end: int) -> None:
    asked = numbers(pairs) & set(range(start, end))
    assert ranges(pairs).meets(start, end) == bool(asked)
    assert numbers(list(ranges(pairs).within(start, end))) == asked


@given(PAIRS, PAIRS)
def test_union(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    assert ranges(one).union(ranges(other)) == ranges([*one, *other])
