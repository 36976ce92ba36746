"""What can be asked about snapshots, forks and their history, and views that answer.

Standard library only, like `requests`: the command line imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from forkbed.core.networks.intents import Intent
from forkbed.core.operations.records import Operation
from forkbed.engine.branch_options import ForkOptions, SnapshotOptions
from forkbed.engine.requests import Request


@dataclass(frozen=True, slots=True)
class MachineCutSummary:
    """One machine of a snapshot. `frozen_s` is how long it stood still; None if it did not run."""

    name: str
    power: str
    method: str  # background, paused, disks, none
    frozen_at: float | None
    frozen_s: float | None
    memory_bytes: int
    quiesced: bool
    note: str


@dataclass(frozen=True, slots=True)
class SnapshotSummary:
    """A snapshot in a list. `own_bytes`: what deleting it gives back of disks and memory."""

    name: str
    id: str
    system: str
    kind: str  # live, disks
    status: str  # making, complete, removing
    revision: int
    created_at: float
    cut_at: float
    skew_s: float
    message: str
    expires_at: float | None
    automatic: bool
    own_bytes: int
    memory_bytes: int
    machines: tuple[MachineCutSummary, ...]
    forks: tuple[str, ...]  # systems that began here


class TreeKind(StrEnum):
    SYSTEM = "system"
    SNAPSHOT = "snapshot"
    FORK = "fork"


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A system, snapshot or fork with what descends from it, oldest first.

    `at` is the time of the cut, or when a system was made. A fork stands below the snapshot that it was made of,
    or below the system if its cut was its own.
    """

    kind: TreeKind
    name: str
    at: float
    state: str  # of a system or fork as in `list`; of a snapshot its kind
    own_bytes: int
    note: str
    expires_at: float | None = None
    children: tuple[TreeNode, ...] = ()


@dataclass(frozen=True, slots=True)
class IntentView:
    """What a machine of a fork tried to do to the world. `cursor` goes on from here; it rises over the fork."""

    cursor: int
    network: str
    machine: str
    intent: Intent


class BranchingApi(Protocol):
    """Synchronous, thread-safe, raising `OperationalError`; each change answers with an operation at once."""

    def snapshot(self, system: str, options: SnapshotOptions, request: Request) -> Operation:
        """The operation's result holds `snapshot`, its name."""

    def snapshots(self, system: str) -> Sequence[SnapshotSummary]:
        """Oldest first, automatic ones too."""

    def snapshot_delete(self, system: str, name: str, request: Request) -> Operation: ...

    def rollback(self, system: str, snapshot: str, request: Request) -> Operation:
        """The operation's result holds `kept`: the name of the snapshot of what was replaced."""

    def fork(self, system: str, options: ForkOptions, request: Request) -> Operation:
        """The operation's result holds `forks`, a list of names, `cut_at`, `skew_s` and `machines`, a list of
        `MachineCutSummary`."""

    def discard(self, fork: str, request: Request) -> Operation:
        """The operation's result holds `kept_for`: systems that go on standing on layers of the fork."""

    def tree(self, system: str | None) -> Sequence[TreeNode]:
        """The roots, or the one tree that the system belongs to."""

    def intents(self, fork: str, *, after: int, limit: int) -> Sequence[IntentView]:
        """Oldest first, those with a cursor above `after`. CONFLICT for a system that is no fork."""

    def wait_intents(self, fork: str, after: int, timeout_s: float) -> Sequence[IntentView]:
        """`intents`, waiting for at least one; empty when time is up."""

    def fold(self, system: str, request: Request) -> Operation:
        """Shorten the chains of the system's volumes as far as snapshots and forks allow."""
