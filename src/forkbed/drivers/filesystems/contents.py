"""Whether two versions of a file have the same content, reading only what can differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from forkbed.core.diffs.ranges import Ranges
from forkbed.drivers.filesystems.problems import Budget
from forkbed.drivers.filesystems.trees import Piece, Tree

_AT_ONCE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Nearness:
    """What is known of two versions of one place. `differing`: the bytes that can differ; None if all can."""

    differing: Ranges | None

    def and_then(self, other: Nearness) -> Nearness:
        """From one to a third, by way of the second."""
        if self.differing is None or other.differing is None:
            return Nearness(None)
        return Nearness(self.differing.union(other.differing))


def same_content(
    one: tuple[Tree, int], other: tuple[Tree, int], size_bytes: int, near: Nearness, budget: Budget
) -> bool:
    """Whether two files, both of `size_bytes`, hold the same. Raises `Unreadable`."""
    (tree, node), (other_tree, other_node) = one, other
    digest = tree.digest(node)
    if digest is not None and (others := other_tree.digest(other_node)) is not None:
        return digest == others
    if near.differing is None:
        doubtful: Iterator[tuple[int, int]] = iter(((0, size_bytes),))
    else:
        pieces, other_pieces = tree.pieces(node), other_tree.pieces(other_node)
        if pieces is None or other_pieces is None:
            doubtful = iter(((0, size_bytes),))
        else:
            doubtful = _doubtful(pieces, other_pieces, size_bytes, near.differing)
    for start, end in doubtful:
        for offset in range(start, end, _AT_ONCE):
            budget.check()
            length = min(_AT_ONCE, end - offset)
            if tree.content(node, offset, length) != other_tree.content(other_node, offset, length):
                return False
    return True


def _doubtful(
    pieces: tuple[Piece, ...], others: tuple[Piece, ...], size_bytes: int, differing: Ranges
) -> Iterator[tuple[int, int]]:
    """The parts of the content that are not at one place of both disks, or where the disks can differ there."""
    bounds = {0, size_bytes}
    for piece in (*pieces, *others):
        bounds.update((piece.at, piece.at + piece.length))
    edges = sorted(bound for bound in bounds if bound <= size_bytes)
    mine, theirs = _Cursor(pieces), _Cursor(others)
    for start, end in pairwise(edges):
        place, other_place = mine.place(start), theirs.place(start)
        if place != other_place:
            yield start, end
        elif place is not None:
            for begin, finish in differing.within(place, place + end - start):
                yield start + begin - place, start + finish - place


class _Cursor:
    """Where growing offsets of a content lie; None in a hole."""

    def __init__(self, pieces: tuple[Piece, ...]) -> None:
        self._pieces = pieces
        self._index = 0

    def place(self, offset: int) -> int | None:
        while self._index < len(self._pieces):
            piece = self._pieces[self._index]
            if offset < piece.at:
                return None
            if offset < piece.at + piece.length:
                return piece.place + offset - piece.at
            self._index += 1
        return None
