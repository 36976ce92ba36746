"""YAML is read as text with places; what is odd, dangerous or wrong is refused where it stands."""

from __future__ import annotations

from typing import Any

import pytest

from forkbed.config import yamlsource
from forkbed.config.problems import ManifestInvalid
from forkbed.config.variables import NO_VALUE, to_data
from forkbed.config.yamlsource import decode_text, read_yaml


def data(text: str) -> Any:
    source = read_yaml(text, "f.yaml")
    assert source.problems == []
    return to_data(source.root).value


def refusal(text: str) -> list[str]:
    with pytest.raises(ManifestInvalid) as caught:
        read_yaml(text, "f.yaml")
    return list(caught.value.details)


def test_scalars_stay_what_was_written() -> None:
    text = "{on: yes, time: 1:30, octal: 010, image: debian:dev, date: 2026-01-01, float: 1e3, hex: 0x1F, 1: 'null'}"
    assert data(text) == {
        "on": "yes",
        "time": "1:30",
        "octal": "010",
        "image": "debian:dev",
        "date": "2026-01-01",
        "float": "1e3",
        "hex": "0x1F",
        "1": "null",
    }


@pytest.mark.parametrize("text", ["a:", "a: ~", "a: null", "{a: }"])
def test_a_key_without_a_value_is_told_from_empty_text(text: str) -> None:
    assert data(text) == {"a": NO_VALUE}
    assert data('a: ""') == {"a": ""}


def test_aliases_and_merges() -> None:
    text = "a: &base {x: 1, y: 2}\nb: *base\nc:\n  y: 3\n  <<: *base\nd: {<<: [*base, {x: 9, z: 4}]}\n"
    read = data(text)
    assert read["b"] == {"x": "1", "y": "2"}
    assert read["c"] == {"y": "3", "x": "1"}
    assert read["d"] == {"x": "1", "y": "2", "z": "4"}


def test_a_merged_key_is_found_where_it_was_written() -> None:
    positions = read_yaml("a: &base\n  x: 1\nb:\n  <<: *base\n", "f").positions
    assert positions.locate(("b", "x")) == (2, 6)


@pytest.mark.parametrize(
    ("path", "on_key", "place"),
    [
        (("a",), False, (1, 1)),
        (("a", "b"), False, (2, 6)),
        (("a", "b"), True, (2, 3)),
        (("a", "c", 1), False, (3, 10)),
        (("a", "c", 1, "beyond"), False, (3, 10)),
        (("a", "c", 7), False, (3, 3)),
        (("nowhere",), False, (1, 1)),
        (("a", "missing"), True, (1, 1)),
    ],
)
def test_places(path: tuple[str | int, ...], on_key: bool, place: tuple[int, int]) -> None:
    positions = read_yaml("a:\n  b: 1\n  c: [x, yy]\n", "f").positions
    assert positions.locate(path, on_key=on_key) == place


def test_an_entry_without_a_value_has_the_place_of_its_list() -> None:
    assert read_yaml("a:\n  - x\n  -\n#", "f").positions.locate(("a", 1)) == (2, 3)


