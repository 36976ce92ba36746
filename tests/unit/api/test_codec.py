from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkbed.api.codec import decode, encode

Id = NewType("Id", str)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Inner:
    number: int
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Outer:
    id: Id
    colour: Colour
    pair: tuple[str, int]
    many: tuple[Inner, ...]
    names: frozenset[str]
    by_name: Mapping[str, Inner]
    free: dict[str, object] | None
    sequence: Sequence[str] = ()
    defaulted: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Branch:
    name: str
    twigs: tuple[Branch, ...] = ()


_inner = st.builds(Inner, st.integers(), st.none() | st.floats(allow_nan=False))
_outer = st.builds(
    Outer,
    st.text(),
    st.sampled_from(Colour),
    st.tuples(st.text(), st.integers()),
    st.lists(_inner).map(tuple),
    st.frozensets(st.text()),
    st.dictionaries(st.text(), _inner),
    st.none() | st.dictionaries(st.text(), st.integers() | st.text() | st.booleans()),
    st.lists(st.text()).map(tuple),
    st.lists(st.integers()),
)


@given(_outer)
def test_what_was_encoded_is_decoded(value: Outer) -> None:
    assert decode(Outer, json.loads(json.dumps(encode(value)))) == value


@given(
    st.recursive(
        st.builds(Branch, st.text()),
        lambda twigs: st.builds(Branch, st.text(), st.lists(twigs, max_size=3).map(tuple)),
        max_leaves=10,
    )
)
def test_a_tree_is_decoded(tree: Branch) -> None:
    assert decode(Branch, json.loads(json.dumps(encode(tree)))) == tree


def test_unknown_keys_are_passed_over_and_defaults_fill_in() -> None:
    assert decode(Inner, {"number": 3, "colour": "red"}) == Inner(3)


@pytest.mark.parametrize("data", [{}, {"share": 1.0}, 3, None, {"number": 1, "share": "much"}])
def test_another_shape_is_an_error(data: object) -> None:
    with pytest.raises(ValueError):
        decode(Inner, data)


def test_a_text_is_no_list() -> None:
    with pytest.raises(ValueError):
        decode(
            Outer, {**encode(Outer(Id("x"), Colour.RED, ("a", 1), (), frozenset(), {}, None)), "many": "ab"}
        )
