"""What `ports.disks` promises, whoever keeps it: promises are functions of a bench that makes versions of a disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from forkbed.core.diffs.entries import Change, Facet, How
from forkbed.core.diffs.records import Counts, DiskDifference, FileSystemDifference, Reading, SideCounts
from forkbed.core.diffs.rules import Selection
from forkbed.core.diffs.threeway import Standing
from forkbed.ports.disks import DiskQuestion, Disks, DiskVersion

BASE = {"etc/hosts": "127.0.0.1 localhost\n", "etc/motd": "hello\n", "var/log/syslog": "booted\n"}
CHANGED = Change(How.CHANGED, (Facet.CONTENT,))


class DisksBench(Protocol):
    @property
    def disks(self) -> Disks: ...

    def version(self, files: Mapping[str, str], below: DiskVersion | None = None) -> DiskVersion:
        """A disk with these files, or a new layer in which they were written over those of `below`."""


def _only(found: DiskDifference) -> FileSystemDifference:
    (one,) = found.file_systems
    return one


def the_same_differs_in_nothing(bench: DisksBench) -> None:
    base = bench.version(BASE)
    unchanged = bench.version({}, base)
    for question in (
        DiskQuestion(base, base),
        DiskQuestion(base, unchanged),
        DiskQuestion(unchanged, bench.version({}, base), base),
    ):
        found = bench.disks.compare(question, "volume boss/root")
        assert found.complete
        assert _only(found).reading is Reading.SAME
        assert not _only(found).differs
        assert not bench.disks.texts(question, "volume boss/root", ["/nowhere"])


def each_side_is_held_against_the_base(bench: DisksBench) -> None:
    base = bench.version(BASE)
    left = bench.version({"etc/hosts": "left\n", "srv/left": "new\n", "srv/alike": "same\n"}, base)
    right = bench.version({"etc/hosts": "right\n", "etc/motd": "bye\n", "srv/alike": "same\n"}, base)
    one = _only(bench.disks.compare(DiskQuestion(left, right, base), "volume boss/root"))
    files = {c.path: (c.standing, c.left_change, c.right_change) for c in one.files if c.path != "/srv"}
    assert files == {
        "/etc/hosts": (Standing.CONFLICT, CHANGED, CHANGED),
        "/etc/motd": (Standing.RIGHT, None, CHANGED),
        "/srv/alike": (Standing.BOTH, Change(How.ADDED), Change(How.ADDED)),
        "/srv/left": (Standing.LEFT, Change(How.ADDED), None),
    }
    assert one.counts.conflicts == 1


def of_two_versions_the_left_is_the_base(bench: DisksBench) -> None:
    base = bench.version(BASE)
    middle = bench.version({"etc/motd": "middle\n"}, base)
    right = bench.version({"etc/hosts": "right\n"}, middle)
    one = _only(bench.disks.compare(DiskQuestion(middle, right), "volume boss/root"))
    assert [(c.path, c.standing, c.right_change) for c in one.files] == [
        ("/etc/hosts", Standing.RIGHT, CHANGED)
    ]
    assert one.counts == Counts(right=SideCounts(changed=1))
    backwards = _only(bench.disks.compare(DiskQuestion(right, base), "volume boss/root"))
    assert [c.path for c in backwards.files] == ["/etc/hosts", "/etc/motd"]


def what_was_written_again_alike_is_no_difference(bench: DisksBench) -> None:
    base = bench.version(BASE)
    right = bench.version({"etc/motd": "other\n"}, base)
    again = bench.version({"etc/motd": BASE["etc/motd"]}, right)
    assert not _only(bench.disks.compare(DiskQuestion(base, again), "volume boss/root")).files


def noise_is_counted_and_shown_when_asked_for(bench: DisksBench) -> None:
    base = bench.version(BASE)
    right = bench.version({"var/log/syslog": "more\n", "etc/motd": "bye\n"}, base)

    def asked(selection: Selection) -> tuple[list[str], int]:
        question = DiskQuestion(base, right, selection=selection)
        one = _only(bench.disks.compare(question, "volume boss/root"))
        return [change.path for change in one.files], one.hidden

    assert asked(Selection()) == (["/etc/motd"], 1)
    assert asked(Selection(noise=())) == (["/etc/motd", "/var/log/syslog"], 0)
    assert asked(Selection(("/var/log/syslog",))) == (["/var/log/syslog"], 0)
    assert asked(Selection(("/etc", "/srv/"))) == (["/etc/motd"], 0)


def texts_are_told_for_each_side(bench: DisksBench) -> None:
    base = bench.version(BASE)
    right = bench.version({"etc/motd": "hello\nyou\n"}, base)
    question = DiskQuestion(base, right, base)
    (text,) = bench.disks.texts(question, "volume boss/root", ["/etc/motd"])
    assert (text.path, text.left, text.right) == ("/etc/motd", (), ("@@ -1 +1,2 @@", " hello", "+you"))


PROMISES: tuple[Callable[[DisksBench], None], ...] = (
    the_same_differs_in_nothing,
    each_side_is_held_against_the_base,
    of_two_versions_the_left_is_the_base,
    what_was_written_again_alike_is_no_difference,
    noise_is_counted_and_shown_when_asked_for,
    texts_are_told_for_each_side,
)
