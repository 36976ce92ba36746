"""What stands at one path of a file system, and how it can change. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EntryKind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    CHARACTER_DEVICE = "character-device"
    BLOCK_DEVICE = "block-device"
    PIPE = "pipe"
    SOCKET = "socket"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a path holds, all that counts as a difference. Times do not: they change without anything else.

    `content` numbers the contents met at this path in the compared versions: equal numbers, equal content.
    `size_bytes` is told for files only. `target` is where a link leads, `device` "major:minor". Of `xattrs`
    long values are shown by their hash. Text of the guest's is escaped as `core.diffs.names` says.
    """

    kind: EntryKind
    mode: int  # permission bits only
    uid: int
    gid: int
    size_bytes: int = 0
    content: int = 0
    target: str = ""
    device: str = ""
    xattrs: tuple[tuple[str, str], ...] = ()  # sorted by name


class Facet(StrEnum):
    """A side of an entry that can change."""

    KIND = "kind"
    CONTENT = "content"
    TARGET = "target"
    DEVICE = "device"
    OWNER = "owner"
    MODE = "mode"
    XATTRS = "xattrs"


class How(StrEnum):
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Change:
    """How one version of a path differs from another. `facets` only if it is there in both."""

    how: How
    facets: tuple[Facet, ...] = ()


def change(old: Entry | None, new: Entry | None) -> Change | None:
    """How `new` differs from `old`; None if it does not."""
    if old == new:
        return None
    if old is None:
        return Change(How.ADDED)
    if new is None:
        return Change(How.REMOVED)
    if old.kind is not new.kind:
        return Change(How.CHANGED, (Facet.KIND,))
    differing = (
        (Facet.CONTENT, (old.content, old.size_bytes) != (new.content, new.size_bytes)),
        (Facet.TARGET, old.target != new.target),
        (Facet.DEVICE, old.device != new.device),
        (Facet.OWNER, (old.uid, old.gid) != (new.uid, new.gid)),
        (Facet.MODE, old.mode != new.mode),
        (Facet.XATTRS, old.xattrs != new.xattrs),
    )
    return Change(How.CHANGED, tuple(facet for facet, differs in differing if differs))
