"""The records of operations, their steps and the events they leave: plain values, kept by the store.

An operation is what somebody asked for. Its `goal` says what is to be true at its end; how to get there is
planned anew from what is seen, so a record never holds a list of things to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from forkbed.base.ids import OperationId, SystemId

_ITSELF = "forkbed"


class OperationKind(StrEnum):
    UP = "up"
    DOWN = "down"
    POWER = "power"  # start, stop, restart, pause, resume
    RECONCILE = "reconcile"  # nobody asked: the world differs from what is declared
    IMAGE_BUILD = "image-build"
    IMAGE_IMPORT = "image-import"
    GARBAGE_COLLECTION = "gc"
    SNAPSHOT = "snapshot"
    SNAPSHOT_DELETE = "snapshot-delete"
    ROLLBACK = "rollback"
    FORK = "fork"
    DISCARD = "discard"
    FOLD = "fold"
    REHEARSE = "rehearse"
    DIFF = "diff"
    PROMOTE = "promote"
    REVERT = "revert"
    SAVE = "save"  # nobody asked: a kept generation goes from memory to disk
    MAINTENANCE = "maintenance"


class OperationStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self in (self.SUCCEEDED, self.FAILED, self.CANCELLED)


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asked: the peer's uid, the account's name, and the command as typed (or the HTTP request)."""

    uid: int
    account: str
    command: str

    @classmethod
    def itself(cls, reason: str) -> Requester:
        """Forkbed, of its own accord."""
        return cls(0, _ITSELF, reason)

    @property
    def is_person(self) -> bool:
        """Whether somebody asked, not Forkbed itself."""
        return (self.uid, self.account) != (0, _ITSELF)


@dataclass(frozen=True, slots=True)
class Operation:
    id: OperationId
    kind: OperationKind
    system_id: SystemId | None
    subject: str  # what people call it: a system's name, `system/machine`, an image's name
    goal: dict[str, object]  # JSON
    requester: Requester
    status: OperationStatus
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    error: dict[str, object] | None = None  # OperationalError.as_dict()
    result: dict[str, object] | None = None
    idempotency_key: str | None = None
    other_systems: tuple[SystemId, ...] = ()  # which it changes too: the forks it makes

    @property
    def systems(self) -> frozenset[SystemId]:
        """All systems that it may change."""
        own = {self.system_id} if self.system_id is not None else set()
        return frozenset(own | set(self.other_systems))


class StepStatus(StrEnum):
    STARTED = "started"
    CHANGED = "changed"
    ALREADY = "already"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # the controller died or the operation was cancelled in the middle


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One try of one step. `message` is its latest progress, or the reason of a failure."""

    sequence: int  # in the operation, from 1
    operation_id: OperationId
    key: str  # `steps.step_key`
    verb: str
    subject: str
    host: str
    status: StepStatus
    started_at: float
    ended_at: float | None = None
    message: str = ""
    done: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `attributes` is JSON; the sentence for people is made at the edge.

    `sequence` rises over the whole installation, so a follower can go on where it stopped.
    """

    sequence: int
    at: float
    kind: str  # dotted: "operation.started", "step.failed", "machine.crashed", "image.tagged"
    system: str = ""
    machine: str = ""
    operation_id: str = ""
    attributes: dict[str, object] | None = None
