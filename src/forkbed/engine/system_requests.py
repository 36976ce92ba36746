"""Accept requests for whole systems: check a manifest, store its revision, decide what is wanted of the machines."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId
from forkbed.core.operations.records import Operation, OperationKind
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.core.systems.goal import Goal, Wanted
from forkbed.core.systems.planner import ALIVE, plan_system
from forkbed.core.systems.spec import ResolvedMachine
from forkbed.core.systems.status import as_it_runs, restart_pending
from forkbed.core.systems.view import SystemView
from forkbed.engine.acceptance import (
    Acceptance,
    Considered,
    check_refusals,
    describe_changes,
    refusals,
)
from forkbed.engine.observation import observe
from forkbed.engine.options import Options
from forkbed.engine.requests import PlanView, PowerAction, Request, UpOptions
from forkbed.engine.runner import GOAL
from forkbed.engine.sidecars import write_sidecars
from forkbed.engine.submission import Submission
from forkbed.engine.surroundings import Surroundings
from forkbed.ports.store import Additions, RevisionRecord, SystemRecord

_ACTION_WANTED = {
    PowerAction.START: Wanted.RUNNING,
    PowerAction.RESTART: Wanted.RUNNING,
    PowerAction.RESUME: Wanted.RUNNING,
    PowerAction.STOP: Wanted.STOPPED,
    PowerAction.PAUSE: Wanted.PAUSED,
}


class SystemRequests:
    """Takes in what is asked of systems and their machines."""

    def __init__(self, around: Surroundings, options: Options, submission: Submission) -> None:
        self._around = around
        self._acceptance = Acceptance(around.host, around.store, options)
        self._submission = submission

    def plan(self, bundle: ManifestBundle, options: UpOptions) -> PlanView:
        """What `up` would do with this manifest and these options; changes nothing."""
        considered = self._acceptance.consider(bundle)
        view = SystemView()
        if considered.before is not None:
            view = observe(self._around.host, self._around.store, considered.before.id)
        goal = self._up_goal(considered, options, view)
        plan = plan_system(considered.resolved, goal, view)
        waiting = tuple(
            machine.name
            for machine in considered.resolved.machines
            if restart_pending(considered.resolved, machine, view)
        )
        return PlanView(
            system=considered.spec.name,
            revision=considered.resolved.revision,
            is_new_revision=considered.is_new,
            changes=as_it_runs(considered.changes, considered.resolved, waiting),
            steps=tuple(planned.key for planned in plan.steps),
            refusals=tuple(refusals(considered, options)),
            pending_restarts=() if options.restart else waiting,
        )

    def up(self, bundle: ManifestBundle, options: UpOptions, request: Request) -> Operation:
        """Accept the manifest as a revision, if it differs, and bring the system to it."""
        # two people at once: the second is considered against what the first has stored
        with self._around.accepting:
            earlier = self._submission.same_request(request)
            if earlier is not None:
                return earlier
            considered = self._acceptance.consider(bundle)
            self._submission.check_match(considered.before, considered.spec.name, request)
            check_refusals(considered, options)
            view = observe(self._around.host, self._around.store, considered.resolved.id)
            goal = self._up_goal(considered, options, view)
            now = self._around.host.clock.now()
            record = SystemRecord(
                id=considered.resolved.id,
                name=considered.spec.name,
                resolved=considered.resolved,
                wanted=considered.before.wanted if considered.before else {},
                up=considered.before.up if considered.before else False,
                created_at=considered.before.created_at if considered.before else now,
                changed_at=now,
            )
            revision = self._revision(considered, request, now) if considered.is_new else None
            operation = self._submit(OperationKind.UP, record, record.name, goal, request, revision=revision)
            if revision is not None:
                write_sidecars(self._around.host, self._around.store, record)
            return operation

    def down(self, system: str, *, delete: bool, request: Request) -> Operation:
        """Stop the system's machines and remove its networks; with `delete` all of it, data included."""
        earlier = self._submission.same_request(request)
        if earlier is not None:
            return earlier
        record = self._submission.addressed(system, request)
        wanted = {machine.name: Wanted.STOPPED for machine in record.resolved.machines}
        goal = Goal(wanted, networks=False, delete=delete)
        return self._submit(OperationKind.DOWN, record, record.name, goal, request)

    def power(
        self, system: str, machines: tuple[str, ...], action: PowerAction, *, force: bool, request: Request
    ) -> Operation:
        """Start, stop, restart, pause or resume the named machines, or all for an empty tuple."""
        earlier = self._submission.same_request(request)
        if earlier is not None:
            return earlier
        record = self._submission.addressed(system, request)
        chosen = [self._submission.machine(record, name) for name in machines] or list(
            record.resolved.machines
        )
        view = observe(self._around.host, self._around.store, record.id)
        self._check_power(record, chosen, action, view)
        wanted = {machine.name: _ACTION_WANTED[action] for machine in chosen}
        boots: dict[MachineId, str] = {}
        if action is PowerAction.RESTART:
            boots = {m.id: view.machine(m.id).boot_id for m in chosen if view.machine(m.id).boot_id}
        goal = Goal(
            wanted,
            networks=record.up or action in (PowerAction.START, PowerAction.RESTART),
            end_boots=boots,
            stop_timeout_s=0.0 if force else 60.0,
        )
        subject = record.name if not machines else f"{record.name}/{','.join(machines)}"
        return self._submit(OperationKind.POWER, record, subject, goal, request)

    def _check_power(
        self,
        record: SystemRecord,
        chosen: Sequence[ResolvedMachine],
        action: PowerAction,
        view: SystemView,
    ) -> None:
        """Only what runs can be paused or resumed."""
        if action not in (PowerAction.PAUSE, PowerAction.RESUME):
            return
        off = [machine.name for machine in chosen if view.machine(machine.id).power not in ALIVE]
        if off:
            raise OperationalError(
                Kind.CONFLICT,
                f"system {record.name}",
                f"cannot {action} what does not run: {', '.join(off)}",
                f"`forkbed start {record.name}` starts it",
            )

    def _up_goal(self, considered: Considered, options: UpOptions, view: SystemView) -> Goal:
        """Everything running; what gives up data by name is also restarted, or the old disk stays in use."""
        given_up = {name.partition("/")[0] for name in options.destroy}
        losing = {change.subject.removeprefix("machine ") for change in considered.changes if change.loses}
        boots = {
            machine.id: boot_id
            for machine in considered.resolved.machines
            if machine.name in given_up & losing and (boot_id := view.machine(machine.id).boot_id)
        }
        return Goal(
            {machine.name: Wanted.RUNNING for machine in considered.resolved.machines},
            may_restart=options.restart,
            may_destroy=options.destroy,
            end_boots=boots,
        )

    def _revision(self, considered: Considered, request: Request, now: float) -> RevisionRecord:
        """The record of an accepted manifest; its files and secrets are stored when this returns."""
        contents = self._around.host.contents
        files = {path: contents.put(data) for path, data in considered.bundle.files.items()}
        for data in considered.parsed.files.values():
            contents.put(data)
        for machine in considered.spec.machines:
            for secret in machine.secrets:
                contents.put_secret(secret.version, considered.parsed.secrets[secret.name])
        return RevisionRecord(
            system_id=considered.resolved.id,
            number=considered.resolved.revision,
            accepted_at=now,
            requester=request.requester,
            file_name=considered.bundle.file_name,
            text=considered.bundle.text,
            variables=considered.bundle.variables,
            files=files,
            digest=hashlib.sha256(considered.bundle.text.encode()).hexdigest()[:16],
            spec=considered.spec,
            resolved=considered.resolved,
            changes=describe_changes(considered.changes),
        )

    def _submit(
        self,
        kind: OperationKind,
        record: SystemRecord,
        subject: str,
        goal: Goal,
        request: Request,
        *,
        revision: RevisionRecord | None = None,
    ) -> Operation:
        additions = Additions(
            systems=(record,) if kind is OperationKind.UP else (),
            revisions=(revision,) if revision is not None else (),
        )
        document = GOAL.dump_python(goal, mode="json")
        return self._submission.submit(kind, record.id, subject, document, request, additions=additions)
