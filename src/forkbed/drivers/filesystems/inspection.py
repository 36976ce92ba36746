"""One volume in its versions: which places its disk has, what they hold, and what differs in each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from forkbed.core.diffs.entries import EntryKind
from forkbed.core.diffs.limits import Limits
from forkbed.core.diffs.names import raw
from forkbed.core.diffs.ranges import Ranges
from forkbed.core.diffs.records import DiskDifference, FileSystemDifference, Reading, TextDifference
from forkbed.core.diffs.rules import Selection
from forkbed.core.diffs.texts import unified
from forkbed.drivers.filesystems.chains import Chain
from forkbed.drivers.filesystems.comparing import Versions, compare_trees
from forkbed.drivers.filesystems.contents import Nearness
from forkbed.drivers.filesystems.ext4 import Ext4
from forkbed.drivers.filesystems.lvm import logical_volumes
from forkbed.drivers.filesystems.partitions import partitions
from forkbed.drivers.filesystems.places import Place, Segment
from forkbed.drivers.filesystems.problems import Budget, Unreadable
from forkbed.drivers.filesystems.recognition import EXT, LVM, NO_FILES, SLEUTHKIT, recognise
from forkbed.drivers.filesystems.sleuthkit import SleuthKit
from forkbed.drivers.filesystems.summaries import changed_packages, changed_services
from forkbed.drivers.filesystems.trees import Tree

_SAME = Nearness(Ranges())


@dataclass(frozen=True, slots=True)
class Disk:
    """One version of a disk, and the places found on it by their names."""

    chain: Chain
    places: Mapping[str, Place]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """A place as the three versions have it; None where one has not."""

    where: str
    disks: tuple[Disk, Disk, Disk]  # base, left, right
    places: tuple[Place | None, Place | None, Place | None]
    base_left: Nearness
    base_right: Nearness

    @property
    def untouched(self) -> bool:
        """Whether no byte of it can differ."""
        return self.base_left == _SAME and self.base_right == _SAME


class Inspection:
    """The versions of one volume. `left` may be the very object that `base` is.

    Without `with_library` nothing is given to The Sleuth Kit, which crashed on it before.
    """

    def __init__(
        self, base: Chain, left: Chain, right: Chain, limits: Limits, *, with_library: bool = True
    ) -> None:
        self._limits = limits
        self._with_library = with_library
        self._budget = Budget(limits.seconds, limits.entries, limits.depth)
        self._base = _disk(base)
        self._left = self._base if left is base else _disk(left)
        self._right = self._base if right is base else _disk(right)
        self._base_left = base.differing(left) if left is not base else Ranges()
        self._base_right = base.differing(right) if right is not base else Ranges()

    def compare(self, selection: Selection) -> DiskDifference:
        """What differs in each place."""
        found = tuple(one for site in self._sites() if (one := self._compared(site, selection)) is not None)
        problems = dict.fromkeys(
            problem for disk in (self._base, self._left, self._right) for problem in disk.problems
        )
        return DiskDifference(found, self._base_left.union(self._base_right).total_bytes, tuple(problems))

    def texts(self, paths: Sequence[str]) -> Iterator[TextDifference]:
        """The contents at `paths` as text, in each place that has files there."""
        for site in self._sites():
            try:
                versions = self._versions(site, self._kinds(site))
            except Unreadable:
                continue  # `compare` says so
            for path in paths:
                yield from self._text(site, versions, path)

    def _sites(self) -> Iterator[Site]:
        disks = self._base, self._left, self._right
        names = dict.fromkeys(name for disk in disks for name in disk.places)
        for name in names:
            base, left, right = (disk.places.get(name) for disk in disks)
            yield Site(
                name,
                disks,
                (base, left, right),
                _nearness(base, left, self._base_left),
                _nearness(base, right, self._base_right),
            )

    def _compared(self, site: Site, selection: Selection) -> FileSystemDifference | None:
        kinds = self._kinds(site)
        kind = next((kind for kind in kinds if kind not in NO_FILES), kinds[0])
        if site.untouched:
            return None if kind in NO_FILES else FileSystemDifference(site.where, kind, "", Reading.SAME)
        if all(kind in NO_FILES for kind in kinds):
            return None
        try:
            versions = self._versions(site, kinds)
            found = compare_trees(versions, selection.matcher(), self._limits, self._budget)
            packages = changed_packages(versions, self._limits, found.problems)
            services = changed_services(versions, found.problems)
        except Unreadable as reason:
            return _unreadable(site.where, kind, str(reason))
        except MemoryError:
            return _unreadable(site.where, kind, "reading it takes more memory than a comparison may have")
        return FileSystemDifference(
            place=site.where,
            kind=kind,
            label=_label(versions),
            reading=Reading.PARTLY if found.problems else Reading.COMPARED,
            counts=found.counts,
            files=found.files,
            hidden=found.hidden,
            unlisted=found.unlisted,
            packages=packages,
            services=services,
            problems=tuple(found.problems),
        )

    def _kinds(self, site: Site) -> tuple[str, str, str]:
        base, left, right = (
            "nothing" if place is None else recognise(place.reader(disk.chain.read))
            for place, disk in zip(site.places, site.disks, strict=True)
        )
        return base, left, right

    def _versions(self, site: Site, kinds: Sequence[str]) -> Versions:
        """The trees of a place. Raises `Unreadable`."""
        base = self._tree(site, 0, kinds[0], None, _SAME)
        left = base if site.base_left == _SAME else self._tree(site, 1, kinds[1], base, site.base_left)
        right = base if site.base_right == _SAME else self._tree(site, 2, kinds[2], base, site.base_right)
        return Versions(
            base, left, right, _replayed(site.base_left, base, left), _replayed(site.base_right, base, right)
        )

    def _tree(self, site: Site, index: int, kind: str, like: Tree | None, near: Nearness) -> Tree | None:
        place = site.places[index]
        if place is None or kind in NO_FILES:
            return None
        read = place.reader(site.disks[index].chain.read)
        if kind == EXT:
            return Ext4(read, self._budget, like if isinstance(like, Ext4) else None, near.differing)
        if kind in SLEUTHKIT and self._with_library:
            return SleuthKit(read, place.size_bytes, self._budget)
        if kind in SLEUTHKIT:
            raise Unreadable("the library that reads it (The Sleuth Kit) crashed: it may be damaged")
        raise Unreadable(f"there is no reader for what it is: {kind}")

    def _text(self, site: Site, versions: Versions, path: str) -> Iterator[TextDifference]:
        wanted = raw(path.strip("/"))
        try:
            contents = [self._held(tree, wanted) for tree in (versions.base, versions.left, versions.right)]
        except Unreadable as reason:
            told = (f"({reason})",)
            yield TextDifference(path, site.where, told, told)
            return
        base, left, right = contents
        if any(content is not None for content in contents):
            yield TextDifference(
                path, site.where, unified(base, left, self._limits), unified(base, right, self._limits)
            )

    def _held(self, tree: Tree | None, path: bytes) -> bytes | None:
        node = tree.paths().get(path) if tree is not None else None
        if tree is None or node is None:
            return None
        facts = tree.facts(node)
        if facts.kind is not EntryKind.FILE:
            return None
        return tree.content(node, 0, min(facts.size_bytes, self._limits.text_bytes + 1))


def _disk(chain: Chain) -> Disk:
    """Find out what lies where on a disk."""
    whole = Place("whole disk", (Segment(0, 0, chain.size_bytes),))
    try:
        parts = partitions(chain.read, chain.size_bytes)
    except Unreadable as reason:
        return Disk(chain, {}, (str(reason),))
    places: dict[str, Place] = {}
    problems: list[str] = []
    for part in parts if parts is not None else (whole,):
        if recognise(part.reader(chain.read)) != LVM:
            places[part.where] = part
            continue
        try:
            volumes = logical_volumes(part, chain.read)
        except Unreadable as reason:
            problems.append(f"{part.where}: {reason}")
            continue
        places.update((place.where, place) for place in volumes.places)
        problems.extend(volumes.problems)
    return Disk(chain, places, tuple(problems))


def _nearness(base: Place | None, side: Place | None, differing: Ranges) -> Nearness:
    if base is None and side is None:
        return _SAME
    if base is None or side is None or base.segments != side.segments:
        return Nearness(None)
    return Nearness(base.within(differing))


def _replayed(near: Nearness, base: Tree | None, side: Tree | None) -> Nearness:
    """The same, given what each version reads from a journal of its own."""
    if side is not base:
        for tree in (base, side):
            if isinstance(tree, Ext4):
                near = near.and_then(Nearness(tree.replayed))
    return near


def _unreadable(where: str, kind: str, reason: str) -> FileSystemDifference:
    return FileSystemDifference(where, kind, "", Reading.UNREADABLE, problems=(reason,))


def _label(versions: Versions) -> str:
    for tree in (versions.right, versions.left, versions.base):
        if isinstance(tree, Ext4) and tree.label:
            return tree.label
    return ""
