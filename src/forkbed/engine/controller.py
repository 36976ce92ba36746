"""The controller: what people and programs can ask for. Every change becomes an operation; asking is instant.

Thread-safe and synchronous. The HTTP API is a thin skin over it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import ImageId, MachineId, OperationId
from forkbed.core.operations.records import (
    Event,
    Operation,
    OperationKind,
    OperationStatus,
)
from forkbed.core.rehearsals.records import Rehearsal
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.core.systems.goal import Goal, Wanted
from forkbed.core.systems.planner import ALIVE, plan_system
from forkbed.core.systems.spec import ResolvedMachine
from forkbed.core.systems.status import restart_pending
from forkbed.core.systems.view import Power, SystemView
from forkbed.engine.acceptance import (
    Acceptance,
    Considered,
    check_refusals,
    describe_changes,
    image_ids,
    refusals,
)
from forkbed.engine.branch_requests import BranchRequests
from forkbed.engine.branch_runner import BranchRunner
from forkbed.engine.branching import ForkOptions, IntentView, SnapshotOptions, SnapshotSummary, TreeNode
from forkbed.engine.description import Description
from forkbed.engine.dispatcher import Dispatcher, RunToEnd
from forkbed.engine.garbage import Garbage, take_back_unfinished
from forkbed.engine.jobs import Jobs
from forkbed.engine.life import with_progress
from forkbed.engine.lineage import Lineage
from forkbed.engine.observation import observe, observe_all
from forkbed.engine.options import Options
from forkbed.engine.promoting import (
    DiffOptions,
    GenerationView,
    PromoteOptions,
    PromotionPlan,
    RehearseOptions,
    StepsBundle,
)
from forkbed.engine.requests import (
    GarbageReport,
    OperationDetail,
    PlanView,
    PowerAction,
    Request,
    RevisionSummary,
    SystemDetail,
    SystemSummary,
    UpOptions,
)
from forkbed.engine.runner import GOAL, OperationRunner
from forkbed.engine.sidecars import mend_sidecars, write_sidecars
from forkbed.engine.submission import Submission
from forkbed.engine.supervisor import Supervisor
from forkbed.engine.surroundings import Surroundings
from forkbed.engine.upgrade_requests import UpgradeRequests
from forkbed.engine.upgrade_runner import UpgradeRunner
from forkbed.ports.guests import CommandChannel, CommandRequest, GuestAddress
from forkbed.ports.hypervisor import ConsoleStream
from forkbed.ports.images import ImageView, RecipeBundle, TagMove
from forkbed.ports.progress import Silence
from forkbed.ports.store import Additions, RevisionRecord, SystemRecord

_ACTION_WANTED = {
    PowerAction.START: Wanted.RUNNING,
    PowerAction.RESTART: Wanted.RUNNING,
    PowerAction.RESUME: Wanted.RUNNING,
    PowerAction.STOP: Wanted.STOPPED,
    PowerAction.PAUSE: Wanted.PAUSED,
}


_BRANCHING = (
    OperationKind.SNAPSHOT,
    OperationKind.SNAPSHOT_DELETE,
    OperationKind.ROLLBACK,
    OperationKind.FORK,
    OperationKind.DISCARD,
    OperationKind.FOLD,
)

_UPGRADING = (
    OperationKind.REHEARSE,
    OperationKind.PROMOTE,
    OperationKind.REVERT,
    OperationKind.MAINTENANCE,
    OperationKind.DIFF,
)

log = structlog.get_logger(__name__)


class Controller:
    """One installation on one host. `start` before use, `stop` at the end."""

    def __init__(self, around: Surroundings, options: Options) -> None:
        self._around = around
        self._options = options
        self._acceptance = Acceptance(around.host, around.store, options)
        self._description = Description(around.host, around.store)
        self._garbage = Garbage(around.host, around.store, around.accepting)
        jobs = Jobs(around)
        runs: dict[OperationKind, RunToEnd] = dict.fromkeys(OperationKind, self._run_on_system)
        for kind in (
            OperationKind.IMAGE_BUILD,
            OperationKind.IMAGE_IMPORT,
            OperationKind.GARBAGE_COLLECTION,
        ):
            runs[kind] = jobs.run
        runs |= dict.fromkeys(_BRANCHING, self._run_branching)
        runs |= dict.fromkeys(_UPGRADING, self._run_upgrade)
        self.dispatcher = Dispatcher(around, runs)
        self._submission = Submission(around, options, self.dispatcher)
        self._branches = BranchRequests(around, options, self._submission)
        self._upgrades = UpgradeRequests(around, options, self._submission, self._branches)
        self._lineage = Lineage(around.host, around.store, self._description)
        self.wanted_uploads: frozenset[Path] = frozenset()  # of imports that are resumed; set by `start`
        self.supervisor = Supervisor(around, self._submission.draw_operation_id, self.dispatcher.dispatch)

    def start(self) -> None:
        """Resume what a controller before us left unfinished, and begin to watch."""
        try:
            self._around.host.cuts.recover()
            mend_sidecars(self._around.host, self._around.store)
            take_back_unfinished(self._around.host, self._around.store)
        except OperationalError as error:
            log.warning("not-all-mended", error=str(error))
        self.wanted_uploads = frozenset(
            Path(str(operation.goal["path"]))
            for operation in self._around.store.operations(active_only=True, limit=100_000)
            if operation.kind is OperationKind.IMAGE_IMPORT
        )
        self.dispatcher.dispatch()
        self.supervisor.start()

    def stop(self) -> None:
        """End. Operations under way are resumed by the next start; machines run on."""
        self.supervisor.stop()
        self.dispatcher.stop(timeout_s=5.0)

    def _run_on_system(self, operation: Operation, cancelled: threading.Event) -> None:
        OperationRunner(self._around, operation, cancelled).run()

    def _run_branching(self, operation: Operation, cancelled: threading.Event) -> None:
        BranchRunner(self._around, operation, cancelled).run()

    def _run_upgrade(self, operation: Operation, cancelled: threading.Event) -> None:
        UpgradeRunner(self._around, operation, cancelled).run()

    # systems

    def plan(self, bundle: ManifestBundle, options: UpOptions) -> PlanView:
        """What `up` would do with this manifest and these options; changes nothing."""
        considered = self._acceptance.consider(bundle)
        view = SystemView()
        if considered.before is not None:
            view = observe(self._around.host, self._around.store, considered.before.id)
        goal = self._up_goal(considered, options, view)
        plan = plan_system(considered.resolved, goal, view)
        return PlanView(
            system=considered.spec.name,
            revision=considered.resolved.revision,
            is_new_revision=considered.is_new,
            changes=considered.changes,
            steps=tuple(planned.key for planned in plan.steps),
            refusals=tuple(refusals(considered, options)),
            pending_restarts=tuple(
                machine.name
                for machine in considered.resolved.machines
                if not options.restart and restart_pending(considered.resolved, machine, view)
            ),
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
        record = self._submission.record(system)
        self._submission.check_match(record, system, request)
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
        record = self._submission.record(system)
        self._submission.check_match(record, system, request)
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

    def systems(self) -> Sequence[SystemSummary]:
        """All systems by name."""
        views = observe_all(self._around.host, self._around.store)
        return [
            self._description.summary(record, views.get(record.id) or SystemView())
            for record in self._around.store.systems()
            if record.kept_of is None
        ]

    def system(self, name: str, *, revision: int | None = None) -> SystemDetail:
        """Everything about one system."""
        record = self._submission.record(name)
        view = observe(self._around.host, self._around.store, record.id)
        return self._description.detail(record, view, revision)

    def history(self, name: str) -> Sequence[RevisionSummary]:
        """The accepted manifests of a system, oldest first."""
        return self._description.history(self._submission.record(name))

    # operations and events

    def operations(self, *, system: str | None, active_only: bool, limit: int) -> Sequence[Operation]:
        """The newest first."""
        system_id = self._submission.record(system).id if system is not None else None
        return self._around.store.operations(system_id=system_id, active_only=active_only, limit=limit)

    def operation(self, operation_id: str) -> OperationDetail:
        """An operation with its journal."""
        version = self._around.hub.version(OperationId(operation_id))
        operation = self._around.store.operation(OperationId(operation_id))
        if operation is None:
            raise OperationalError(
                Kind.NOT_FOUND,
                f"operation {operation_id}",
                "is not known",
                "`forkbed operations list` shows the latest",
            )
        journal = [
            with_progress(entry, self._around.hub) for entry in self._around.store.journal(operation.id)
        ]
        return OperationDetail(operation, tuple(journal), version)

    def cancel(self, operation_id: str, request: Request) -> Operation:
        """Ask an operation to end at the next point where stopping harms nothing."""
        detail = self.operation(operation_id)
        if detail.operation.status.ended:
            raise OperationalError(
                Kind.CONFLICT, f"operation {operation_id}", f"has ended already: {detail.operation.status}"
            )
        now = self._around.host.clock.now()
        operation = self._around.store.set_status(OperationId(operation_id), OperationStatus.CANCELLING, now)
        self._submission.tell(
            "operation.cancelling", detail.operation.subject, request, operation_id=operation.id
        )
        self._around.hub.touch(operation.id)
        self.dispatcher.dispatch()
        return operation

    def wait_change(self, operation_id: str, after: int, timeout_s: float) -> tuple[int, OperationDetail]:
        """The operation as soon as its version is not `after`, or when time is up."""
        self._around.hub.wait_operation(OperationId(operation_id), after, timeout_s)
        detail = self.operation(operation_id)
        return detail.version, detail

    def events(self, *, after: int, system: str | None, limit: int) -> Sequence[Event]:
        """Events with a sequence above `after`, oldest first."""
        return self._around.store.events(after=after, system=system or "", limit=limit)

    def wait_events(self, after: int, system: str | None, timeout_s: float) -> Sequence[Event]:
        """`events`, waiting for at least one; empty when time is up."""
        store = self._around.store
        self._around.hub.wait_events(lambda: store.last_event() > after, timeout_s)
        return self.events(after=after, system=system, limit=1000)

    # snapshots and forks

    def snapshot(self, system: str, options: SnapshotOptions, request: Request) -> Operation:
        """Keep the system as it is at one instant."""
        return self._branches.snapshot(system, options, request)

    def snapshots(self, system: str) -> Sequence[SnapshotSummary]:
        """The system's snapshots, oldest first."""
        return self._lineage.snapshots(self._submission.record(system))

    def snapshot_delete(self, system: str, name: str, request: Request) -> Operation:
        """Remove a snapshot; forks that were made of it go on."""
        return self._branches.snapshot_delete(system, name, request)

    def rollback(self, system: str, snapshot: str, request: Request) -> Operation:
        """Bring the system back to a snapshot; what it replaces is kept as another one."""
        return self._branches.rollback(system, snapshot, request)

    def fork(self, system: str, options: ForkOptions, request: Request) -> Operation:
        """Make forks of the system as it is now, or as it was at a snapshot."""
        return self._branches.fork(system, options, request)

    def discard(self, fork: str, request: Request) -> Operation:
        """Remove a fork with all that was written in it."""
        return self._branches.discard(fork, request)

    def tree(self, system: str | None) -> Sequence[TreeNode]:
        """What descends from what."""
        record = self._submission.record(system) if system is not None else None
        return self._lineage.tree(record)

    def intents(self, fork: str, *, after: int, limit: int) -> Sequence[IntentView]:
        """What a fork's machines tried to do to the world."""
        return self._lineage.intents(self._branches.fork_record(fork), after=after, limit=limit)

    def wait_intents(self, fork: str, after: int, timeout_s: float) -> Sequence[IntentView]:
        """`intents`, waiting for at least one."""
        return self._lineage.wait_intents(self._branches.fork_record(fork), after, timeout_s)

    def fold(self, system: str, request: Request) -> Operation:
        """Shorten the chains of the system's volumes."""
        return self._branches.fold(system, request)

    # upgrades

    def rehearse(
        self, system: str, steps: StepsBundle, options: RehearseOptions, request: Request
    ) -> Operation:
        """Try steps on a fork of the system as it is now."""
        return self._upgrades.rehearse(system, steps, options, request)

    def rehearsals(self, system: str) -> Sequence[Rehearsal]:
        """The system's rehearsals, oldest first."""
        return self._upgrades.rehearsals(system)

    def diff(self, a: str, b: str, options: DiffOptions, request: Request) -> Operation:
        """Compare two related systems."""
        return self._upgrades.diff(a, b, options, request)

    def promotion_plan(self, rehearsal: str, options: PromoteOptions) -> PromotionPlan:
        """What `promote` would do."""
        return self._upgrades.plan(rehearsal, options)

    def promote(self, rehearsal: str, options: PromoteOptions, request: Request) -> Operation:
        """Let a rehearsed upgrade take over."""
        return self._upgrades.promote(rehearsal, options, request)

    def revert(self, system: str, *, accept_loss: bool, request: Request) -> Operation:
        """Let the generation that was live before take over again."""
        return self._upgrades.revert(system, accept_loss=accept_loss, request=request)

    def generations(self, system: str) -> Sequence[GenerationView]:
        """The live one first, then the newest."""
        return self._upgrades.generations(system)

    def maintenance(self, system: str, *, on: bool, request: Request) -> Operation:
        """Run the manifest's maintenance hooks."""
        return self._upgrades.maintenance(system, on=on, request=request)

    # images

    def images(self) -> Sequence[ImageView]:
        """All images, newest first."""
        return self._around.host.images.images()

    def image(self, ref: str) -> ImageView:
        """One image by name, channel or the beginning of its id."""
        return self._around.host.images.resolve(ref)

    def image_remove(self, ref: str, request: Request) -> None:
        """Remove an image that no revision in force stands on."""
        with self._around.accepting:  # a manifest that is being accepted may name it
            image = self._around.host.images.resolve(ref)
            in_use = {
                image_id for record in self._around.store.systems() for image_id in image_ids(record.resolved)
            }
            in_use |= {
                image_id
                for snapshot in self._around.store.snapshots()
                for image_id in image_ids(snapshot.resolved)
            }
            in_use |= {
                ImageId(volume.backing) for volume in self._around.host.volumes.volumes() if volume.backing
            }
            self._around.host.images.remove(image.id, in_use)
        self._submission.tell("image.removed", ref, request)

    def image_tag(self, ref: str, name: str, request: Request) -> TagMove:
        """Make `NAME:CHANNEL` point at an image."""
        image = self._around.host.images.resolve(ref)
        now = self._around.host.clock.now()
        move = self._around.host.images.tag(image.id, name, request.requester.account, now)
        self._submission.tell("image.tagged", move.name, request)
        return move

    def image_history(self, name: str) -> Sequence[TagMove]:
        """Every move of a name with its channel, or of all channels of a name, oldest first."""
        return self._around.host.images.history(name)

    def image_build(self, bundle: RecipeBundle, request: Request) -> Operation:
        """Build an image from a recipe."""
        contents = self._around.host.contents
        with self._around.accepting:
            goal: dict[str, object] = {
                "file_name": bundle.file_name,
                "text": bundle.text,
                "files": {path: contents.put(data) for path, data in bundle.files.items()},
            }
            return self._submission.submit(OperationKind.IMAGE_BUILD, None, bundle.file_name, goal, request)

    def image_import(self, path: Path, name: str, request: Request) -> Operation:
        """Take over an uploaded temporary file: the operation removes it, whatever its end."""
        goal: dict[str, object] = {"path": str(path), "name": name}
        return self._submission.submit(OperationKind.IMAGE_IMPORT, None, name, goal, request)

    def image_export(self, ref: str, format: str, target: Path) -> None:  # noqa: A002
        """Write the image to `target`, which does not exist yet, as "qcow2" or "raw"."""
        image = self._around.host.images.resolve(ref)
        self._around.host.images.export(image.id, target, format, Silence())

    # guests

    def open_command(self, system: str, machine: str, request: CommandRequest) -> CommandChannel:
        """Run a command in a guest."""
        record = self._submission.record(system)
        resolved = self._submission.machine(record, machine)
        self._check_runs(record, resolved, Power.RUNNING)
        networks = tuple(record.resolved.network(nic.network_id) for nic in resolved.nics)
        return self._around.host.guests.open_command(GuestAddress(resolved, networks), request)

    def open_console(self, system: str, machine: str) -> ConsoleStream:
        """The serial console of a running guest."""
        record = self._submission.record(system)
        resolved = self._submission.machine(record, machine)
        self._check_runs(record, resolved, Power.RUNNING, Power.PAUSED)
        return self._around.host.hypervisor.open_console(resolved.id)

    def console_log(self, system: str, machine: str, tail_bytes: int | None) -> bytes:
        """What a guest wrote to its serial console."""
        resolved = self._submission.machine(self._submission.record(system), machine)
        return self._around.host.hypervisor.console_log(resolved.id, tail_bytes=tail_bytes)

    # the rest

    def garbage(self, *, dry_run: bool, request: Request) -> GarbageReport:
        """What nothing needs; unless it is a dry run, an operation begins to remove it."""
        items = self._garbage.find()
        if dry_run or not items:
            return GarbageReport(items)
        operation = self._submission.submit(OperationKind.GARBAGE_COLLECTION, None, "garbage", {}, request)
        return GarbageReport(items, operation)

    def about(self) -> Mapping[str, object]:
        """Version, installation, host and hypervisor."""
        return {
            **self._options.about,
            "installation": self._around.store.installation_id(),
            "host": self._around.host.name,
            **self._around.host.hypervisor.description(),
        }

    # within

    def _check_runs(self, record: SystemRecord, machine: ResolvedMachine, *allowed: Power) -> None:
        view = observe(self._around.host, self._around.store, record.id)
        power = view.machine(machine.id).power
        if power in allowed:
            return
        name = f"{record.name}/{machine.name}"
        action = "resume" if power is Power.PAUSED else "start"
        raise OperationalError(
            Kind.CONFLICT,
            f"machine {name}",
            f"does not run: it is {power}",
            f"`forkbed {action} {name}`",
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
