"""The summary of what differs between systems: one line a volume, nothing unknown passed over."""

from __future__ import annotations

from forkbed.core.diffs.records import (
    Counts,
    DiskDifference,
    FileSystemDifference,
    MachineDifference,
    PackageChange,
    Reading,
    ServiceChange,
    SideCounts,
    TextDifference,
    VolumeDifference,
)
from forkbed.core.diffs.systems import SystemDifference, VolumeTexts, summary, total, within
from forkbed.core.diffs.threeway import Standing

_NONE = SideCounts()
PACKAGE = PackageChange("nginx", Standing.RIGHT, "1", "1", "2")
SERVICE = ServiceChange("nginx.service", Standing.RIGHT, "enabled", "enabled", "masked")


def part(
    *, left: SideCounts = _NONE, right: SideCounts = _NONE, conflicts: int = 0, **more: object
) -> FileSystemDifference:
    reading = more.pop("reading", Reading.COMPARED)
    return FileSystemDifference("partition 1", "ext4", "", reading, Counts(left, right, conflicts), **more)  # type: ignore[arg-type]


def lines(disk: DiskDifference, base: str = "") -> tuple[str, ...]:
    machine = MachineDifference("boss", (VolumeDifference("root", disk),))
    return summary(SystemDifference("boss-ops", "try", base, machines=(machine,)))


def test_what_is_the_same_is_not_told() -> None:
    assert lines(DiskDifference((part(), part(reading=Reading.SAME)))) == ()


def test_two_systems() -> None:
    disk = DiskDifference(
        (
            part(right=SideCounts(3, 0, 1), packages=(PACKAGE, PACKAGE), services=(SERVICE,)),
            part(right=SideCounts(1, 2, 0)),
        )
    )
    assert total(disk) == Counts(right=SideCounts(4, 2, 1))
    assert lines(disk) == ("boss/root: 4 added, 2 removed, 1 changed; 2 packages, 1 service",)


def test_two_systems_against_what_both_come_from() -> None:
    disk = DiskDifference((part(left=SideCounts(changed=1), right=SideCounts(added=2), conflicts=1),))
    assert lines(disk, "a cut") == ("boss/root: boss-ops 1 changed; try 2 added; 1 conflict",)


def test_what_could_not_be_read_is_told() -> None:
    disk = DiskDifference(
        (part(reading=Reading.UNREADABLE), part(reading=Reading.PARTLY)), problems=("a layer is missing",)
    )
    assert lines(disk) == (
        "boss/root: a layer is missing; partition 1 (ext4) could not be read; "
        "partition 1 (ext4) could be read in part only",
    )


def test_texts_that_are_too_many_are_left_out_and_counted() -> None:
    def volume(name: str, *texts: str) -> VolumeTexts:
        return VolumeTexts("boss", name, tuple(TextDifference(t, "disk", (), ("+" * 8,)) for t in texts))

    root, data = volume("root", "/a", "/b"), volume("data", "/c")
    assert within((root, data), 24) == ((root, data), 0)
    assert within((root, data), 20) == ((root,), 1)
    assert within((root, data), 8) == ((volume("root", "/a"),), 2)
    assert within((), 0) == ((), 0)