def test_a_repeated_key_is_a_problem_and_the_rest_is_read() -> None:
    source = read_yaml("a:\n  - b: 1\n    b: 2\nc: 3\nc: 4\n", "f.yaml")
    assert [problem.render("f") for problem in source.problems] == [
        "f:3:5: a[0].b: the key is here twice, first in line 2; remove one of the two",
        "f:5:1: c: the key is here twice, first in line 4; remove one of the two",
    ]
    assert to_data(source.root).value == {"a": [{"b": "1"}], "c": "3"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "f.yaml:1:1: the file is empty"),
        ("# nothing\n", "f.yaml:1:1: the file is empty"),
        ("---\n#", "f.yaml:1:1: the file is empty"),
        ("a:\n\tb: 1\n", "f.yaml:2:1: a tab cannot indent; use spaces"),
        ("a: @b\n", "f.yaml:1:4: a value cannot begin with `@`; put the value in quotes"),
        ("a: b: c\n", "f.yaml:1:5: a `:` is not expected here; check the indentation, or put the value in quotes"),
        ("a: [b,\n  c\n", "f.yaml:1:4: this list is not closed; a `,` or a `]` is missing"),
        ('a: "b\n', "f.yaml:1:4: the quotes are never closed; add the closing quote"),
        ("a: 1\n b: 2\n", "f.yaml:2:3: a `:` is not expected here; check the indentation, or put the value in quotes"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1: a second document begins here; keep one document in a file"),
        ("a: !!int 1\n", "f.yaml:1:4: tags such as !name are not used here; remove it"),
        ("a: !x {}\n", "f.yaml:1:4: tags such as !name are not used here; remove it"),
        ("? [a]\n: 1\n", "f.yaml:1:3: a key must be plain text"),
        ("{a: 1}: 1\n", "f.yaml:1:1: a key must be plain text"),
        ("{'': 1}\n", "f.yaml:1:2: a key is missing before the `:`"),
        ("a: &x 1\n*x : 2\n", "f.yaml:2:1: a key must be plain text"),
        ("&x a: 1\n", "f.yaml:1:1: a key cannot have an anchor; put it before the value"),
        ("a: *b\n", "f.yaml:1:4: there is no anchor &b before this; write &b at the original"),
        ("a: &a [*a]\n", "f.yaml:1:8: there is no anchor &a before this; write &a at the original"),
        ("a: &a {b: *a}\n", "f.yaml:1:11: there is no anchor &a before this; write &a at the original"),
        ("<<: text\n", "f.yaml:1:1: `<<` needs a mapping; write <<: *anchor"),
        ("a: b\x07\n", 'f.yaml:1:5: the character U+0007 is not allowed here; write it as "\\u0007" in double quotes'),
        ("a: \u2028\n", 'f.yaml:1:4: the character U+2028 is not allowed here; write it as "\\u2028" in double quotes'),
        ("\n\na: \ud800\n", 'f.yaml:3:4: the character U+D800 is not allowed here'),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, line: str) -> None:
    assert refusal(text) == [line]


def test_a_byte_order_mark_is_passed_over() -> None:
    assert data("\ufeffa: 1") == {"a": "1"}


def test_billion_laughs_are_refused_quickly() -> None:
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 30)]
    assert "too large with all its aliases" in refusal("\n".join(["l0: &l0 ha", *levels]))[0]


def test_a_long_text_named_often_is_refused() -> None:
    many = "\n".join(f"k{n}: *x" for n in range(2000))
    assert "too large with all its aliases" in refusal(f"x: &x {'y' * 100_000}\n{many}\n")[0]


def test_merged_keys_count_too() -> None:
    wide = ", ".join(f"k{n}: {n}" for n in range(1000))
    many = "\n".join(f"m{n}: {{<<: *x}}" for n in range(2000))
    assert "too large with all its aliases" in refusal(f"x: &x {{{wide}}}\n{many}\n")[0]


@pytest.mark.parametrize("text", ["[" * 100_000, "a: " + "{a: " * 100_000, "- " * 100_000])
def test_deep_nesting_is_refused_quickly(text: str) -> None:
    assert f"nested more than {yamlsource.MAX_DEPTH} deep" in refusal(text)[0]


def test_a_text_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamlsource, "MAX_TEXT_CHARACTERS", 10)
    assert "longer than" in refusal("a: 12345678")[0]


def test_bytes_that_are_not_utf8_are_found() -> None:
    assert decode_text("a: é\n".encode(), "f") == "a: é\n"
    with pytest.raises(ManifestInvalid) as caught:
        decode_text("é: 1\nb: x".encode() + b"\xff", "f.yaml")
    assert caught.value.details == ("f.yaml:2:5: the byte 0xFF is not UTF-8; save the file as UTF-8",)
