from __future__ import annotations

from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.cli.invocation import begin


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORKBED_SOCKET", "FORKBED_LAB", "FORKBED_RUNTIME_DIR", "FORKBED_LAB_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_global_options_stand_anywhere_before_the_dashes() -> None:
    invocation = begin(["--json", "exec", "--socket", "/s", "a/b", "--", "ls", "--json", "--lab", "x"])
    assert invocation.tokens == ("exec", "a/b", "--", "ls", "--json", "--lab", "x")
    assert invocation.json
    assert invocation.socket_path == Path("/s")
    assert invocation.typed == "forkbed --json exec --socket /s a/b -- ls --json --lab x"


def test_a_value_may_be_joined() -> None:
    assert begin(["list", "--socket=/a=b"]).socket_path == Path("/a=b")


def test_a_lab_has_a_socket_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORKBED_LAB_DIR", "/labs")
    assert begin(["list", "--lab", "demo"]).socket_path == Path("/labs/demo/run/forkbed/api.sock")
    monkeypatch.setenv("FORKBED_LAB", "other")
    assert begin(["list"]).socket_path == Path("/labs/other/run/forkbed/api.sock")


def test_what_is_typed_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORKBED_SOCKET", "/env")
    assert begin(["list"]).socket_path == Path("/env")
    assert begin(["list", "--socket", "/typed"]).socket_path == Path("/typed")
    assert begin(["list", "--lab", "demo"]).socket == ""


def test_without_any_the_settings_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORKBED_RUNTIME_DIR", "/run/mine")
    assert begin(["list"]).socket_path == Path("/run/mine/api.sock")


@pytest.mark.parametrize("words", [["list", "--socket"], ["list", "--socket", "/a", "--lab", "b"]])
def test_what_makes_no_sense_is_refused(words: list[str]) -> None:
    with pytest.raises(OperationalError) as caught:
        begin(words)
    assert caught.value.kind is Kind.INVALID


def test_commands_with_a_json_option_of_their_own_get_it() -> None:
    assert begin(["--json", "doctor"]).tokens == ("doctor", "--json")
    assert begin(["--json", "lab", "exec", "--", "ls"]).tokens == ("lab", "exec", "--", "ls")
