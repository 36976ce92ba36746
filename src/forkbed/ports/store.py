"""What is remembered: systems, revisions, operations, journal, events. SQLite by default, later PostgreSQL too.

Every call is one transaction and durable when it returns. The store decides nothing: rules are applied by
the engine, inside `submit` through the function it hands in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from forkbed.base.ids import InstallationId, MachineId, OperationId, RehearsalId, SnapshotId, SystemId
from forkbed.core.operations.records import (
    Event,
    JournalEntry,
    Operation,
    OperationStatus,
    Requester,
    StepStatus,
)
from forkbed.core.operations.rules import Admit, Refuse
from forkbed.core.rehearsals.records import Rehearsal
from forkbed.core.snapshots.records import Snapshot
from forkbed.core.systems.goal import Wanted
from forkbed.core.systems.spec import ResolvedSystem, SystemSpec


@dataclass(frozen=True, slots=True)
class SystemRecord:
    """The present declaration of a system. `wanted` is by machine name; `up`: its networks are wanted."""

    id: SystemId
    name: str
    resolved: ResolvedSystem
    wanted: Mapping[str, Wanted]
    up: bool
    created_at: float
    changed_at: float
    message: str = ""  # what a fork was made for
    expires_at: float | None = None
    generation: int = 1
    maintenance: bool = False  # its hooks have run one way, and not yet the other
    kept_of: SystemId | None = None  # the system whose earlier generation this is
    kept_at: float | None = None

    @property
    def revision(self) -> int:
        return self.resolved.revision


@dataclass(frozen=True, slots=True)
class RevisionRecord:
    """An accepted manifest, never changed. `files` maps the manifest's paths to content hashes."""

    system_id: SystemId
    number: int
    accepted_at: float
    requester: Requester
    file_name: str
    text: str
    variables: Mapping[str, str]
    files: Mapping[str, str]
    digest: str
    spec: SystemSpec
    resolved: ResolvedSystem
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadyMark:
    """Which boot of a machine passed which readiness."""

    boot_id: str
    digest: str


@dataclass(frozen=True, slots=True)
class Additions:
    """What comes into being together with an operation: systems before their revisions, and a snapshot."""

    systems: tuple[SystemRecord, ...] = ()
    revisions: tuple[RevisionRecord, ...] = ()
    snapshot: Snapshot | None = None
    rehearsal: Rehearsal | None = None


NOTHING = Additions()

Admission = Callable[[Sequence[Operation]], Admit | Refuse]


class Store(Protocol):
    def installation_id(self) -> InstallationId:
        """This installation's id, drawn when the store was made."""

    def systems(self) -> Sequence[SystemRecord]: ...

    def system(self, name: str) -> SystemRecord | None: ...

    def system_by_id(self, system_id: SystemId) -> SystemRecord | None: ...

    def save_system(self, system: SystemRecord) -> None: ...

    def replace_systems(self, systems: Sequence[SystemRecord], revision: RevisionRecord) -> None:
        """Store systems as they are now together with the revision that made them so, in one transaction."""

    def delete_system(self, system_id: SystemId) -> None:
        """Forget the system, its revisions, snapshots and ready marks. Operations and events stay."""

    def revisions(self, system_id: SystemId) -> Sequence[RevisionRecord]:
        """All of them, oldest first."""

    def submit(
        self,
        operation: Operation,
        admission: Admission,
        additions: Additions = NOTHING,
    ) -> Operation | Refuse:
        """Add an operation, and with it what it is about, or nothing at all.

        `admission` is asked within the transaction about the active operations of the same systems; those it
        wants cancelled become CANCELLING. An operation of the same requester with the same idempotency key
        is returned instead of adding one. CONFLICT if a system or snapshot of that name is there.
        """

    def operation(self, operation_id: OperationId) -> Operation | None: ...

    def operation_of_request(self, uid: int, idempotency_key: str) -> Operation | None:
        """The operation that an earlier request with the same key led to."""

    def operations(
        self, *, system_id: SystemId | None = None, active_only: bool = False, limit: int = 100
    ) -> Sequence[Operation]:
        """Newest first, without their results, which may be large. `system_id`: those that may change it."""

    def set_status(
        self,
        operation_id: OperationId,
        status: OperationStatus,
        at: float,
        *,
        error: dict[str, object] | None = None,
        result: dict[str, object] | None = None,
    ) -> Operation:
        """Record the new status; one that has ended stays as it is. Returns what is stored now."""

    def begin_step(self, entry: JournalEntry) -> JournalEntry:
        """Add an entry; its `sequence` is given by the store."""

    def end_step(
        self,
        operation_id: OperationId,
        sequence: int,
        status: StepStatus,
        at: float,
        message: str,
        event: Event | None = None,
    ) -> None:
        """Close an entry, and add the event that tells it, if any: one transaction, as each waits for the disk."""

    def interrupt_steps(self, operation_id: OperationId, at: float) -> None:
        """Close the entries that a dead controller left open."""

    def journal(self, operation_id: OperationId) -> Sequence[JournalEntry]: ...

    def add_event(self, event: Event) -> Event:
        """Add an event; its `sequence` is given by the store."""

    def events(self, *, after: int = 0, system: str = "", limit: int = 1000) -> Sequence[Event]:
        """Oldest first, those with a greater sequence than `after`."""

    def last_event(self) -> int:
        """The greatest sequence given so far, 0 if none."""

    def snapshots(self, system_id: SystemId | None = None) -> Sequence[Snapshot]:
        """Those of a system, or all; oldest first."""

    def snapshot(self, snapshot_id: SnapshotId) -> Snapshot | None: ...

    def save_snapshot(self, snapshot: Snapshot) -> None: ...

    def delete_snapshot(self, snapshot_id: SnapshotId) -> None: ...

    def rehearsals(self, system_id: SystemId | None = None) -> Sequence[Rehearsal]:
        """Those of a system, or all; oldest first."""

    def rehearsal(self, rehearsal_id: RehearsalId) -> Rehearsal | None: ...

    def save_rehearsal(self, rehearsal: Rehearsal) -> None: ...

    def mark_ready(self, machine_id: MachineId, mark: ReadyMark) -> None: ...

    def ready_marks(self) -> Mapping[MachineId, ReadyMark]: ...
