"""Accept requests for snapshots, forks and rollbacks: check, decide what is made, store it with its operation."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId, SnapshotId, SystemId, is_name
from forkbed.base.units import format_size
from forkbed.core.operations.records import Operation, OperationKind
from forkbed.core.snapshots.records import Snapshot, SnapshotKind, SnapshotStatus
from forkbed.core.systems.branch import Draws, fork_system, roll_back, rollback_goal
from forkbed.core.systems.goal import Wanted
from forkbed.core.systems.planner import ALIVE
from forkbed.core.systems.spec import ResolvedSystem
from forkbed.engine.acceptance import published_elsewhere
from forkbed.engine.branch_goals import (
    FOLD_GOAL,
    FORK_GOAL,
    ROLLBACK_GOAL,
    SNAPSHOT_GOAL,
    FoldGoal,
    ForkGoal,
    RollbackGoal,
    SnapshotGoal,
)
from forkbed.engine.branch_options import ForkOptions, SnapshotOptions
from forkbed.engine.cutting import alive_machines, check_cuttable
from forkbed.engine.folding import SHORTEST
from forkbed.engine.options import Options
from forkbed.engine.requests import Request
from forkbed.engine.saving import SAVED, saved_of
from forkbed.engine.submission import Submission
from forkbed.engine.surroundings import Surroundings
from forkbed.ports.store import Additions, RevisionRecord, SystemRecord

LARGEST_COUNT = 16
_MACHINE_OVERHEAD_BYTES = 64 * 1024**2  # what QEMU takes for itself
_SYSTEM_LINE = re.compile(r"^system[ \t]*:.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class NewForks:
    """Forks that are to be made of a snapshot, which is made for them if it is their `own_cut`."""

    snapshot: Snapshot
    records: tuple[SystemRecord, ...]
    revisions: tuple[RevisionRecord, ...]
    own_cut: bool

    @property
    def ids(self) -> tuple[SystemId, ...]:
        return tuple(record.id for record in self.records)

    @property
    def additions(self) -> Additions:
        """What is stored with the operation that makes them."""
        return Additions(self.records, self.revisions, self.snapshot if self.own_cut else None)


class BranchRequests:
    """Takes in what is asked of snapshots and forks."""

    def __init__(self, around: Surroundings, options: Options, submission: Submission) -> None:
        self._around = around
        self._options = options
        self._submission = submission

    def snapshot(self, system: str, options: SnapshotOptions, request: Request) -> Operation:
        """Keep the system as it is at one instant."""
        earlier = self._submission.same_request(request)
        if earlier is not None:
            return earlier
        record = self._submission.addressed(system, request)
        kind = SnapshotKind.DISKS if options.disks_only else SnapshotKind.LIVE
        check_cuttable(self._around.host, record, memory=kind is SnapshotKind.LIVE)
        snapshot = self._new_snapshot(record, options.name or f"at-{self._now_in_words()}", kind, request)
        snapshot = replace(snapshot, message=options.message, expires_at=self._expiry(options.expires_in_s))
        goal = SNAPSHOT_GOAL.dump_python(SnapshotGoal(snapshot.id), mode="json")
        return self._submission.submit(
            OperationKind.SNAPSHOT,
            record.id,
            record.name,
            goal,
            request,
            additions=Additions(snapshot=snapshot),
        )

    def snapshot_delete(self, system: str, name: str, request: Request) -> Operation:
        """Remove a snapshot; forks that were made of it go on."""
        earlier = self._submission.same_request(request)
        if earlier is not None:
            return earlier
        record = self._submission.record(system)
        found = self.find(record, name)
        if record.kept_of is not None and saved_of(self._around.store, record) == found:
            raise OperationalError(
                Kind.CONFLICT,
                f"snapshot {system}@{name}",
                "is what the kept generation goes on from when somebody reverts to it",
                f"`forkbed discard {system}` gives the generation up, and this with it",
            )
        goal = SNAPSHOT_GOAL.dump_python(SnapshotGoal(found.id), mode="json")
        return self._submission.submit(OperationKind.SNAPSHOT_DELETE, record.id, record.name, goal, request)

    def fork(self, system: str, options: ForkOptions, request: Request) -> Operation:
        """Make forks of the system as it is now, or as it was at a snapshot."""
        earlier = self._submission.same_request(request)
        if earlier is not None:
            return earlier
        record = self._submission.addressed(system, request)
        made = self.new_forks(record, options, request)
        goal = ForkGoal(made.snapshot.id, not options.at, made.ids, options.cold, record.up)
        operation = self._submission.submit(
            OperationKind.FORK,
            record.id,
            record.name,
            FORK_GOAL.dump_python(goal, mode="json"),
            request,
            additions=made.additions,
            other_systems=made.ids,
        )
        self.tell_forked(record, made, operation, request)
        return operation

    def new_forks(
        self, record: SystemRecord, options: ForkOptions, request: Request, *, internal: bool = False
    ) -> NewForks:
        """What is to be stored of forks that may be made. With `internal` the name is Forkbed's own choice."""
        if options.at:
            names = self._fork_names(options)
            snapshot = self.find(record, options.at)
            running = _alive_in(snapshot)
        else:
            running = check_cuttable(self._around.host, record, memory=not options.cold)
            names = [options.name] if internal else self._fork_names(options)
            kind = SnapshotKind.DISKS if options.cold else SnapshotKind.LIVE
            snapshot = replace(
                self._new_snapshot(record, f"cut-{self._options.draw_id(6)}", kind, request), automatic=True
            )
        self._check_room(f"fork of system {record.name}", snapshot, running, options.count)
        forks = [fork_system(snapshot, name, self._draws(), own_cut=not options.at) for name in names]
        return NewForks(
            snapshot,
            tuple(self._fork_record(fork, options) for fork in forks),
            tuple(self._fork_revision(record, snapshot, fork, request) for fork in forks),
            own_cut=not options.at,
        )

    def tell_forked(
        self, record: SystemRecord, made: NewForks, operation: Operation, request: Request
    ) -> None:
        """Who may fork may read everything the original holds, its secrets too: so it is written down."""
        for fork in made.records:
            self._submission.tell(
                "system.forked",
                record.name,
                request,
                operation_id=operation.id,
                system=record.name,
                fork=fork.name,
            )

    def discard(self, fork: str, request: Request) -> Operation:
        """Remove a fork with all that was written in it."""
        earlier = self._submission.same_request(request)
        if earlier is not None:
            return earlier
        record = self.fork_record(fork, f"`forkbed down {fork} --delete` removes a system with its data; ")
        self._submission.check_match(record, fork, request)
        return self._submission.submit(OperationKind.DISCARD, record.id, record.name, {}, request)

    def rollback(self, system: str, snapshot: str, request: Request) -> Operation:
        """Bring the system back to a snapshot; what it replaces is kept as another one."""
        earlier = self._submission.same_request(request)
        if earlier is not None:
            return earlier
        record = self._submission.addressed(system, request)
        target = self.find(record, snapshot)
        runs = bool(alive_machines(self._around.host, record.resolved))
        check_cuttable(self._around.host, record, memory=runs)
        kept = replace(
            self._new_snapshot(
                record,
                f"before-rollback-{self._now_in_words()}",
                SnapshotKind.LIVE if runs else SnapshotKind.DISKS,
                request,
            ),
            automatic=True,
            message=f"what a rollback to {target.name} replaced",
        )
        revision = self._rollback_revision(record, target, request)
        goal = RollbackGoal(
            target.id,
            kept.id,
            revision,
            rollback_goal(target, record.resolved, revision.resolved, up=record.up),
        )
        return self._submission.submit(
            OperationKind.ROLLBACK,
            record.id,
            record.name,
            ROLLBACK_GOAL.dump_python(goal, mode="json"),
            request,
            additions=Additions(snapshot=kept),
        )

    def fold(self, system: str, request: Request) -> Operation:
        """Shorten the chains of the system's volumes."""
        earlier = self._submission.same_request(request)
        if earlier is not None:
            return earlier
        record = self._submission.record(system)
        goal = FOLD_GOAL.dump_python(FoldGoal(SHORTEST), mode="json")
        return self._submission.submit(OperationKind.FOLD, record.id, record.name, goal, request)

    def fork_record(self, name: str, instead: str = "") -> SystemRecord:
        """The fork of that name; CONFLICT for a system that is none, with what to do `instead`."""
        record = self._submission.record(name)
        if record.resolved.origin is None:
            raise OperationalError(
                Kind.CONFLICT,
                f"system {name}",
                "is no fork",
                f"{instead}`forkbed tree` shows the forks",
            )
        return record

    # what is made

    def _new_snapshot(
        self, record: SystemRecord, name: str, kind: SnapshotKind, request: Request
    ) -> Snapshot:
        if not is_name(name):
            raise OperationalError(
                Kind.INVALID,
                f"snapshot {name}",
                "cannot be called that",
                "small letters, digits and dashes, beginning with a letter, at most 63",
            )
        if record.kept_of is not None and name == SAVED:
            raise OperationalError(
                Kind.INVALID,
                f"snapshot {name}",
                "is what Forkbed calls that which it saves of a kept generation",
                "choose another name",
            )
        return Snapshot(
            id=SnapshotId(self._options.draw_id(10)),
            system_id=record.id,
            name=name,
            kind=kind,
            status=SnapshotStatus.MAKING,
            resolved=record.resolved,
            created_at=self._around.host.clock.now(),
            requester=request.requester,
        )

    def _now_in_words(self) -> str:
        return time.strftime("%Y%m%d-%H%M%S", time.gmtime(self._around.host.clock.now()))

    def _expiry(self, expires_in_s: float | None) -> float | None:
        return None if expires_in_s is None else self._around.host.clock.now() + expires_in_s

    def find(self, record: SystemRecord, name: str) -> Snapshot:
        """The system's complete snapshot of that name."""
        for snapshot in self._around.store.snapshots(record.id):
            if snapshot.name == name and snapshot.status is SnapshotStatus.COMPLETE:
                return snapshot
        raise OperationalError(
            Kind.NOT_FOUND,
            f"snapshot {record.name}@{name}",
            "is not known",
            f"`forkbed snapshots {record.name}` shows what is there",
        )

    def _draws(self) -> Draws:
        return Draws(self._around.store.installation_id(), self._options.draw_id, self._options.draw_uuid)

    def _fork_names(self, options: ForkOptions) -> list[str]:
        if not 1 <= options.count <= LARGEST_COUNT:
            raise OperationalError(
                Kind.INVALID, "count", f"is {options.count}", f"1 to {LARGEST_COUNT} forks at a time"
            )
        names = [options.name]
        if options.count > 1:
            names = [f"{options.name}-{number}" for number in range(1, options.count + 1)]
        for name in names:
            if not is_name(name):
                raise OperationalError(
                    Kind.INVALID,
                    f"fork {name}",
                    "cannot be called that",
                    "small letters, digits and dashes, beginning with a letter, at most 63",
                )
            if self._around.store.system(name) is not None:
                raise OperationalError(
                    Kind.CONFLICT, f"system {name}", "exists already", "choose another name for the fork"
                )
        return names

    def check_room(self, subject: str, snapshot: Snapshot) -> None:
        """CONFLICT if the host's memory has no room for what the snapshot brings back."""
        self._check_room(subject, snapshot, _alive_in(snapshot), 1)

    def _check_room(
        self, subject: str, snapshot: Snapshot, running: frozenset[MachineId], count: int
    ) -> None:
        """Refuse what does not fit, before anything stands still for it."""
        needed = count * sum(
            machine.spec.memory_bytes + _MACHINE_OVERHEAD_BYTES
            for machine in snapshot.resolved.machines
            if machine.id in running
        )
        available = self._around.host.capacity.available_memory_bytes()
        if needed > available:
            raise OperationalError(
                Kind.CONFLICT,
                subject,
                f"needs {format_size(needed)} of memory; the host has {format_size(available)} left",
                "stop or discard something" + (", or make fewer forks" if count > 1 else ""),
            )

    def _fork_record(self, fork: ResolvedSystem, options: ForkOptions) -> SystemRecord:
        now = self._around.host.clock.now()
        return SystemRecord(
            id=fork.id,
            name=fork.name,
            resolved=fork,
            wanted={machine.name: Wanted.STOPPED for machine in fork.machines},
            up=False,
            created_at=now,
            changed_at=now,
            message=options.message,
            expires_at=self._expiry(options.expires_in_s),
        )

    def _fork_revision(
        self, record: SystemRecord, snapshot: Snapshot, fork: ResolvedSystem, request: Request
    ) -> RevisionRecord:
        """The first revision of a fork: the original's manifest under the fork's name."""
        source = self._revisions(record)[snapshot.resolved.revision]
        return replace(
            source,
            system_id=fork.id,
            number=1,
            accepted_at=self._around.host.clock.now(),
            requester=request.requester,
            text=_SYSTEM_LINE.sub(f"system: {fork.name}", source.text, count=1),
            spec=fork.spec,
            resolved=fork,
            changes=(f"fork of {record.name}",),
        )

    def _rollback_revision(self, record: SystemRecord, target: Snapshot, request: Request) -> RevisionRecord:
        """The system's next revision: as it was declared at the snapshot."""
        others = [other for other in self._around.store.systems() if other.id != record.id]
        clashes = list(published_elsewhere(target.resolved.spec, others))
        if clashes:
            raise OperationalError(
                Kind.CONFLICT,
                f"system {record.name}",
                f"cannot go back to {target.name}: {clashes[0].wrong}",
                "take the other one's published port away first",
            )
        taken = {
            network.transit
            for other in others
            for network in other.resolved.networks
            if network.transit is not None
        }
        resolved = roll_back(
            record.resolved,
            target,
            self._draws(),
            transit_pool=self._options.transit_pool,
            taken_transits=frozenset(taken),
        )
        source = self._revisions(record)[target.resolved.revision]
        return replace(
            source,
            number=resolved.revision,
            accepted_at=self._around.host.clock.now(),
            requester=request.requester,
            resolved=resolved,
            changes=(f"rolled back to snapshot {target.name} of revision {target.resolved.revision}",),
        )

    def _revisions(self, record: SystemRecord) -> Mapping[int, RevisionRecord]:
        return {revision.number: revision for revision in self._around.store.revisions(record.id)}


def _alive_in(snapshot: Snapshot) -> frozenset[MachineId]:
    return frozenset(cut.machine_id for cut in snapshot.machines if cut.power in ALIVE)
