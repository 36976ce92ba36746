"""What callers hand to the controller and get back: requests, options and the views of systems and plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from forkbed.core.operations.records import JournalEntry, Operation, Requester
from forkbed.core.systems.change_view import ChangeKind as ChangeKind
from forkbed.core.systems.change_view import ChangeView as ChangeView
from forkbed.core.systems.change_view import FieldChange as FieldChange


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks, and the two guards of a write.

    `idempotency_key`: a second request with the same key answers with the first one's operation.
    `if_match`: refused (CONFLICT) unless the system is at that revision.
    """

    requester: Requester
    idempotency_key: str | None = None
    if_match: int | None = None


@dataclass(frozen=True, slots=True)
class UpOptions:
    """`restart` allows restarting machines where a change needs it; `destroy` names what may lose its data:
    a machine (`boss`) or one volume (`boss/data`)."""

    restart: bool = False
    destroy: frozenset[str] = frozenset()


class PowerAction(StrEnum):
    START = "start"
    STOP = "stop"
    RESTART = "restart"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class PlanView:
    """What `up` would do. `refusals` say which `--destroy` is missing; `steps` are the first plan's, in order.

    `pending_restarts` are machines that run with an older definition and would go on doing so.
    """

    system: str
    revision: int  # that it is or would become
    is_new_revision: bool
    changes: tuple[ChangeView, ...]
    steps: tuple[str, ...]
    refusals: tuple[str, ...]
    pending_restarts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SystemSummary:
    """`state` is one word for people: up, down, starting, stopping, degraded, failed, paused.

    Of a fork: `fork_of` is the system it was cut from, `cut_at` that instant, and `snapshot` the snapshot it was
    made of ("" for a cut of its own). Names are as they were then.
    """

    name: str
    id: str
    revision: int
    state: str
    machines_running: int
    machines_ready: int
    machines_total: int
    created_at: float
    changed_at: float
    operation_id: str  # the one under way, or ""
    fork_of: str = ""
    expires_at: float | None = None
    labels: Mapping[str, str] | None = None
    cut_at: float | None = None
    snapshot: str = ""


@dataclass(frozen=True, slots=True)
class MachineDetail:
    """Where a machine is and in what state. `restart_pending` lists fields that wait for a restart."""

    name: str
    id: str
    host: str
    power: str
    ready: bool
    wanted: str  # running, stopped, paused
    image: str
    image_id: str
    cpus: int
    memory_bytes: int
    addresses: tuple[tuple[str, str, str], ...]  # (network, address, mac)
    published: tuple[str, ...]  # "127.0.0.1:8080 -> 80/tcp"
    volumes: tuple[tuple[str, int], ...]  # (name, size in bytes)
    restart_pending: bool
    domain: str  # the hypervisor's name of it


@dataclass(frozen=True, slots=True)
class NetworkDetail:
    name: str
    id: str
    subnet: str
    uplink: str
    ipv6: str
    gateway: str
    bridge: str
    namespace: str
    healthy: bool


@dataclass(frozen=True, slots=True)
class ReasonLine:
    """One link of the trail from a person's command to a step on the host."""

    at: float
    text: str
    operation_id: str = ""


@dataclass(frozen=True, slots=True)
class SystemDetail:
    summary: SystemSummary
    manifest: str  # text of the revision
    machines: tuple[MachineDetail, ...]
    networks: tuple[NetworkDetail, ...]
    trail: tuple[ReasonLine, ...]


@dataclass(frozen=True, slots=True)
class RevisionSummary:
    number: int
    accepted_at: float
    requester: Requester
    digest: str
    changes: Sequence[str]  # against the one before: "machine boss: memory 256 MiB -> 512 MiB"


@dataclass(frozen=True, slots=True)
class OperationDetail:
    """An operation with its journal. `version` rises with every change of either."""

    operation: Operation
    journal: tuple[JournalEntry, ...]
    version: int


@dataclass(frozen=True, slots=True)
class GarbageItem:
    """One thing on the host that nothing needs.

    `kind` is "machine", "seed", "volume", "network", or "snapshot": what is left of one (disks, memory, records).
    """

    kind: str
    name: str
    reason: str
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """What a collection would remove (`operation` is None: dry run, or nothing to do) or is removing."""

    items: tuple[GarbageItem, ...]
    operation: Operation | None = None
