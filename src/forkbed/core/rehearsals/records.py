"""The steps of an upgrade, and the record of a rehearsal of them on a fork: plain values, kept by the store."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum

from forkbed.base.ids import RehearsalId, SnapshotId, SystemId
from forkbed.core.operations.records import Requester
from forkbed.core.systems.spec import FileSpec, ResolvedSystem


@dataclass(frozen=True, slots=True)
class UpgradeStep:
    """One step. `files` are pushed first, then `command` (POSIX shell) runs, if there is one.

    With `reboot` the step restarts its machine: the command does it, or without one Forkbed does, and the next
    step waits for it; then the command's exit status counts for nothing.
    """

    name: str
    machine: str
    command: str = ""
    user: str = "root"
    environment: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 600.0
    expected_status: int = 0
    reboot: bool = False
    files: tuple[FileSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What came of a step. `exit_status` is None if there was none (a push alone, a reboot, no end in time).

    `output` is the end of what it wrote to both its streams; `error` says why it failed, "" if it did not.
    """

    name: str
    machine: str
    started_at: float
    took_s: float
    exit_status: int | None = None
    output: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """One of the manifest's checks. `reason` is why it is not good."""

    machine: str
    check: str
    good: bool
    took_s: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FreezePrediction:
    """How long the original will stand still in a promotion, by part, in seconds."""

    cut_s: float  # until all stand still, with their disks on overlays
    restore_s: float  # memory written and read, guests awake and ready
    steps_s: float
    checks_s: float
    switch_s: float

    @property
    def total_s(self) -> float:
        return self.cut_s + self.restore_s + self.steps_s + self.checks_s + self.switch_s


class RehearsalStatus(StrEnum):
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A try of the steps on a fork. `declared` is `declaration_digest` of the system then.

    `fork_id` is the fork it ran on, and `base_id` the cut that the fork was made of, kept to be compared with.
    `differing` names files that two forks of one cut ended up with differently (only with `twice`).
    """

    id: RehearsalId
    system_id: SystemId
    name: str
    status: RehearsalStatus
    steps: tuple[UpgradeStep, ...]
    declared: str
    revision: int
    created_at: float
    requester: Requester
    fork_id: SystemId
    base_id: SnapshotId
    outcomes: tuple[StepOutcome, ...] = ()
    checks: tuple[CheckOutcome, ...] = ()
    prediction: FreezePrediction | None = None
    summary: tuple[str, ...] = ()  # of the differences, one line a machine and volume
    intents: int = 0
    twice: bool = False
    differing: tuple[str, ...] = ()
    error: str = ""
    ended_at: float | None = None
    warnings: tuple[str, ...] = ()


def declaration_digest(system: ResolvedSystem) -> str:
    """Of what a replay depends on besides its steps: the manifest as declared, and its images' contents."""
    spec = asdict(system.spec)
    images = [(machine.name, machine.image_id) for machine in system.machines]
    text = json.dumps([spec["networks"], spec["machines"], images], default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
