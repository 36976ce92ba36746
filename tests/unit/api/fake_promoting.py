"""The part of the controller in memory that answers about upgrades."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from forkbed.api.codec import encode
from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import RehearsalId, SnapshotId, SystemId
from forkbed.core.diffs.entries import Change, Entry, EntryKind, Facet, How
from forkbed.core.diffs.records import (
    Counts,
    DiskDifference,
    FileSystemDifference,
    MachineDifference,
    PackageChange,
    Reading,
    ServiceChange,
    SideCounts,
    TextDifference,
    VolumeDifference,
)
from forkbed.core.diffs.systems import SystemDifference, VolumeTexts
from forkbed.core.diffs.threeway import FileChange, Standing
from forkbed.core.operations.records import Operation, OperationKind, OperationStatus, Requester
from forkbed.core.rehearsals.records import (
    CheckOutcome,
    FreezePrediction,
    Rehearsal,
    RehearsalStatus,
    StepOutcome,
    UpgradeStep,
)
from forkbed.core.systems.change_view import ChangeKind, ChangeView, FieldChange
from forkbed.core.systems.spec import FileSpec
from forkbed.engine.promoting import (
    DiffOptions,
    GenerationView,
    PromoteOptions,
    PromotionPlan,
    RehearseOptions,
    StepsBundle,
)
from forkbed.engine.requests import OperationDetail, Request

BEGAN_AT = 1_795_269_731.0  # 14:02:11 UTC
STEPS = (
    UpgradeStep(
        "New application",
        "boss",
        "systemctl restart experiments",
        files=(FileSpec("/usr/local/bin/experiments", "a" * 64, 0o755),),
    ),
    UpgradeStep("2-boss", "boss", "migrate", user="postgres", environment=(("DATABASE", "experiments"),)),
    UpgradeStep("3-ops", "ops", reboot=True),
)
REMEDY = "rehearse it again"
PREDICTION = FreezePrediction(cut_s=0.4, restore_s=1.2, steps_s=2.5, checks_s=0.15, switch_s=0.05)
REHEARSAL = Rehearsal(
    id=RehearsalId("reh1"),
    system_id=SystemId("sys1"),
    name="try",
    status=RehearsalStatus.PASSED,
    steps=STEPS,
    declared="d" * 32,
    revision=3,
    created_at=BEGAN_AT,
    requester=Requester(0, "root", "forkbed rehearse boss-ops --steps up.yaml"),
    fork_id=SystemId("sys-try"),
    base_id=SnapshotId("snap-try"),
    outcomes=(
        StepOutcome("New application", "boss", BEGAN_AT, 0.8, 0, "stopping\nstarted\x1b[2J\n"),
        StepOutcome("2-boss", "boss", BEGAN_AT + 1, 1.5, 0),
        StepOutcome("3-ops", "ops", BEGAN_AT + 2, 9.0),
    ),
    checks=(CheckOutcome("boss", "http 80 /experiments/count", True, 0.15),),
    prediction=PREDICTION,
    summary=("boss/root: 2 added, 1 changed; 1 package",),
    intents=2,
    ended_at=BEGAN_AT + 30,
    warnings=("a step tried to reach deb.example: a replay cannot either",),
)
FAILED = replace(
    REHEARSAL,
    id=RehearsalId("reh2"),
    name="bad",
    status=RehearsalStatus.FAILED,
    outcomes=(
        REHEARSAL.outcomes[0],
        StepOutcome(
            "2-boss", "boss", BEGAN_AT, 0.3, 1, "no such column\n", "ended with status 1 instead of 0"
        ),
    ),
    checks=(),
    prediction=None,
    summary=(),
    intents=0,
    warnings=(),
    twice=True,
    differing=("boss:/var/lib/app/seed",),
    error="step 2-boss: on boss ended with status 1 instead of 0",
)
_FILE = Entry(EntryKind.FILE, 0o644, 0, 0, 120, 1)


def changed(
    path: str, base: Entry | None, left: Entry | None, right: Entry | None, *facets: Facet
) -> FileChange:
    """A path that differs; `facets` of what both changed or the one that did."""

    def how(entry: Entry | None) -> Change | None:
        if entry == base:
            return None
        if base is None:
            return Change(How.ADDED)
        return Change(How.REMOVED) if entry is None else Change(How.CHANGED, facets)

    if left == base:
        standing = Standing.RIGHT
    elif right == base:
        standing = Standing.LEFT
    else:
        standing = Standing.BOTH if left == right else Standing.CONFLICT
    return FileChange(path, standing, base, left, right, how(left), how(right))


NEW = replace(_FILE, size_bytes=2048, mode=0o755)
CONFIGURED = replace(_FILE, content=2, size_bytes=140, mode=0o600, uid=33, gid=33)
DIFFERENCE = SystemDifference(
    left="boss-ops",
    right="try",
    declared=(
        ChangeView(
            ChangeKind.CHANGE, "machine boss", (FieldChange("memory", "256 MiB", "512 MiB"),), "restart"
        ),
    ),
    machines=(
        MachineDifference(
            "boss",
            (
                VolumeDifference(
                    "root",
                    DiskDifference(
                        (
                            FileSystemDifference(
                                "partition 1",
                                "ext4",
                                "",
                                Reading.COMPARED,
                                Counts(right=SideCounts(1, 1, 1)),
                                (
                                    changed(
                                        "/etc/app.conf",
                                        _FILE,
                                        _FILE,
                                        CONFIGURED,
                                        Facet.CONTENT,
                                        Facet.OWNER,
                                        Facet.MODE,
                                    ),
                                    changed("/opt/new\\x1b", None, None, NEW),
                                    changed("/srv/old", _FILE, _FILE, None),
                                ),
                                hidden=37,
                                packages=(
                                    PackageChange("nginx", Standing.RIGHT, "1.22", "1.22", "1.24"),
                                    PackageChange("vim", Standing.RIGHT, "9", "9", ""),
                                ),
                                services=(
                                    ServiceChange(
                                        "nginx.service", Standing.RIGHT, "enabled", "enabled", "masked"
                                    ),
                                ),
                            ),
                        )
                    ),
                ),
            ),
        ),
        MachineDifference(
            "ops",
            (
                VolumeDifference(
                    "root",
                    DiskDifference((FileSystemDifference("partition 1", "ext4", "", Reading.SAME),)),
                ),
                VolumeDifference(
                    "data",
                    DiskDifference(
                        (
                            FileSystemDifference(
                                "whole disk",
                                "zfs",
                                "",
                                Reading.UNREADABLE,
                                problems=("no reader for zfs",),
                            ),
                        )
                    ),
                ),
            ),
        ),
    ),
    texts=(
        VolumeTexts(
            "boss",
            "root",
            (
                TextDifference(
                    "/etc/app.conf", "partition 1", (), ("@@ -1 +1 @@", "-layout = 1", "+layout = 2")
                ),
            ),
        ),
    ),
)
GENERATIONS = (
    GenerationView(
        2, "live", "boss-ops", BEGAN_AT, None, 40 * 1024**2, 0, "generation 2: promoted try\x1b[2J"
    ),
    GenerationView(
        1, "kept", "boss-ops-1", 900.0, BEGAN_AT + 7 * 86400, 300 * 1024**2, 640 * 1024**2, "as it began"
    ),
)
LOSS = OperationalError(
    Kind.UNSAFE,
    "system boss-ops",
    "generation 2 has written since it was promoted, and that would be lost",
    "give --accept-loss if it may be",
    details=("boss/root: 3 changed", "  M /var/lib/postgresql/15/main/base/5/1259"),
)


class FakePromoting(ABC):
    """Implements `PromotionApi` but for what the whole controller knows: its systems and operations.

    Tests change what is answered: `rehearsed`, `passes`, `difference`, `refusal`, `would_lose`, `attempts`
    (the ids of systems that a promotion makes), and `failure`, which the next rehearsal or promotion ends with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rehearsed: list[Rehearsal] = [REHEARSAL, FAILED]
        self.difference = DIFFERENCE
        self.passes = True
        self.attempts: tuple[SystemId, ...] = ()
        self.refusal = ""
        self.would_lose = False
        self.failure: OperationalError | None = None

    def rehearse(
        self, system: str, steps: StepsBundle, options: RehearseOptions, request: Request
    ) -> Operation:
        self._system(system)
        self._note("rehearse", (steps, options))
        name = options.name or "boss-ops-rehearsal-1"
        if all(each.name != name for each in self.rehearsed):
            self.rehearsed.append(replace(REHEARSAL, name=name, twice=options.twice))
        result: dict[str, object] = {"rehearsal": name, "passed": self.passes}
        return self._ended(OperationKind.REHEARSE, system, request, result)

    def rehearsals(self, system: str) -> Sequence[Rehearsal]:
        self._system(system)
        return self.rehearsed

    def diff(self, a: str, b: str, options: DiffOptions, request: Request) -> Operation:
        self._system(a.partition("@")[0])
        self._system(b.partition("@")[0])
        self._note("diff", (a, b, options))
        result = encode(replace(self.difference, left=a, right=b))
        return self._operation(OperationKind.DIFF, a, request, result)

    def promotion_plan(self, rehearsal: str, options: PromoteOptions) -> PromotionPlan:
        self._rehearsal(rehearsal)
        self._note("promotion_plan", options)
        steps = ("maintenance on", "cut boss-ops", "step New application", "hand over the networks")
        return PromotionPlan("boss-ops", rehearsal, 2, steps, PREDICTION, self.refusal, REMEDY)

    def promote(self, rehearsal: str, options: PromoteOptions, request: Request) -> Operation:
        self._rehearsal(rehearsal)
        self._note("promote", (rehearsal, options))
        if self.refusal:
            raise OperationalError(Kind.CONFLICT, f"rehearsal {rehearsal}", self.refusal, REMEDY)
        result: dict[str, object] = {
            "generation": 2,
            "freeze_s": 4.6,
            "predicted_s": 4.3,
            "kept": "boss-ops-1",
        }
        return self._ended(OperationKind.PROMOTE, "boss-ops", request, result)

    def revert(self, system: str, *, accept_loss: bool, request: Request) -> Operation:
        self._system(system)
        self._note("revert", accept_loss)
        if self.would_lose and not accept_loss:
            raise LOSS
        return self._operation(
            OperationKind.REVERT,
            system,
            request,
            {"generation": 1, "kept": "boss-ops-2", "lost": list(LOSS.details) if self.would_lose else []},
        )

    def generations(self, system: str) -> Sequence[GenerationView]:
        self._system(system)
        return GENERATIONS

    def maintenance(self, system: str, *, on: bool, request: Request) -> Operation:
        self._system(system)
        self._note("maintenance", on)
        return self._operation(OperationKind.MAINTENANCE, system, request)

    def _ended(
        self, kind: OperationKind, subject: str, request: Request, result: dict[str, object]
    ) -> Operation:
        """An operation that ends as the test wants it."""
        operation = self._operation(kind, subject, request, result, other_systems=self.attempts)
        if self.failure is None:
            return operation
        self.advance(operation.id, status=OperationStatus.FAILED, error=self.failure)
        return self.operation(operation.id).operation

    def _rehearsal(self, name: str) -> None:
        if all(name != rehearsal.name for rehearsal in self.rehearsed):
            raise OperationalError(Kind.NOT_FOUND, f"rehearsal {name}", "there is none of that name")

    @abstractmethod
    def operation(self, operation_id: str) -> OperationDetail: ...

    @abstractmethod
    def advance(
        self,
        operation_id: str,
        *,
        status: OperationStatus | None = None,
        error: OperationalError | None = None,
    ) -> None: ...

    @abstractmethod
    def _system(self, name: str) -> None: ...

    @abstractmethod
    def _note(self, call: str, what: object) -> None: ...

    @abstractmethod
    def _operation(
        self,
        kind: OperationKind,
        subject: str,
        request: Request,
        result: dict[str, object] | None = None,
        *,
        other_systems: tuple[SystemId, ...] = (),
    ) -> Operation: ...
