"""What people read of a diff."""

from __future__ import annotations

from forkbed.core.diffs.entries import Entry, EntryKind
from forkbed.core.diffs.records import (
    DiskDifference,
    FileSystemDifference,
    MachineDifference,
    PackageChange,
    Reading,
    ServiceChange,
    VolumeDifference,
    count,
)
from forkbed.core.diffs.threeway import FileChange, Standing, classify
from forkbed.core.diffs.wording import Names, Tone, everything, summary

OLD = Entry(EntryKind.FILE, 0o644, 0, 0, 7)
NEW = Entry(EntryKind.FILE, 0o600, 5, 0, 9, content=2, xattrs=(("user.a", "x"),))
DIRECTORY = Entry(EntryKind.DIRECTORY, 0o755, 0, 0)


def machines(one: FileSystemDifference, problems: tuple[str, ...] = ()) -> list[MachineDifference]:
    return [MachineDifference("boss", (VolumeDifference("root", DiskDifference((one,), 0, problems)),))]


def changes(*found: FileChange | None) -> tuple[FileChange, ...]:
    return tuple(change for change in found if change is not None)


def test_three_versions() -> None:
    files = changes(
        classify("/etc/hosts", OLD, NEW, None),
        classify("/srv/new", None, DIRECTORY, DIRECTORY),
        classify("/srv/left", None, OLD, None),
    )
    one = FileSystemDifference(
        "partition 1",
        "ext4",
        "",
        Reading.PARTLY,
        count(files),
        files,
        hidden=3,
        packages=(
            PackageChange("nginx", Standing.CONFLICT, "1", "", "2"),
            PackageChange("vim", Standing.RIGHT, "", "", "9"),
        ),
        services=(ServiceChange("nginx.service", Standing.BOTH, "", "enabled", "enabled"),),
        problems=("/x: damaged",),
    )
    lines = [line.text for line in everything(machines(one), Names("live", "fork"))]
    assert lines == [
        "boss/root, partition 1 (ext4): live: 2 added, 1 changed; fork: 1 added, 1 removed; 1 in conflict; "
        "2 packages; 1 service; 3 in logs, caches and run-time files not shown; not all could be compared",
        "  ! /x: damaged",
        "  ! package nginx: 1 → –  (live); 1 → 2  (fork)",
        "    package vim: – → 9  (fork)",
        "    service nginx.service: – → enabled  (both)",
        "  ! ~ /etc/hosts  content (7 → 9 bytes), owner 0:0 → 5:0, mode 0644 → 0600, attributes user.a  (live)",
        "  ! - /etc/hosts  (fork)",
        "  + /srv/new/  (both)",
        "  + /srv/left  (live)",
    ]


def test_two_versions_name_no_side() -> None:
    files = changes(classify("/etc/hosts", OLD, OLD, NEW))
    one = FileSystemDifference("whole disk", "ext4", "", Reading.COMPARED, count(files), files)
    head, line = everything(machines(one), Names("", "fork"))
    assert head.text == "boss/root, whole disk (ext4): fork: 1 changed"
    assert line.text.startswith("  ~ /etc/hosts  content")
    assert line.tone is Tone.CHANGED
    assert [line.text for line in summary(machines(one), Names("", "fork"))] == [head.text]


def test_what_could_not_be_compared_is_never_left_out() -> None:
    same = FileSystemDifference("partition 1", "ext4", "", Reading.SAME)
    assert list(everything(machines(same), Names("", "fork"))) == []
    unreadable = FileSystemDifference("partition 2", "zfs", "", Reading.UNREADABLE, problems=("no reader",))
    lines = list(summary(machines(unreadable, ("its partition table is damaged",)), Names("", "fork")))
    assert [line.text for line in lines] == [
        "boss/root: its partition table is damaged",
        "boss/root, partition 2 (zfs): could not be compared",
        "  ! no reader",
    ]
