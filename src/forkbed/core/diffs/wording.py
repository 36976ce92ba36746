"""What differs, in lines for people. Pure; colours are the caller's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from forkbed.core.diffs.entries import Change, Entry, EntryKind, Facet, How
from forkbed.core.diffs.records import (
    FileSystemDifference,
    MachineDifference,
    PackageChange,
    Reading,
    ServiceChange,
    SideCounts,
)
from forkbed.core.diffs.threeway import FileChange, Standing


class Tone(StrEnum):
    """What a line is about."""

    HEAD = "head"
    PLAIN = "plain"
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    CONFLICT = "conflict"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Line:
    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Names:
    """What the two sides are called. `left` is "" where there are two versions only: all is the right one's then."""

    left: str
    right: str


_MARKS = {How.ADDED: "+", How.REMOVED: "-", How.CHANGED: "~"}
_TONES = {How.ADDED: Tone.ADDED, How.REMOVED: Tone.REMOVED, How.CHANGED: Tone.CHANGED}
_NOTHING = "–"


def summary(machines: Iterable[MachineDifference], names: Names) -> Iterator[Line]:
    """A head line for each file system, problems included; nothing for one in which nothing differs."""
    for _, lines in _file_systems(machines, names):
        yield from lines


def everything(machines: Iterable[MachineDifference], names: Names) -> Iterator[Line]:
    """The same with every package, service and file."""
    for one, lines in _file_systems(machines, names):
        yield from lines
        if one is None:
            continue
        yield from (_package(change, names) for change in one.packages)
        yield from (_service(change, names) for change in one.services)
        for change in one.files:
            yield from _file(change, names)
        if one.unlisted:
            yield Line(f"  … and {one.unlisted} more")


def _file_systems(
    machines: Iterable[MachineDifference], names: Names
) -> Iterator[tuple[FileSystemDifference | None, Sequence[Line]]]:
    for machine in machines:
        for volume in machine.volumes:
            where = f"{machine.machine}/{volume.volume}"
            if volume.disk.problems:
                yield None, [Line(f"{where}: {problem}", Tone.PROBLEM) for problem in volume.disk.problems]
            for one in volume.disk.file_systems:
                lines = [Line(f"{where}, {one.place} ({one.kind}): {_told(one, names)}", Tone.HEAD)]
                lines += [Line(f"  ! {problem}", Tone.PROBLEM) for problem in one.problems]
                if one.differs or one.problems:
                    yield one, lines


def _told(one: FileSystemDifference, names: Names) -> str:
    if one.reading is Reading.UNREADABLE:
        return "could not be compared"
    sides = [_counts(one.counts.right, names.right)]
    if names.left:
        sides.insert(0, _counts(one.counts.left, names.left))
    parts = [side for side in sides if side]
    if one.counts.conflicts:
        parts.append(f"{one.counts.conflicts} in conflict")
    if one.packages:
        parts.append(_number(len(one.packages), "package"))
    if one.services:
        parts.append(_number(len(one.services), "service"))
    if one.hidden:
        parts.append(f"{one.hidden} in logs, caches and run-time files not shown")
    if one.reading is Reading.PARTLY:
        parts.append("not all could be compared")
    return "; ".join(parts) or "nothing differs"


def _counts(counts: SideCounts, name: str) -> str:
    words = (("added", counts.added), ("removed", counts.removed), ("changed", counts.changed))
    said = ", ".join(f"{number} {word}" for word, number in words if number)
    return f"{name}: {said}" if said else ""


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _package(change: PackageChange, names: Names) -> Line:
    return _sided("package", change, names)


def _service(change: ServiceChange, names: Names) -> Line:
    return _sided("service", change, names)


def _sided(word: str, change: PackageChange | ServiceChange, names: Names) -> Line:
    base = change.base or _NOTHING
    sides = {Standing.LEFT: ((names.left, change.left),), Standing.RIGHT: ((names.right, change.right),)}
    both = ((names.left, change.left), (names.right, change.right))
    if change.standing is Standing.BOTH:
        told = f"{base} → {change.right or _NOTHING}{_who(change.standing, names)}"
    else:
        told = "; ".join(
            f"{base} → {value or _NOTHING}{f'  ({name})' if names.left else ''}"
            for name, value in sides.get(change.standing, both)
        )
    conflict = change.standing is Standing.CONFLICT
    return Line(
        f"  {'!' if conflict else ' '} {word} {change.name}: {told}", _tone(change.standing, Tone.PLAIN)
    )


def _file(change: FileChange, names: Names) -> Iterator[Line]:
    """One line, or for a conflict one for each side that changed the path."""
    if change.standing is not Standing.CONFLICT:
        side, new = (
            (change.left_change, change.left)
            if change.standing is Standing.LEFT
            else (change.right_change, change.right)
        )
        assert side is not None
        who = _who(change.standing, names)
        yield Line(
            f"  {_MARKS[side.how]} {_path(change)}{_details(side, change.base, new)}{who}", _TONES[side.how]
        )
        return
    for name, side_change, entry in (
        (names.left, change.left_change, change.left),
        (names.right, change.right_change, change.right),
    ):
        if side_change is not None:
            details = _details(side_change, change.base, entry)
            mark = _MARKS[side_change.how]
            yield Line(f"  ! {mark} {_path(change)}{details}  ({name})", Tone.CONFLICT)


def _who(standing: Standing, names: Names) -> str:
    if not names.left:
        return ""
    return {
        Standing.LEFT: f"  ({names.left})",
        Standing.RIGHT: f"  ({names.right})",
        Standing.BOTH: "  (both)",
    }.get(standing, "")


def _tone(standing: Standing, otherwise: Tone) -> Tone:
    return Tone.CONFLICT if standing is Standing.CONFLICT else otherwise


def _path(change: FileChange) -> str:
    held = change.right or change.left or change.base
    return f"{change.path}/" if held is not None and held.kind is EntryKind.DIRECTORY else change.path


def _details(change: Change, old: Entry | None, new: Entry | None) -> str:
    if old is None or new is None or not change.facets:
        return ""
    return "  " + ", ".join(_facet(facet, old, new) for facet in change.facets)


def _facet(facet: Facet, old: Entry, new: Entry) -> str:
    match facet:
        case Facet.KIND:
            return f"{old.kind} → {new.kind}"
        case Facet.CONTENT:
            if old.size_bytes == new.size_bytes:
                return "content"
            return f"content ({old.size_bytes} → {new.size_bytes} bytes)"
        case Facet.TARGET:
            return f"{old.target} → {new.target}"
        case Facet.DEVICE:
            return f"device {old.device} → {new.device}"
        case Facet.OWNER:
            return f"owner {old.uid}:{old.gid} → {new.uid}:{new.gid}"
        case Facet.MODE:
            return f"mode {old.mode:04o} → {new.mode:04o}"
        case Facet.XATTRS:
            return f"attributes {', '.join(_changed_attributes(old, new))}"


def _changed_attributes(old: Entry, new: Entry) -> list[str]:
    return sorted({name for name, _ in set(old.xattrs) ^ set(new.xattrs)})
