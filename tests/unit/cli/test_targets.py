from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkbed.base.errors import Kind, OperationalError
from forkbed.cli.targets import (
    GuestPath,
    MachineName,
    guest_path,
    machine_name,
    system_or_machine,
    system_or_snapshot,
)


def test_names() -> None:
    assert machine_name("boss-ops/boss") == MachineName("boss-ops", "boss")
    assert system_or_machine("boss-ops") == ("boss-ops", ())
    assert system_or_machine("boss-ops/boss") == ("boss-ops", ("boss",))
    assert machine_name("boss-ops@2/boss") == MachineName("boss-ops@2", "boss")  # a kept generation
    assert system_or_snapshot("boss-ops@2") == "boss-ops@2"
    assert system_or_snapshot("boss-ops@before upgrade") == "boss-ops@before upgrade"


@pytest.mark.parametrize(
    "text",
    ["", "/", "a/", "/b", "a/b/c", "A/b", "a b/c", "a/b:c", "a@/b", "a@b/c", "@1/b", "a@1@2/b", "a@²/b"],
)
def test_what_is_no_machine(text: str) -> None:
    with pytest.raises(OperationalError) as caught:
        machine_name(text)
    assert caught.value.kind is Kind.INVALID


@pytest.mark.parametrize(
    ("text", "path"),
    [("s/m:/etc/x", "/etc/x"), ("s/m:x", "x"), ("s/m:", "."), ("s/m:a:b", "a:b"), ("s/m:/a b", "/a b")],
)
def test_paths_in_machines(text: str, path: str) -> None:
    assert guest_path(text) == GuestPath(MachineName("s", "m"), path)


@pytest.mark.parametrize("text", ["-", "x", "./s/m:x", "/s/m:x", "s:x", "s/m", "a/b/c:x", "S/m:x", "C:\\x"])
def test_local_paths(text: str) -> None:
    assert guest_path(text) is None


@given(st.text())
def test_any_text_is_a_place_or_an_error(text: str) -> None:
    guest_path(text)
    try:
        system_or_machine(text)
    except OperationalError as error:
        assert error.kind is Kind.INVALID
