"""Accept requests of upgrades: check, decide what is made, store it with its operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import RehearsalId, SnapshotId
from forkbed.config.steps import parse_steps
from forkbed.core.operations.records import Operation, OperationKind
from forkbed.core.rehearsals.records import (
    FreezePrediction,
    Rehearsal,
    RehearsalStatus,
    declaration_digest,
)
from forkbed.core.rehearsals.refusals import Refusal, asleep_refusal, freeze_refusal, promotion_refusal
from forkbed.core.systems.branch import Draws, roll_back, waking_goal
from forkbed.core.systems.generations import kept_name
from forkbed.engine.branch_options import ForkOptions
from forkbed.engine.branch_requests import BranchRequests
from forkbed.engine.cutting import alive_machines
from forkbed.engine.host import Host
from forkbed.engine.maintenance import has_hooks
from forkbed.engine.options import Options
from forkbed.engine.promoting import (
    DiffOptions,
    GenerationView,
    PromoteOptions,
    PromotionPlan,
    RehearseOptions,
    StepsBundle,
)
from forkbed.engine.requests import Request
from forkbed.engine.saving import asleep, saved_of
from forkbed.engine.submission import Submission
from forkbed.engine.surroundings import Surroundings
from forkbed.engine.upgrade_goals import (
    DIFF_GOAL,
    MAINTENANCE_GOAL,
    PROMOTE_GOAL,
    REHEARSE_GOAL,
    REVERT_GOAL,
    DiffGoal,
    MaintenanceGoal,
    PromoteGoal,
    RehearseGoal,
    RevertGoal,
    Waking,
)
from forkbed.ports.store import SystemRecord

_NO_PREDICTION = FreezePrediction(0.0, 0.0, 0.0, 0.0, 0.0)


class UpgradeRequests:
    """Takes in what is asked of upgrades."""

    def __init__(
        self, around: Surroundings, options: Options, submission: Submission, branches: BranchRequests
    ) -> None:
        self._around = around
        self._host: Host = around.host
        self._store = around.store
        self._options = options
        self._submission = submission
        self._branches = branches

    def rehearse(
        self, system: str, bundle: StepsBundle, options: RehearseOptions, request: Request
    ) -> Operation:
        """Try steps on a fork of the system as it is now, or on two."""
        earlier = self._submission.same_request(request)
        if earlier is not None:
            return earlier
        record = self._submission.addressed(system, request)
        parsed = parse_steps(bundle, [machine.name for machine in record.resolved.machines])
        name = options.name or f"{record.name}-rehearsal-{self._options.draw_id(4)}"
        made = self._branches.new_forks(record, ForkOptions(name, count=2 if options.twice else 1), request)
        rehearsal = Rehearsal(
            id=RehearsalId(self._options.draw_id(10)),
            system_id=record.id,
            name=made.records[0].name,
            status=RehearsalStatus.RUNNING,
            steps=parsed.steps,
            declared=declaration_digest(record.resolved),
            revision=record.revision,
            created_at=self._host.clock.now(),
            requester=request.requester,
            fork_id=made.records[0].id,
            base_id=made.snapshot.id,
            twice=options.twice,
        )
        goal = RehearseGoal(rehearsal.id, made.snapshot.id, made.ids, record.up)
        with self._around.accepting:
            for data in parsed.files.values():
                self._host.contents.put(data)
            operation = self._submission.submit(
                OperationKind.REHEARSE,
                record.id,
                record.name,
                REHEARSE_GOAL.dump_python(goal, mode="json"),
                request,
                additions=replace(made.additions, rehearsal=rehearsal),
                other_systems=made.ids,
            )
        self._branches.tell_forked(record, made, operation, request)
        return operation

    def rehearsals(self, system: str) -> Sequence[Rehearsal]:
        """The system's rehearsals, oldest first."""
        return self._store.rehearsals(self._submission.record(system).id)

    def plan(self, name: str, options: PromoteOptions) -> PromotionPlan:
        """What `promote` would do; changes nothing."""
        rehearsal, record = self._rehearsal(name)
        prediction = rehearsal.prediction or _NO_PREDICTION
        hooks = has_hooks(record)
        refusal = self._refusal(rehearsal, record, options)
        steps = [
            *(["maintenance on: the manifest's hooks"] if hooks else []),
            f"cut {record.name}: all its machines stand still from here on",
            "restore them as the next generation, without a way out",
            *(f"step {step.name} on {step.machine}" for step in rehearsal.steps),
            *(f"check {check.machine}: {check.check}" for check in rehearsal.checks),
            "commit: from here on it only goes forward",
            "take networks' ways out and published ports from the old generation",
            "give them to the new one",
            *(["maintenance off: the manifest's hooks"] if hooks else []),
            "keep the old generation, paused, for a revert",
        ]
        return PromotionPlan(
            system=record.name,
            rehearsal=rehearsal.name,
            generation=self._next_generation(record),
            steps=tuple(steps),
            prediction=prediction,
            refusal=refusal.reason if refusal is not None else "",
            remedy=refusal.remedy if refusal is not None else "",
        )

    def promote(self, name: str, options: PromoteOptions, request: Request) -> Operation:
        """Replay a rehearsal on the system as it is now, and let the result take over."""
        earlier = self._submission.same_request(request)
        if earlier is not None:
            return earlier
        rehearsal, record = self._rehearsal(name)
        self._submission.check_match(record, record.name, request)
        refusal = self._refusal(rehearsal, record, options)
        if refusal is not None:
            raise refusal.error(name)
        generation = self._next_generation(record)
        made = self._branches.new_forks(
            record, ForkOptions(kept_name(record.name, generation)), request, internal=True
        )
        attempt = replace(made.records[0], generation=generation)
        goal = PromoteGoal(
            rehearsal_id=rehearsal.id,
            snapshot_id=made.snapshot.id,
            base_id=SnapshotId(self._options.draw_id(10)),
            attempt=attempt.id,
            up=record.up,
            max_freeze_s=options.max_freeze_s,
            keep_attempt=options.keep_attempt,
        )
        return self._submission.submit(
            OperationKind.PROMOTE,
            record.id,
            record.name,
            PROMOTE_GOAL.dump_python(goal, mode="json"),
            request,
            additions=replace(made.additions, systems=(attempt,)),
            other_systems=made.ids,
        )

    def revert(self, system: str, *, accept_loss: bool, request: Request) -> Operation:
        """Let the generation that was live before take over again."""
        earlier = self._submission.same_request(request)
        if earlier is not None:
            return earlier
        record = self._submission.addressed(system, request)
        kept = self._kept(record)
        if not kept:
            raise OperationalError(
                Kind.NOT_FOUND,
                f"system {system}",
                "has no earlier generation that is kept",
                f"`forkbed generations {system}` shows what there is",
            )
        newest = max(kept, key=lambda other: other.kept_at or 0.0)
        base_id = SnapshotId(self._options.draw_id(10))
        goal = RevertGoal(newest.id, newest.generation, base_id, accept_loss, self._waking(newest))
        return self._submission.submit(
            OperationKind.REVERT,
            record.id,
            record.name,
            REVERT_GOAL.dump_python(goal, mode="json"),
            request,
            other_systems=(newest.id,),
        )

    def _waking(self, kept: SystemRecord) -> Waking | None:
        """How the generation comes back if it is on the disk by then; CONFLICT if there is no room for it."""
        saved = saved_of(self._store, kept)
        if saved is None:
            return None
        if asleep(self._host, kept, saved):
            self._branches.check_room(f"generation {kept.generation}, {kept.name}", saved)
        draws = Draws(self._store.installation_id(), self._options.draw_id, self._options.draw_uuid)
        resolved = roll_back(
            kept.resolved, saved, draws, transit_pool=self._options.transit_pool, taken_transits=frozenset()
        )
        resolved = replace(resolved, revision=kept.revision)  # nothing new is declared
        return Waking(saved.id, resolved, waking_goal(saved, kept.resolved, resolved))

    def generations(self, system: str) -> Sequence[GenerationView]:
        """The live one first, then the newest."""
        record = self._submission.record(system)
        kept = sorted(self._kept(record), key=lambda other: -other.generation)
        return [self._generation(other) for other in (record, *kept)]

    def maintenance(self, system: str, *, on: bool, request: Request) -> Operation:
        """Run the manifest's hooks."""
        earlier = self._submission.same_request(request)
        if earlier is not None:
            return earlier
        record = self._submission.addressed(system, request)
        if not has_hooks(record):
            raise OperationalError(
                Kind.CONFLICT,
                f"system {system}",
                "has no maintenance hooks",
                "declare `maintenance: {on: […], off: […]}` of a machine in its manifest",
            )
        goal = MAINTENANCE_GOAL.dump_python(MaintenanceGoal(on), mode="json")
        return self._submission.submit(OperationKind.MAINTENANCE, record.id, record.name, goal, request)

    def diff(self, a: str, b: str, options: DiffOptions, request: Request) -> Operation:
        """Compare two related systems; `SYSTEM@SNAPSHOT` stands for what a snapshot keeps."""
        earlier = self._submission.same_request(request)
        if earlier is not None:
            return earlier
        left, left_snapshot = self._side(a)
        right, right_snapshot = self._side(b)
        family = {left.id, *left.resolved.lineage} & {right.id, *right.resolved.lineage}
        if not family:
            raise OperationalError(
                Kind.CONFLICT,
                f"{a} and {b}",
                "are not related, so they have nothing to be compared by",
                "`forkbed tree` shows what descends from what",
            )
        goal = DiffGoal(
            left.id,
            right.id,
            a,
            b,
            options.base,
            left_snapshot,
            right_snapshot,
            options.paths,
            options.texts,
            options.everything,
        )
        others = (right.id,) if right.id != left.id else ()
        return self._submission.submit(
            OperationKind.DIFF,
            left.id,
            left.name,
            DIFF_GOAL.dump_python(goal, mode="json"),
            request,
            other_systems=others,
        )

    def _side(self, name: str) -> tuple[SystemRecord, str]:
        """A system, or a snapshot of one."""
        found = self._store.system(name)
        if found is not None or "@" not in name:
            return found or self._submission.record(name), ""
        system, _, snapshot = name.partition("@")
        record = self._submission.record(system)
        return record, self._branches.find(record, snapshot).id

    def _rehearsal(self, name: str) -> tuple[Rehearsal, SystemRecord]:
        for rehearsal in reversed(self._store.rehearsals()):
            record = self._store.system_by_id(rehearsal.system_id)
            if rehearsal.name == name and record is not None:
                return rehearsal, record
        raise OperationalError(
            Kind.NOT_FOUND,
            f"rehearsal {name}",
            "is not known",
            "`forkbed rehearsals SYSTEM` shows what there is",
        )

    def _refusal(self, rehearsal: Rehearsal, record: SystemRecord, options: PromoteOptions) -> Refusal | None:
        refusal = promotion_refusal(rehearsal, record.resolved) or freeze_refusal(
            rehearsal, options.max_freeze_s
        )
        if refusal is not None:
            return refusal
        return None if alive_machines(self._host, record.resolved) else asleep_refusal(record.resolved)

    def _next_generation(self, record: SystemRecord) -> int:
        """One that no generation has or had, nor an attempt that failed and is still there."""
        numbers = [record.generation, *(other.generation for other in self._kept(record))]
        while kept_name(record.name, 1 + max(numbers)) in {other.name for other in self._store.systems()}:
            numbers.append(1 + max(numbers))
        return 1 + max(numbers)

    def _kept(self, record: SystemRecord) -> list[SystemRecord]:
        return [other for other in self._store.systems() if other.kept_of == record.id]

    def _generation(self, record: SystemRecord) -> GenerationView:
        sizes = self._host.volume_cuts.own_bytes()
        volumes = [volume.id for machine in record.resolved.machines for volume in machine.volumes]
        state, memory_bytes = self._whereabouts(record)
        return GenerationView(
            number=record.generation,
            state=state,
            name=record.name,
            since=record.kept_at or record.changed_at,
            expires_at=record.expires_at,
            own_bytes=sum(sizes.get(volume_id, 0) for volume_id in volumes),
            memory_bytes=memory_bytes,
            note=record.message,
        )

    def _whereabouts(self, record: SystemRecord) -> tuple[str, int]:
        """As of `GenerationView`: its state, and what its memory takes there."""
        if record.kept_of is None:
            return "live", 0
        alive = alive_machines(self._host, record.resolved)
        if alive:
            return "kept", sum(m.spec.memory_bytes for m in record.resolved.machines if m.id in alive)
        saved = saved_of(self._store, record)
        return ("stopped", 0) if saved is None else ("saved", saved.memory_bytes)
