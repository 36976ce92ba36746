"""What libguestfs 1.48 said of a btrfs file system, recorded, and how it is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from forkbed.core.diffs.entries import EntryKind
from forkbed.core.diffs.limits import Limits
from forkbed.core.diffs.records import FileSystemDifference, Reading
from forkbed.core.diffs.rules import Selection
from forkbed.drivers.filesystems.appliance import Appliance
from forkbed.drivers.filesystems.listing import details_script, parse_details, parse_rows, quoted
from forkbed.drivers.filesystems.problems import Unreadable

LISTED = (
    b"d,0755,58,   0,   0,1795281311,1795281311,1795281311,0:27,256,1,0:0,0,/\n"
    b"d,0755,58,   0,   0,1795281311,1795281311,1795281311,0:27,2253253,1,0:0,0,/odd\n"
    b"-,0644,2,   0,   7,1795281311,1795281312,1795281313,0:27,2253379,1,0:0,8,/odd/caf\xe9\n"
    b'-,0644,2,   0,   0,1795281311,1795281311,1795281311,0:27,2253363,1,0:0,8,"/odd/new\nline"\n'
    b'-,0644,2,   0,   0,1795281311,1795281311,1795281311,0:27,2253346,1,0:0,8,"/odd/quo""te"\n'
    b'-,4755,2,   0,   0,1795281311,1795281311,1795281311,0:27,2253329,1,0:0,8,"/odd/with, comma"\n'
    b"c,0600,0,   0,   0,1795281311,1795281311,1795281311,0:27,2253330,1,1:3,0,/odd/null\n"
    b"l,0777,2,   0,   0,1795281311,1795281311,1795281311,0:27,2236968,1,0:0,8,/odd/link,f1\n"
)
SAID = (
    b"forkbed-path 3\n"
    b"5f5d584c5857d85af911ade1b2ae7cb593c17654282091f3ace31efd9e951360\n"
    b"[0] = {\n  attrname: user.x\n  attrval: y\n}\n"
    b"[1] = {\n  attrname: security.capability\n  attrval: \\x01\\x00\n}\n"
    b"forkbed-path 12\n"
)


def test_rows() -> None:
    rows = parse_rows(LISTED)
    assert set(rows) == {
        b"", b"odd", b"odd/caf\xe9", b"odd/new\nline", b'odd/quo"te', b"odd/with, comma", b"odd/null", b"odd/link"
    }  # fmt: skip
    odd = rows[b"odd/caf\xe9"]
    assert (odd.facts.kind, odd.facts.mode, odd.facts.gid, odd.facts.size_bytes) == (
        EntryKind.FILE,
        0o644,
        7,
        2,
    )
    assert (odd.modified, odd.changed, odd.inode) == ("1795281312", "1795281313", "2253379")
    assert rows[b"odd/with, comma"].facts.mode == 0o4755
    assert (rows[b"odd/link"].facts.target, rows[b"odd/null"].facts.device) == (b"f1", "1:3")


def test_a_listing_that_is_not_understood_is_refused() -> None:
    with pytest.raises(Unreadable, match="not understood"):
        parse_rows(LISTED + b"libguestfs: something new\n")


def test_details() -> None:
    details = parse_details(SAID)
    assert details[3].digest.startswith("5f5d584c")
    assert details[3].xattrs == (("security.capability", b"\x01\x00"), ("user.x", b"y"))
    assert (details[12].digest, details[12].xattrs) == ("", ())


def test_no_name_can_break_out_of_the_script() -> None:
    name = b'a"\n!rm -rf /\\'
    assert quoted(name) == r'"a\x22\x0a\x21rm\x20-rf\x20/\x5c"'
    lines = list(details_script([(1, name, EntryKind.FILE), (2, b"link", EntryKind.LINK)]))
    assert [line.split(" ")[0] for line in lines] == [
        "echo",
        "-checksum",
        "-lgetxattrs",
        "echo",
        "-lgetxattrs",
    ]


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda tool, path: None)
    one = FileSystemDifference("partition 1", "xfs", "", Reading.UNREADABLE)
    found = Appliance(tmp_path, lambda: False).compare(one, (), Selection(), Limits(), "volume test")
    assert found.reading is Reading.UNREADABLE
    assert "apt-get install" in found.problems[0]
