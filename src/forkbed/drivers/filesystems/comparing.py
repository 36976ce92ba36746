"""Three versions of one file system held against one another: which paths differ, and how."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from forkbed.core.diffs.entries import Entry, EntryKind
from forkbed.core.diffs.limits import Limits
from forkbed.core.diffs.names import shown
from forkbed.core.diffs.records import Counts, count
from forkbed.core.diffs.rules import Matcher
from forkbed.core.diffs.threeway import FileChange, classify, with_conflicts_of_places
from forkbed.drivers.filesystems.contents import Nearness, same_content
from forkbed.drivers.filesystems.problems import Budget, TooMuch, Unreadable
from forkbed.drivers.filesystems.trees import Facts, Tree

_LONGEST_VALUE_SHOWN = 64
_MOST_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Versions:
    """The trees of one place; None where a version has no file system there. `left` may be `base` itself."""

    base: Tree | None
    left: Tree | None
    right: Tree | None
    base_left: Nearness
    base_right: Nearness


@dataclass(slots=True)
class Differences:
    """What was found; `counts` are of all `files`, also those beyond the limit of what is listed."""

    files: tuple[FileChange, ...] = ()
    counts: Counts = field(default_factory=Counts)
    hidden: int = 0
    unlisted: int = 0
    problems: list[str] = field(default_factory=list)


def compare_trees(versions: Versions, matcher: Matcher, limits: Limits, budget: Budget) -> Differences:
    """All paths that differ and are wanted. Raises `Unreadable` if a whole tree cannot be read."""
    found = Differences()
    changes = []
    for path in _candidates(versions):
        place = f"/{shown(path)}"
        if not matcher.wanted(place):
            continue
        budget.check()
        try:
            change = classify(place, *_entries(versions, path, budget))
        except TooMuch:
            raise
        except Unreadable as reason:
            if len(found.problems) < _MOST_PROBLEMS:
                found.problems.append(f"{place}: {reason}")
            continue
        if change is None:
            continue
        if matcher.noisy(place):
            found.hidden += 1
        else:
            changes.append(change)
    settled = with_conflicts_of_places(changes)
    found.counts = count(settled)
    found.files = settled[: limits.listed]
    found.unlisted = len(settled) - len(found.files)
    for tree in (versions.base, versions.left, versions.right):
        if tree is not None:
            found.problems.extend(problem for problem in tree.problems if problem not in found.problems)
    return found


def _candidates(versions: Versions) -> list[bytes]:
    """The paths that can differ, sorted as a tree is listed."""
    base = versions.base.paths() if versions.base else {}
    found: set[bytes] = set()
    for side in (versions.left, versions.right):
        if side is versions.base:
            continue
        paths = side.paths() if side else {}
        found.update(_differing_paths(base, paths, side.suspects if side else None))
    return sorted(found, key=lambda path: path.split(b"/"))


def _differing_paths(
    base: Mapping[bytes, int], side: Mapping[bytes, int], suspects: Container[int] | None
) -> Iterator[bytes]:
    for path, node in side.items():
        if base.get(path) != node or suspects is None or node in suspects:
            yield path
    if side is not base:
        yield from (path for path in base if path not in side)


def _entries(
    versions: Versions, path: bytes, budget: Budget
) -> tuple[Entry | None, Entry | None, Entry | None]:
    """What each version has at the path; contents are numbered by which of them are the same."""
    base = _found(versions.base, path)
    left = base if versions.left is versions.base else _found(versions.left, path)
    right = base if versions.right is versions.base else _found(versions.right, path)
    left_number = right_number = 0
    if left is not base and not _same(base, left, versions.base_left, budget):
        left_number = 1
    if right is not base and not _same(base, right, versions.base_right, budget):
        right_number = 2
        across = versions.base_left.and_then(versions.base_right)
        if left_number and _same(left, right, across, budget):
            right_number = left_number
    return _entry(base, 0), _entry(left, left_number), _entry(right, right_number)


@dataclass(frozen=True, slots=True)
class _Found:
    tree: Tree
    node: int
    facts: Facts


def _found(tree: Tree | None, path: bytes) -> _Found | None:
    node = tree.paths().get(path) if tree is not None else None
    return _Found(tree, node, tree.facts(node)) if tree is not None and node is not None else None


def _same(one: _Found | None, other: _Found | None, near: Nearness, budget: Budget) -> bool:
    """Whether both are files with the same content, or neither is a file."""
    is_file = [found is not None and found.facts.kind is EntryKind.FILE for found in (one, other)]
    if not all(is_file) or one is None or other is None:
        return not any(is_file)
    if one.facts.size_bytes != other.facts.size_bytes:
        return False
    size = one.facts.size_bytes
    return same_content((one.tree, one.node), (other.tree, other.node), size, near, budget)


def _entry(found: _Found | None, content: int) -> Entry | None:
    if found is None:
        return None
    facts = found.facts
    return Entry(
        kind=facts.kind,
        mode=facts.mode,
        uid=facts.uid,
        gid=facts.gid,
        size_bytes=facts.size_bytes,
        content=content,
        target=shown(facts.target),
        device=facts.device,
        xattrs=tuple((shown(name.encode()), _value_shown(value)) for name, value in facts.xattrs),
    )


def _value_shown(value: bytes) -> str:
    if len(value) <= _LONGEST_VALUE_SHOWN:
        return shown(value)
    return f"{len(value)} bytes, BLAKE2 {blake2b(value, digest_size=16).hexdigest()}"
