"""References to images, and the files that remember where names point."""

from __future__ import annotations

from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import ImageId
from forkbed.core.images.reference import IdPrefix, ImageName, find, parse_name, parse_reference
from forkbed.drivers.images.names import NameFiles

ONE, TWO = ImageId("a1" * 32), ImageId("a1" * 31 + "b2")
NAMES = {ImageName("boss"): ONE, ImageName("boss", "dev"): TWO, ImageName("ops"): TWO}


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("boss", ImageName("boss", "latest")),
        ("boss:production", ImageName("boss", "production")),
        ("debian-12:2026.11_a-b", ImageName("debian-12", "2026.11_a-b")),
        ("a1a1a1a1", IdPrefix("a1a1a1a1")),
        ("deadbee", ImageName("deadbee")),  # seven digits are a name
        ("0123456789ab", IdPrefix("0123456789ab")),
    ],
)
def test_what_a_reference_means(text: str, reference: object) -> None:
    assert parse_reference(text) == reference


@pytest.mark.parametrize(
    "text", ["", "Boss", "boss:", "boss:Dev", "boss:a:b", "-x", "x y", "9lives", "boss:.x"]
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(OperationalError) as caught:
        parse_reference(text)
    assert caught.value.kind is Kind.INVALID
    assert caught.value.remedy


def test_a_name_must_not_look_like_an_id() -> None:
    with pytest.raises(OperationalError, match="cannot be the name"):
        parse_name("deadbeef")


def test_finding_by_name_channel_and_id() -> None:
    assert find("boss", NAMES, [ONE, TWO]) == ONE
    assert find("boss:dev", NAMES, [ONE, TWO]) == TWO
    assert find(TWO, NAMES, [ONE, TWO]) == TWO


@pytest.mark.parametrize(
    ("text", "kind", "remedy"),
    [
        ("bos", Kind.NOT_FOUND, "did you mean `boss`?"),
        ("boss:dve", Kind.NOT_FOUND, "did you mean `boss:dev`?"),
        ("a1a1a1a1", Kind.CONFLICT, "write more digits"),
        ("ffffffff", Kind.NOT_FOUND, "build it"),
    ],
)
def test_what_is_not_found_says_what_may_be_meant(text: str, kind: Kind, remedy: str) -> None:
    with pytest.raises(OperationalError) as caught:
        find(text, NAMES, [ONE, TWO])
    assert caught.value.kind is kind
    assert remedy in caught.value.remedy


def test_moves_are_kept_and_survive_a_new_start(tmp_path: Path) -> None:
    names = NameFiles(tmp_path)
    assert names.move(ImageName("boss"), ONE, "ada", 1.0).before == ""
    assert names.move(ImageName("boss"), TWO, "bob", 2.0).before == ONE
    names.move(ImageName("boss"), TWO, "bob", 3.0)  # it points there already: no move
    names.move(ImageName("boss", "old"), ONE, "ada", 4.0)
    again = NameFiles(tmp_path)
    assert again.current() == {ImageName("boss"): TWO, ImageName("boss", "old"): ONE}
    told = [(move.name, move.account, move.at, move.image_id, move.before) for move in again.history("boss")]
    assert told == [
        ("boss:latest", "ada", 1.0, ONE, ""),
        ("boss:latest", "bob", 2.0, TWO, ONE),
        ("boss:old", "ada", 4.0, ONE, ""),
    ]


def test_a_removed_image_loses_its_names_but_not_their_history(tmp_path: Path) -> None:
    names = NameFiles(tmp_path)
    names.move(ImageName("boss"), ONE, "ada", 1.0)
    names.move(ImageName("boss", "dev"), TWO, "ada", 2.0)
    names.forget(ONE)
    assert names.current() == {ImageName("boss", "dev"): TWO}
    assert len(names.history("boss")) == 2
