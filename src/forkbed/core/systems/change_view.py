"""What would become different in a system, as it is told. `changes` finds it.

By itself, and light: every command imports it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

LIVE, RESTART, DESTROY = "", "restart", "destroy"


class ChangeKind(StrEnum):
    """What `up` would do with a machine or network."""

    CREATE = "create"
    CHANGE = "change"
    REMOVE = "remove"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One declared value that differs. `old` is "" for something new, `new` "" for something removed."""

    field: str  # "memory", "volumes.data.size"
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class ChangeView:
    """What `up` would do to one machine or network. `needs` is "", "restart" or "destroy"."""

    kind: ChangeKind
    subject: str  # "machine boss", "network control"
    fields: tuple[FieldChange, ...] = ()
    needs: str = ""
    loses: tuple[str, ...] = ()  # what data would be gone: "boss/data (2 GiB)"
