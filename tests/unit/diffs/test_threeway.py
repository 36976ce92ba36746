"""Who changed what, over small trees: nothing is missed, and what is no conflict can be merged."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as some

from forkbed.core.diffs.entries import Change, Entry, EntryKind, Facet, How, change
from forkbed.core.diffs.records import Counts, SideCounts, count
from forkbed.core.diffs.threeway import FileChange, Standing, classify, with_conflicts_of_places

DIRECTORY = Entry(EntryKind.DIRECTORY, 0o755, 0, 0)
FILE = Entry(EntryKind.FILE, 0o644, 0, 0, 5)
ENTRIES = some.sampled_from(
    [
        DIRECTORY,
        Entry(EntryKind.DIRECTORY, 0o700, 0, 0),
        FILE,
        Entry(EntryKind.FILE, 0o644, 0, 0, 5, content=1),
        Entry(EntryKind.FILE, 0o644, 7, 0, 5),
        Entry(EntryKind.LINK, 0o777, 0, 0, target="/dev/null"),
    ]
)
Tree = Mapping[str, Entry]


def _closed(tree: Tree) -> Tree:
    """What remains if everything below something that is no directory goes."""
    kept: dict[str, Entry] = {}
    for path in sorted(tree):
        above = path.rpartition("/")[0]
        if not above or (above in kept and kept[above].kind is EntryKind.DIRECTORY):
            kept[path] = tree[path]
    return kept


PATHS = some.sampled_from(["/a", "/b", "/a/c", "/a/d", "/a/c/e", "/b/c"])
TREES = some.dictionaries(PATHS, ENTRIES, max_size=6).map(_closed)


def _compared(base: Tree, left: Tree, right: Tree) -> tuple[FileChange, ...]:
    found = [
        classify(path, base.get(path), left.get(path), right.get(path))
        for path in sorted({*base, *left, *right})
    ]
    return with_conflicts_of_places([one for one in found if one is not None])


@given(TREES, TREES, TREES)
def test_a_path_is_told_if_and_only_if_a_side_changed_it(base: Tree, left: Tree, right: Tree) -> None:
    told = {one.path: one for one in _compared(base, left, right)}
    for path in {*base, *left, *right}:
        versions = base.get(path), left.get(path), right.get(path)
        assert (path in told) == (len(set(versions)) > 1)
        if path in told:
            one = told[path]
            assert (one.base, one.left, one.right) == versions
            assert (one.left_change is None) == (versions[0] == versions[1])
            assert (one.right_change is None) == (versions[0] == versions[2])


@given(TREES, TREES, TREES)
def test_without_conflicts_both_sides_can_be_applied(base: Tree, left: Tree, right: Tree) -> None:
    changes = _compared(base, left, right)
    if any(one.standing is Standing.CONFLICT for one in changes):
        return
    merged = dict(base)
    for one in changes:
        mine = one.left if one.standing in (Standing.LEFT, Standing.BOTH) else one.right
        if mine is None:
            merged.pop(one.path, None)
        else:
            merged[one.path] = mine
    assert _closed(merged) == merged
    for one in changes:
        for changed, entry in ((one.left_change, one.left), (one.right_change, one.right)):
            assert changed is None or merged.get(one.path) == entry


@given(TREES, TREES, TREES)
def test_the_sides_can_be_swapped(base: Tree, left: Tree, right: Tree) -> None:
    swapped = {
        Standing.LEFT: Standing.RIGHT,
        Standing.RIGHT: Standing.LEFT,
        Standing.BOTH: Standing.BOTH,
        Standing.CONFLICT: Standing.CONFLICT,
    }
    one_way = {one.path: swapped[one.standing] for one in _compared(base, left, right)}
    assert {one.path: one.standing for one in _compared(base, right, left)} == one_way


@given(TREES, TREES)
def test_of_two_versions_everything_is_the_right_ones(base: Tree, right: Tree) -> None:
    changes = _compared(base, base, right)
    assert all(one.standing is Standing.RIGHT for one in changes)
    assert count(changes).left == SideCounts()


def test_one_removes_the_directory_in_which_the_other_writes() -> None:
    base = {"/a": DIRECTORY, "/a/x": FILE}
    changes = {one.path: one.standing for one in _compared(base, {}, {**base, "/a/new": FILE})}
    assert changes == {"/a": Standing.CONFLICT, "/a/new": Standing.CONFLICT, "/a/x": Standing.LEFT}


def test_facets() -> None:
    old = Entry(EntryKind.FILE, 0o644, 0, 0, 5, xattrs=(("user.a", "1"),))
    assert change(old, old) is None
    assert change(None, old) == Change(How.ADDED)
    assert change(old, None) == Change(How.REMOVED)
    assert change(old, Entry(EntryKind.FILE, 0o600, 1, 0, 6)) == Change(
        How.CHANGED, (Facet.CONTENT, Facet.OWNER, Facet.MODE, Facet.XATTRS)
    )
    assert change(old, DIRECTORY) == Change(How.CHANGED, (Facet.KIND,))


def test_counts() -> None:
    changes = _compared(
        {"/a": FILE, "/b": DIRECTORY}, {"/b": DIRECTORY}, {"/a": DIRECTORY, "/b": DIRECTORY, "/c": FILE}
    )
    assert count(changes) == Counts(SideCounts(removed=1), SideCounts(added=1, changed=1), conflicts=1)
