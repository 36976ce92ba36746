"""A hostile stream lands nowhere but in the target."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.cli.untar import Extraction


def _unpack(directory: Path, *members: tuple[str, bytes, str], mode: int = 0o644) -> list[str]:
    told: list[str] = []
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.mode = mode
            if kind == tarfile.REGTYPE:
                member.size = len(content)
            else:
                member.linkname = content
            tar.addfile(member, io.BytesIO(content.encode()))
    stream.seek(0)
    extraction = Extraction(directory, "", told.append)
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            extraction.take(tar, member)
    extraction.finish()
    return told


FILE, DIRECTORY, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("mine")
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


@pytest.mark.parametrize(
    "members",
    [
        [("../outside/file", FILE, "evil")],
        [("/etc/evil", FILE, "evil")],
        [("d", DIRECTORY, ""), ("d/../../outside/file", FILE, "evil")],
        [("d", LINK, "../outside"), ("d/file", FILE, "evil")],
        [("d/file", FILE, "evil")],
        [("d", DIRECTORY, ""), ("d/x", LINK, "../../outside"), ("d/x/file", FILE, "evil")],
        [("h", HARD, "../outside/file")],
        [("h", HARD, "never-sent")],
        [("", FILE, "evil")],
        [(".", DIRECTORY, "")],
    ],
)
def test_names_that_lead_out_are_refused(target: Path, members: list[tuple[str, bytes, str]]) -> None:
    with pytest.raises(OperationalError) as caught:
        _unpack(target, *members)
    assert caught.value.kind is Kind.UNSAFE
    assert (target.parent / "outside" / "file").read_text() == "mine"
    assert os.listdir(target.parent / "outside") == ["file"]


def test_nothing_is_written_through_a_link_that_was_there(target: Path) -> None:
    (target / "file").symlink_to("../outside/file")
    _unpack(target, ("file", FILE, "new"))
    assert (target / "file").read_text() == "new"
    assert not (target / "file").is_symlink()
    assert (target.parent / "outside" / "file").read_text() == "mine"


def test_a_link_in_place_of_a_directory_is_not_entered(target: Path) -> None:
    (target / "d").symlink_to("../outside")
    with pytest.raises(OperationalError, match="in the way"):
        _unpack(target, ("d", DIRECTORY, ""), ("d/file", FILE, "evil"))
    assert (target.parent / "outside" / "file").read_text() == "mine"


def test_set_uid_is_not_taken_over(target: Path) -> None:
    _unpack(target, ("file", FILE, "x"), mode=0o6755)
    assert stat.S_IMODE((target / "file").stat().st_mode) == 0o755


def test_devices_are_left_out(target: Path) -> None:
    assert _unpack(target, ("null", tarfile.CHRTYPE, ""), ("file", FILE, "x")) == [
        "left out, neither file nor directory: null"
    ]
    assert os.listdir(target) == ["file"]


def test_an_empty_stream_is_a_failure(target: Path) -> None:
    with pytest.raises(OperationalError, match="nothing came"):
        _unpack(target)
