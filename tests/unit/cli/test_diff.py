"""The command `diff`: what it asks for, and the comparison as people read it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from forkbed.cli.diff_view import Part, print_difference
from forkbed.cli.invocation import begin
from forkbed.core.diffs.entries import Entry, EntryKind, Facet
from forkbed.core.diffs.records import (
    Counts,
    DiskDifference,
    FileSystemDifference,
    MachineDifference,
    PackageChange,
    Reading,
    SideCounts,
    TextDifference,
    VolumeDifference,
)
from forkbed.core.diffs.systems import SystemDifference, VolumeTexts
from forkbed.core.diffs.threeway import FileChange, Standing
from forkbed.core.systems.change_view import ChangeKind, ChangeView, FieldChange
from forkbed.engine.promoting import DiffOptions
from tests.unit.api.fake import FakeController
from tests.unit.api.fake_promoting import changed
from tests.unit.cli.conftest import Cli

FILE = Entry(EntryKind.FILE, 0o644, 0, 0, 120, 1)
OTHER = replace(FILE, content=2)
LINK = Entry(EntryKind.LINK, 0o777, 0, 0, target="old")


@pytest.fixture
def fork(controller: FakeController) -> str:
    controller.make_fork("try", controller.systems()[0])
    controller.calls.clear()
    return "try"


def volume(*systems: FileSystemDifference, problems: tuple[str, ...] = ()) -> tuple[MachineDifference, ...]:
    disk = DiskDifference(systems, problems=problems)
    return (MachineDifference("boss", (VolumeDifference("root", disk),)),)


def part(*files: FileChange, **more: object) -> FileSystemDifference:
    return FileSystemDifference("partition 1", "ext4", "", Reading.COMPARED, files=files, **more)  # type: ignore[arg-type]


def printed(capsys: pytest.CaptureFixture[str], difference: SystemDifference, *parts: Part) -> list[str]:
    begin(["diff"])
    capsys.readouterr()
    print_difference(difference, frozenset(parts))
    return capsys.readouterr().out.splitlines()


def files(
    capsys: pytest.CaptureFixture[str], *changes: FileChange, base: str = "", **more: object
) -> list[str]:
    """The lines of these changes, below the heading of their file system."""
    difference = SystemDifference("boss-ops", "try", base, machines=volume(part(*changes, **more)))
    head, *lines = printed(capsys, difference, Part.FILES, Part.PACKAGES, Part.SERVICES)
    assert head == "boss/root  partition 1, ext4"
    return lines


def test_what_is_asked_arrives(cli: Cli, controller: FakeController, fork: str) -> None:
    for words, options in (
        ((), DiffOptions()),
        (("--base",), DiffOptions(base=True)),
        (("/srv", "/etc/hosts", "--files"), DiffOptions(paths=("/srv", "/etc/hosts"))),
        (("--config",), DiffOptions(paths=("/etc",), texts=True)),
        (("--config", "/srv/app.ini"), DiffOptions(paths=("/srv/app.ini",), texts=True)),
        (("--all", "--stat"), DiffOptions(everything=True)),
        (("--packages",), DiffOptions()),
    ):
        assert cli("diff", "boss-ops", fork, *words).status == 0
        assert controller.calls == [("diff", ("boss-ops", fork, options))], words
        controller.calls.clear()
    assert cli("diff", "boss-ops@before-upgrade", "boss-ops").status == 0
    assert controller.calls == [("diff", ("boss-ops@before-upgrade", "boss-ops", DiffOptions()))]


def test_failures_have_the_status_of_their_kind(cli: Cli, fork: str) -> None:
    for words, status in (
        (("boss-ops",), 2),
        (("boss-ops", "none"), 3),
        (("none", "boss-ops"), 3),
        (("boss-ops", fork, "etc/hosts"), 2),
        (("boss-ops", "No Name"), 2),
        (("boss-ops", "@before-upgrade"), 2),
    ):
        answer = cli("diff", *words)
        assert (answer.status, answer.out) == (status, ""), words


def test_two_systems(cli: Cli, fork: str) -> None:
    answer = cli("diff", "boss-ops", fork)
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.splitlines() == [
        "declared: boss-ops -> try",
        "~ machine boss",
        "    ~ memory: 256 MiB -> 512 MiB",
        "boss/root  partition 1, ext4",
        "  M package nginx  1.22 -> 1.24",
        "  - package vim  9",
        "  M service nginx.service  enabled -> masked",
        "  M /etc/app.conf  content 120 B -> 140 B, owner 0:0 -> 33:33, mode 0644 -> 0600",
        r"  + /opt/new\x1b  2 KiB, 0755, 0:0",
        "  - /srv/old  removed",
        "  37 that always differ are left out; --all shows them",
        "ops/data  whole disk, zfs",
        "  ! no reader for zfs",
    ]


def test_only_what_is_asked_for_is_shown(cli: Cli, fork: str) -> None:
    packages = cli("diff", "boss-ops", fork, "--packages").out
    assert "package nginx" in packages
    assert "app.conf" not in packages and "service" not in packages
    assert "! no reader for zfs" in packages  # what is not known is said, whatever was asked for
    config = cli("diff", "boss-ops", fork, "--config").out
    assert "service nginx.service" in config and "memory: 256 MiB" in config and "package" not in config
    assert config.endswith(
        "--- boss-ops  boss/root  /etc/app.conf\n+++ try  boss/root  /etc/app.conf\n@@ -1 +1 @@\n"
        "-layout = 1\n+layout = 2\n"
    )


def test_numbers_are_a_table(cli: Cli, fork: str) -> None:
    lines = cli("diff", "boss-ops", fork, "--stat").out.splitlines()
    assert [line.split() for line in lines[:4]] == [
        [
            "VOLUME",
            "FILE",
            "SYSTEM",
            "ADDED",
            "REMOVED",
            "CHANGED",
            "CONFLICTS",
            "PACKAGES",
            "SERVICES",
            "READ",
        ],
        ["boss/root", "partition", "1,", "ext4", "1", "1", "1", "0", "2", "1", "yes"],
        ["ops/root", "partition", "1,", "ext4", "0", "0", "0", "0", "0", "0", "the", "same"],
        ["ops/data", "whole", "disk,", "zfs", "0", "0", "0", "0", "0", "0", "no"],
    ]


def test_json_is_the_comparison(cli: Cli, controller: FakeController, fork: str) -> None:
    answer = cli("diff", "boss-ops", fork, "--json", "--files")
    assert answer.err == ""
    found = json.loads(answer.out)
    assert found["machines"][0]["volumes"][0]["disk"]["file_systems"][0]["packages"][0]["name"] == "nginx"
    controller.auto_succeed = False
    assert cli("diff", "boss-ops", fork, "--no-wait").out == "op2\n"


def test_systems_that_are_the_same_are_said_to_be(cli: Cli, controller: FakeController, fork: str) -> None:
    same = FileSystemDifference("partition 1", "ext4", "", Reading.SAME)
    controller.difference = SystemDifference("", "", machines=volume(same))
    answer = cli("diff", "boss-ops", fork)
    assert (answer.out, answer.err) == ("", "boss-ops and try are the same\n")
    assert cli("diff", "boss-ops", fork, "--files").err == "boss-ops and try: nothing of that differs\n"


def test_every_way_a_path_can_change_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    device = Entry(EntryKind.CHARACTER_DEVICE, 0o600, 0, 0, device="1:3")
    directory = Entry(EntryKind.DIRECTORY, 0o755, 0, 0)
    marked = replace(FILE, xattrs=(("security.capability", "x"), ("user.a", "1")))
    assert files(
        capsys,
        changed("/content", FILE, FILE, OTHER, Facet.CONTENT),
        changed("/attributes", marked, marked, replace(marked, xattrs=(("user.a", "1"),)), Facet.XATTRS),
        changed("/target", LINK, LINK, replace(LINK, target="new"), Facet.TARGET),
        changed("/device", device, device, replace(device, device="1:5"), Facet.DEVICE),
        changed("/kind", FILE, FILE, directory, Facet.KIND),
        changed("/a-link", None, None, LINK),
        changed("/a-directory", None, None, directory),
        changed("/a-device", None, None, device),
        unlisted=12,
    ) == [
        "  M /content  content",
        "  M /attributes  attributes security.capability",
        "  M /target  leads to old -> new",
        "  M /device  device 1:3 -> 1:5",
        "  M /kind  file -> directory",
        "  + /a-link  link to old",
        "  + /a-directory  directory, 0755, 0:0",
        "  + /a-device  character-device 1:3, 0600, 0:0",
        "  … and 12 more, not listed; ask for a PATH",
    ]


def test_conflicts_stand_out_against_a_base(capsys: pytest.CaptureFixture[str]) -> None:
    wide = replace(FILE, mode=0o666)
    conflict = PackageChange("db", Standing.CONFLICT, "1", "2", "3")
    new = PackageChange("new", Standing.LEFT, "", "1", "")
    assert files(
        capsys,
        changed("/left", FILE, OTHER, FILE, Facet.CONTENT),
        changed("/right", None, None, FILE),
        changed("/alike", FILE, OTHER, OTHER, Facet.CONTENT),
        changed("/clash", FILE, wide, None, Facet.MODE),
        replace(changed("/in-a-removed-place", None, FILE, None), standing=Standing.CONFLICT),
        base="the cut of 14:02:11",
        packages=(conflict, new),
    ) == [
        "  !MM package db  boss-ops: 1 -> 2; try: 1 -> 3",
        "   +  package new  1",
        "   M  /left  content",
        "    + /right  120 B, 0644, 0:0",
        "   MM /alike  content",
        "  !M- /clash  boss-ops: mode 0644 -> 0666; try: removed",
        "  !+  /in-a-removed-place  boss-ops: 120 B, 0644, 0:0",
    ]


def test_both_sides_are_counted_and_told_against_a_base(capsys: pytest.CaptureFixture[str]) -> None:
    one = part(counts=Counts(SideCounts(1, 0, 2), SideCounts(0, 3, 0), 1))
    memory = FieldChange("memory", "1 GiB", "2 GiB")
    kept = ChangeView(ChangeKind.KEEP, "network control")
    difference = SystemDifference(
        "boss-ops",
        "try",
        "the cut of 14:02:11",
        declared=(ChangeView(ChangeKind.CHANGE, "machine boss", (memory,)), kept),
        machines=volume(one),
        texts=(VolumeTexts("boss", "root", (TextDifference("/a", "partition 1", ("-x",), ("+y\x1b",)),)),),
    )
    assert printed(capsys, difference, Part.DECLARED) == [
        "declared: boss-ops -> try", "~ machine boss", "    ~ memory: 1 GiB -> 2 GiB",
    ]  # fmt: skip
    assert [line.split() for line in printed(capsys, difference, Part.STAT)[1:]] == [
        ["boss/root", "partition", "1,", "ext4", "boss-ops", "1", "0", "2", "1", "0", "0", "yes"],
        ["try", "0", "3", "0"],
    ]
    assert printed(capsys, difference, Part.TEXTS) == [
        "--- base  boss/root  /a",
        "+++ boss-ops  boss/root  /a",
        "-x",
        "--- base  boss/root  /a",
        "+++ try  boss/root  /a",
        r"+y\x1b",
    ]


def test_what_could_not_be_compared_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    unread = FileSystemDifference("partition 2", "unknown", "data\x1b", Reading.UNREADABLE)
    difference = SystemDifference(
        "a", "b", machines=volume(unread, problems=("a layer\x1b is damaged",)), problems=("b has no ops",)
    )
    assert printed(capsys, difference, Part.FILES) == [
        r"boss/root  partition 2, unknown data\x1b",
        "  ! it could not be read",
        "! b has no ops",
        r"! boss/root: a layer\x1b is damaged",
    ]
