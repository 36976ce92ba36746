"""Copies of files and trees, both ways, with a real shell and tar on the other side."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forkbed.base.errors import Kind
from tests.unit.api.fake import FakeController
from tests.unit.cli.conftest import Cli, ProcessCli

REMOTE = "boss-ops/boss:"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "inner" / "empty").mkdir(parents=True)
    (top / "run.sh").write_bytes(b"#!/bin/sh\n")
    (top / "run.sh").chmod(0o750)
    (top / "inner" / "large").write_bytes(os.urandom(3_000_000))
    (top / "inner" / ("n" * 150)).write_bytes(b"long name")
    (top / "inner" / "odd \n name").write_bytes(b"odd")
    (top / "link").symlink_to("inner/large")
    os.link(top / "run.sh", top / "twin.sh")
    (top / "inner" / "empty").chmod(0o500)
    return top


def _picture(top: Path) -> dict[str, tuple[int, bytes]]:
    found = {}
    for path in [top, *top.rglob("*")]:
        if path.is_symlink():
            content = os.readlink(path).encode()
        else:
            content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(top))] = (path.lstat().st_mode, content)
    return found


def test_a_tree_goes_in_and_comes_back(cli: Cli, tree: Path, guest_directory: Path, tmp_path: Path) -> None:
    assert cli("copy", str(tree), f"{REMOTE}there").status == 0
    assert _picture(guest_directory / "there") == _picture(tree)
    assert cli("copy", f"{REMOTE}there", str(tmp_path / "back")).status == 0
    assert _picture(tmp_path / "back") == _picture(tree)


def test_a_target_that_is_a_directory_takes_the_source_in(
    cli: Cli, tree: Path, guest_directory: Path, tmp_path: Path
) -> None:
    (guest_directory / "in").mkdir()
    assert cli("copy", str(tree / "run.sh"), f"{REMOTE}in").status == 0
    assert (guest_directory / "in" / "run.sh").stat().st_mode & 0o777 == 0o750
    assert cli("copy", f"{REMOTE}in/run.sh", f"{tmp_path}/").status == 0
    assert (tmp_path / "run.sh").read_bytes() == b"#!/bin/sh\n"


def test_a_file_takes_the_targets_name_and_replaces_it(
    cli: Cli, tree: Path, guest_directory: Path, tmp_path: Path
) -> None:
    (guest_directory / "old").write_text("old")
    assert cli("copy", str(tree / "run.sh"), f"{REMOTE}old").status == 0
    assert (guest_directory / "old").read_bytes() == b"#!/bin/sh\n"
    (tmp_path / "mine").write_text("mine")
    assert cli("copy", f"{REMOTE}old", str(tmp_path / "mine")).status == 0
    assert (tmp_path / "mine").read_bytes() == b"#!/bin/sh\n"


def test_names_of_any_kind(cli: Cli, guest_directory: Path, tmp_path: Path) -> None:
    for name in ("-dash", "with space", "$HOME", "quo'te", "a:b"):
        (tmp_path / name).write_text(name)
        assert cli("copy", str(tmp_path / name), f"{REMOTE}{name}").status == 0
        assert (guest_directory / name).read_text() == name
        back = tmp_path / "back"
        assert cli("copy", f"{REMOTE}{name}", str(back)).status == 0
        assert back.read_text() == name


def test_between_two_machines(cli: Cli, tree: Path, guest_directory: Path) -> None:
    cli("copy", str(tree), f"{REMOTE}one")
    answer = cli("copy", f"{REMOTE}one", f"{REMOTE}two")
    assert answer.status == 0, answer.err
    assert _picture(guest_directory / "two") == _picture(tree)


def test_standard_input_and_output(process_cli: ProcessCli, guest_directory: Path) -> None:
    data = os.urandom(2_000_000)
    assert process_cli("copy", "-", f"{REMOTE}file", stdin=data).returncode == 0
    assert (guest_directory / "file").read_bytes() == data
    assert process_cli("copy", f"{REMOTE}file", "-").stdout == data


def test_the_way_in_is_told(cli: Cli, controller: FakeController, tree: Path) -> None:
    controller.machine_notice = "slow"
    assert "boss-ops/boss over agent: slow" in cli("copy", str(tree / "run.sh"), f"{REMOTE}x").err


def test_what_is_neither_file_nor_directory_is_left_out(
    cli: Cli, tmp_path: Path, guest_directory: Path
) -> None:
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d" / "pipe")
    (tmp_path / "d" / "file").touch()
    answer = cli("copy", str(tmp_path / "d"), f"{REMOTE}d")
    assert answer.status == 0
    assert "left out" in answer.err
    assert os.listdir(guest_directory / "d") == ["file"]
    os.mkfifo(guest_directory / "d" / "pipe")
    answer = cli("copy", f"{REMOTE}d", str(tmp_path / "back"))
    assert "left out" in answer.err
    assert os.listdir(tmp_path / "back") == ["file"]


@pytest.mark.parametrize(
    ("source", "target", "kind", "words"),
    [
        (f"{REMOTE}none", "back", Kind.NOT_FOUND, "'none'"),
        (f"{REMOTE}none", "-", Kind.NOT_FOUND, "'none'"),
        (f"{REMOTE}none", f"{REMOTE}back", Kind.NOT_FOUND, "'none'"),
        (f"{REMOTE}there", f"{REMOTE}no/such/place", Kind.NOT_FOUND, "'no/such'"),
        ("file", f"{REMOTE}no/such/place", Kind.NOT_FOUND, "'no/such'"),
        ("file", f"{REMOTE}place/", Kind.NOT_FOUND, "there is no directory place/"),
        ("-", f"{REMOTE}no/such/place", Kind.NOT_FOUND, "'no/such'"),
        ("file", f"{REMOTE}there/in", Kind.NOT_FOUND, "there"),
        ("-", f"{REMOTE}folder", Kind.FAULT, "directory"),
        (f"{REMOTE}there", "no/such/place", Kind.NOT_FOUND, "mkdir -p no/such"),
        (f"{REMOTE}there", "none/", Kind.NOT_FOUND, "mkdir none"),
        (f"{REMOTE}there", "directory", Kind.CONFLICT, "in the way"),
    ],
)
def test_what_cannot_be_copied(
    process_cli: ProcessCli,
    guest_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    target: str,
    kind: Kind,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "directory" / "there").mkdir(parents=True)
    (guest_directory / "there").touch()
    (guest_directory / "folder").mkdir()
    done = process_cli("copy", source, target)
    assert done.returncode == kind.exit_status
    assert words in done.stderr.decode()
