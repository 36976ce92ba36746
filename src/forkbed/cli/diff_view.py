"""What differs between two systems as people read it. What guests wrote is made harmless for the terminal.

Marks: `+` added, `-` removed, `M` changed. Against a common base there are two of them, the left system's and the
right one's, and `!` before them where both changed the same thing, each in its own way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import StrEnum

from forkbed.base.units import format_size
from forkbed.cli.output import printable, styled, table
from forkbed.cli.plan_view import print_change
from forkbed.core.diffs.entries import Change, Entry, EntryKind, Facet, How
from forkbed.core.diffs.records import (
    FileSystemDifference,
    PackageChange,
    Reading,
    ServiceChange,
    SideCounts,
    TextDifference,
)
from forkbed.core.diffs.systems import SystemDifference
from forkbed.core.diffs.threeway import FileChange, Standing
from forkbed.core.systems.change_view import ChangeKind, ChangeView

_MARKS = {How.ADDED: "+", How.REMOVED: "-", How.CHANGED: "M"}
_COLOURS = {"+": "green", "-": "red", "M": "yellow", "!": "red"}
_READ = {
    Reading.SAME: "the same",
    Reading.COMPARED: "yes",
    Reading.PARTLY: "in part",
    Reading.UNREADABLE: "no",
}


class Part(StrEnum):
    """What of a comparison is shown."""

    STAT = "stat"
    DECLARED = "declared"
    PACKAGES = "packages"
    SERVICES = "services"
    FILES = "files"
    TEXTS = "texts"


def print_difference(difference: SystemDifference, parts: frozenset[Part]) -> bool:
    """These parts on standard output; whether there was anything to print."""
    printed = False
    if Part.DECLARED in parts:
        printed |= _print_declared(difference)
    if Part.STAT in parts:
        _print_stat(difference)
        printed = True
    for place, system in _file_systems(difference):
        printed |= _print_file_system(difference, place, system, parts)
    if Part.TEXTS in parts:
        for volume in difference.texts:
            for text in volume.texts:
                _print_text(difference, f"{volume.machine}/{volume.volume}", text)
                printed = True
    for problem in _disk_problems(difference):
        print(styled(f"! {printable(problem)}", "red"))
        printed = True
    return printed


def _file_systems(difference: SystemDifference) -> Iterator[tuple[str, FileSystemDifference]]:
    for machine in difference.machines:
        for volume in machine.volumes:
            for system in volume.disk.file_systems:
                yield f"{machine.machine}/{volume.volume}", system


def _disk_problems(difference: SystemDifference) -> Iterator[str]:
    yield from difference.problems
    for machine in difference.machines:
        for volume in machine.volumes:
            for problem in volume.disk.problems:
                yield f"{machine.machine}/{volume.volume}: {problem}"


def _print_declared(difference: SystemDifference) -> bool:
    changes = [change for change in difference.declared if change.kind is not ChangeKind.KEEP]
    if changes:
        print(styled(f"declared: {difference.left} -> {difference.right}", "bold"))
        for change in changes:
            print_change(_without_needs(change))
    return bool(changes)


def _without_needs(change: ChangeView) -> ChangeView:
    """What applying a change would take says nothing about two systems that are both there."""
    return replace(change, needs="", loses=())


def _print_stat(difference: SystemDifference) -> None:
    side = ("SIDE",) if difference.base else ()
    headings = (
        "VOLUME", "FILE SYSTEM", *side, "ADDED", "REMOVED", "CHANGED", "CONFLICTS", "PACKAGES", "SERVICES", "READ",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for place, system in _file_systems(difference):
        what = f"{printable(system.place)}, {printable(system.kind)}"
        facts = (
            str(system.counts.conflicts), str(len(system.packages)), str(len(system.services)), _READ[system.reading],
        )  # fmt: skip
        if difference.base:
            rows.append((place, what, difference.left, *_numbers(system.counts.left), *facts))
            rows.append(("", "", difference.right, *_numbers(system.counts.right), *("",) * len(facts)))
        else:
            rows.append((place, what, *_numbers(system.counts.right), *facts))
    table(headings, rows, empty="they have no volume in common")


def _numbers(counts: SideCounts) -> tuple[str, str, str]:
    return str(counts.added), str(counts.removed), str(counts.changed)


def _print_file_system(
    difference: SystemDifference, place: str, system: FileSystemDifference, parts: frozenset[Part]
) -> bool:
    lines: list[str] = []
    if Part.PACKAGES in parts:
        lines += [_version_line(difference, "package", change) for change in system.packages]
    if Part.SERVICES in parts:
        lines += [_version_line(difference, "service", change) for change in system.services]
    if Part.FILES in parts:
        lines += [_file_line(difference, change) for change in system.files]
        if system.unlisted:
            lines.append(f"… and {system.unlisted} more, not listed; ask for a PATH")
        if system.hidden:
            lines.append(styled(f"{system.hidden} that always differ are left out; --all shows them", "dim"))
    lines += [styled(f"! {printable(problem)}", "red") for problem in system.problems]
    if system.reading is Reading.UNREADABLE and not system.problems:
        lines.append(styled("! it could not be read", "red"))
    if not lines:
        return False
    label = f" {printable(system.label)}" if system.label else ""
    print(styled(f"{place}  {printable(system.place)}, {printable(system.kind)}{label}", "bold"))
    for line in lines:
        print(f"  {line}")
    return True


def _file_line(difference: SystemDifference, change: FileChange) -> str:
    marks = [_mark(change.right_change)]
    if difference.base:
        conflict = "!" if change.standing is Standing.CONFLICT else " "
        marks = [conflict, _mark(change.left_change), *marks]
    drawn = "".join(styled(mark, _COLOURS.get(mark, "")) for mark in marks)
    sides = [
        (difference.left, _how(change.base, change.left, change.left_change)),
        (difference.right, _how(change.base, change.right, change.right_change)),
    ]
    return f"{drawn} {printable(change.path)}{_told(change.standing, sides)}"


def _mark(change: Change | None) -> str:
    return " " if change is None else _MARKS[change.how]


def _told(standing: Standing, sides: list[tuple[str, str]]) -> str:
    """What became of it, behind its name. The marks say who did it, but where both did each has to be told."""
    (left, by_left), (right, by_right) = sides
    match standing:
        case Standing.LEFT | Standing.BOTH:
            words = by_left
        case Standing.RIGHT:
            words = by_right
        case Standing.CONFLICT:
            words = "; ".join(f"{name}: {how}" for name, how in ((left, by_left), (right, by_right)) if how)
    return f"  {printable(words)}" if words else ""


def _how(base: Entry | None, entry: Entry | None, change: Change | None) -> str:
    if change is None:
        return ""
    if entry is None or base is None:
        there = entry or base
        assert there is not None
        return _what(there) if change.how is How.ADDED else "removed"
    return ", ".join(_facet(facet, base, entry) for facet in change.facets)


def _what(entry: Entry) -> str:
    match entry.kind:
        case EntryKind.FILE:
            kind = format_size(entry.size_bytes)
        case EntryKind.LINK:
            return f"link to {entry.target}"
        case EntryKind.CHARACTER_DEVICE | EntryKind.BLOCK_DEVICE:
            kind = f"{entry.kind} {entry.device}"
        case EntryKind.DIRECTORY | EntryKind.PIPE | EntryKind.SOCKET:
            kind = str(entry.kind)
    return f"{kind}, {_mode(entry)}, {_owner(entry)}"


def _facet(facet: Facet, old: Entry, new: Entry) -> str:
    match facet:
        case Facet.KIND:
            return f"{old.kind} -> {new.kind}"
        case Facet.CONTENT:
            if old.size_bytes == new.size_bytes:
                return "content"
            return f"content {format_size(old.size_bytes)} -> {format_size(new.size_bytes)}"
        case Facet.TARGET:
            return f"leads to {old.target} -> {new.target}"
        case Facet.DEVICE:
            return f"device {old.device} -> {new.device}"
        case Facet.OWNER:
            return f"owner {_owner(old)} -> {_owner(new)}"
        case Facet.MODE:
            return f"mode {_mode(old)} -> {_mode(new)}"
        case Facet.XATTRS:
            names = sorted({name for name, _ in set(old.xattrs) ^ set(new.xattrs)})
            return f"attributes {' '.join(names)}"


def _mode(entry: Entry) -> str:
    return f"{entry.mode:04o}"


def _owner(entry: Entry) -> str:
    return f"{entry.uid}:{entry.gid}"


def _version_line(difference: SystemDifference, what: str, change: PackageChange | ServiceChange) -> str:
    """`M package nginx  1.22 -> 1.24`; against a base with each side's mark and name."""
    sides = [
        (difference.left, _step(change.base, change.left)),
        (difference.right, _step(change.base, change.right)),
    ]
    marks = [_version_mark(change.base, change.right)]
    if difference.base:
        conflict = "!" if change.standing is Standing.CONFLICT else " "
        marks = [conflict, _version_mark(change.base, change.left), *marks]
    drawn = "".join(styled(mark, _COLOURS.get(mark, "")) for mark in marks)
    return f"{drawn} {what} {printable(change.name)}{_told(change.standing, sides)}"


def _step(old: str, new: str) -> str:
    if old == new:
        return ""
    return f"{old} -> {new}" if old and new else new or old


def _version_mark(old: str, new: str) -> str:
    if old == new:
        return " "
    return "M" if old and new else "+" if new else "-"


def _print_text(difference: SystemDifference, volume: str, text: TextDifference) -> None:
    for side, lines in ((difference.left, text.left), (difference.right, text.right)):
        if lines:
            origin = "base" if difference.base else difference.left
            print(styled(f"--- {origin}  {volume}  {printable(text.path)}", "bold"))
            print(styled(f"+++ {side}  {volume}  {printable(text.path)}", "bold"))
            _print_lines(lines)


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        print(styled(printable(line), colour))
