"""What libguestfs's tools say of a file system, as a tree. Parsing only."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from forkbed.core.diffs.entries import EntryKind
from forkbed.core.diffs.names import raw, shown
from forkbed.drivers.filesystems.problems import Unreadable
from forkbed.drivers.filesystems.trees import Facts, Piece

_KINDS = {
    "-": EntryKind.FILE,
    "d": EntryKind.DIRECTORY,
    "l": EntryKind.LINK,
    "c": EntryKind.CHARACTER_DEVICE,
    "b": EntryKind.BLOCK_DEVICE,
    "p": EntryKind.PIPE,
    "s": EntryKind.SOCKET,
}
_MARK = re.compile(rb"forkbed-path (\d+)\n")
_ATTRIBUTE = re.compile(rb"  attrname: (.*)\n  attrval: (.*)\n")


@dataclass(frozen=True, slots=True)
class Row:
    """A path as `virt-ls` lists it; rows that are equal hold the same, unless somebody turned the clock back."""

    facts: Facts
    modified: str
    changed: str
    inode: str


@dataclass(frozen=True, slots=True)
class Details:
    """What was asked for one path only: the hash of its content, its extended attributes."""

    digest: str
    xattrs: tuple[tuple[str, bytes], ...]


def parse_rows(listed: bytes) -> Mapping[bytes, Row]:
    """`virt-ls -lR --csv --uids --extra-stats --times --time-t`, by path without the leading slash."""
    text = listed.decode("utf-8", "surrogateescape")
    found: dict[bytes, Row] = {}
    try:
        for fields in csv.reader(io.StringIO(text, newline="")):
            if fields:
                path, row = _row(fields)
                found[path] = row
    except (csv.Error, ValueError, KeyError, IndexError) as error:
        raise Unreadable(f"what libguestfs lists was not understood: {shown(str(error).encode())}") from error
    return found


def parse_details(said: bytes) -> Mapping[int, Details]:
    """What the script of `details_script` prints, by the numbers of the paths."""
    pieces = _MARK.split(said)
    found = {}
    for number, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        first = piece.partition(b"\n")[0].decode("ascii", "replace")
        digest = first if re.fullmatch(r"[0-9a-f]{64}", first) else ""
        xattrs = tuple(
            sorted(
                (name.decode("utf-8", "backslashreplace"), raw(value.decode("utf-8", "surrogateescape")))
                for name, value in _ATTRIBUTE.findall(piece)
            )
        )
        found[int(number)] = Details(digest, xattrs)
    return found


def details_script(paths: Sequence[tuple[int, bytes, EntryKind]]) -> Iterator[str]:
    """Commands of guestfish that print what `parse_details` reads. A command that fails prints nothing."""
    for number, path, kind in paths:
        yield f'echo "forkbed-path {number}"'
        if kind is EntryKind.FILE:
            yield f"-checksum sha256 {quoted(b'/' + path)}"
        yield f"-lgetxattrs {quoted(b'/' + path)}"


def quoted(word: bytes) -> str:
    """A word for guestfish: every byte that is not plainly harmless as `\\xNN`."""
    return '"' + re.sub(rb"[^A-Za-z0-9/._-]", lambda one: b"\\x%02x" % one[0][0], word).decode("ascii") + '"'


@dataclass(slots=True)
class ListedTree:
    """One version of a file system, a `Tree`, made of rows; only of `suspects` more is known.

    `numbers` gives a path the same node in all versions; `held` are the contents that were fetched.
    """

    rows: Mapping[bytes, Row]
    numbers: Mapping[bytes, int]
    suspects: frozenset[int]
    details: Mapping[int, Details]
    held: Mapping[int, bytes]
    problems: list[str] = field(default_factory=list)
    _paths: Mapping[bytes, int] = field(default_factory=dict)
    _names: Mapping[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._paths = {path: self.numbers[path] for path in self.rows}
        self._names = {number: path for path, number in self._paths.items()}

    def paths(self) -> Mapping[bytes, int]:
        return self._paths

    def facts(self, node: int) -> Facts:
        facts = self.rows[self._names[node]].facts
        known = self.details.get(node)
        if known is None:
            return facts
        return Facts(
            facts.kind,
            facts.mode,
            facts.uid,
            facts.gid,
            facts.size_bytes,
            facts.target,
            facts.device,
            known.xattrs,
        )

    def digest(self, node: int) -> str | None:
        known = self.details.get(node)
        return known.digest if known is not None and known.digest else None

    def pieces(self, node: int) -> tuple[Piece, ...] | None:
        return None

    def content(self, node: int, offset: int, size: int) -> bytes:
        if node not in self.held:
            raise Unreadable("its content could not be read")
        return self.held[node][offset : offset + size]


def _row(fields: Sequence[str]) -> tuple[bytes, Row]:
    (letter, mode, size, uid, gid, _, modified, changed, _, inode, _, device, _, path, *target) = fields
    kind = _KINDS[letter]
    is_device = kind in (EntryKind.CHARACTER_DEVICE, EntryKind.BLOCK_DEVICE)
    facts = Facts(
        kind=kind,
        mode=int(mode, 8) & 0o7777,
        uid=int(uid),
        gid=int(gid),
        size_bytes=int(size) if kind is EntryKind.FILE else 0,
        target="".join(target).encode("utf-8", "surrogateescape"),
        device=device.strip() if is_device else "",
    )
    return path.encode("utf-8", "surrogateescape").strip(b"/"), Row(facts, modified, changed, inode)
