"""The controller: what people and programs can ask for. Every change becomes an operation; asking is instant.

Thread-safe and synchronous. The HTTP API is a thin skin over it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import OperationId
from forkbed.core.operations.records import (
    Event,
    Operation,
    OperationKind,
    OperationStatus,
)
from forkbed.core.rehearsals.records import Rehearsal
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.core.systems.spec import ResolvedMachine
from forkbed.core.systems.view import Power, SystemView
from forkbed.engine.branch_options import ForkOptions, SnapshotOptions
from forkbed.engine.branch_requests import BranchRequests
from forkbed.engine.branch_runner import BRANCHING, BranchRunner
from forkbed.engine.branching import IntentView, SnapshotSummary, TreeNode
from forkbed.engine.description import Description
from forkbed.engine.dispatcher import Dispatcher, RunToEnd
from forkbed.engine.garbage import Garbage, take_back_unfinished
from forkbed.engine.image_requests import ImageRequests
from forkbed.engine.jobs import JOBS, Jobs
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
from forkbed.engine.runner import OperationRunner
from forkbed.engine.sidecars import mend_sidecars
from forkbed.engine.submission import Submission
from forkbed.engine.supervisor import Supervisor
from forkbed.engine.surroundings import Surroundings
from forkbed.engine.system_requests import SystemRequests
from forkbed.engine.upgrade_requests import UpgradeRequests
from forkbed.engine.upgrade_runner import UPGRADING, UpgradeRunner
from forkbed.ports.guests import CommandChannel, CommandRequest, GuestAddress
from forkbed.ports.hypervisor import ConsoleStream
from forkbed.ports.images import ImageView, RecipeBundle, TagMove
from forkbed.ports.progress import Silence
from forkbed.ports.store import SystemRecord

log = structlog.get_logger(__name__)


class Controller:
    """One installation on one host. `start` before use, `stop` at the end."""

    def __init__(self, around: Surroundings, options: Options) -> None:
        self._around = around
        self._options = options
        self._description = Description(around.host, around.store)
        self._garbage = Garbage(around.host, around.store, around.accepting)
        jobs = Jobs(around)
        runs: dict[OperationKind, RunToEnd] = dict.fromkeys(OperationKind, self._run_on_system)
        runs |= dict.fromkeys(JOBS, jobs.run)
        runs |= dict.fromkeys(BRANCHING, self._run_branching)
        runs |= dict.fromkeys(UPGRADING, self._run_upgrade)
        self.dispatcher = Dispatcher(around, runs)
        self._submission = Submission(around, options, self.dispatcher)
        self._systems = SystemRequests(around, options, self._submission)
        self._images = ImageRequests(around, self._submission)
        self._branches = BranchRequests(around, options, self._submission)
        self._upgrades = UpgradeRequests(around, options, self._submission, self._branches)
        self._lineage = Lineage(around.host, around.store, self._description)
        self.wanted_uploads: frozenset[Path] = frozenset()  # of imports that are resumed; set by `start`
        self.supervisor = Supervisor(
            around, options, self._submission.draw_operation_id, self.dispatcher.dispatch
        )

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
        return self._systems.plan(bundle, options)

    def up(self, bundle: ManifestBundle, options: UpOptions, request: Request) -> Operation:
        """Accept the manifest as a revision, if it differs, and bring the system to it."""
        return self._systems.up(bundle, options, request)

    def down(self, system: str, *, delete: bool, request: Request) -> Operation:
        """Stop the system's machines and remove its networks; with `delete` all of it, data included."""
        return self._systems.down(system, delete=delete, request=request)

    def power(
        self, system: str, machines: tuple[str, ...], action: PowerAction, *, force: bool, request: Request
    ) -> Operation:
        """Start, stop, restart, pause or resume the named machines, or all for an empty tuple."""
        return self._systems.power(system, machines, action, force=force, request=request)

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
        """The newest first, without their results."""
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

    def wait_change(
        self, operation_id: str, after: int, timeout_s: float, *, gather_s: float = 0.0
    ) -> tuple[int, OperationDetail]:
        """The operation as soon as its version is not `after`, but not before `gather_s`, or when time is up."""
        self._around.hub.wait_end(OperationId(operation_id), gather_s)
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
        """Remove an image that nothing stands on."""
        self._images.remove(ref, request)

    def image_tag(self, ref: str, name: str, request: Request) -> TagMove:
        """Make `NAME:CHANNEL` point at an image."""
        return self._images.tag(ref, name, request)

    def image_history(self, name: str) -> Sequence[TagMove]:
        """Every move of a name with its channel, or of all channels of a name, oldest first."""
        return self._around.host.images.history(name)

    def image_build(self, bundle: RecipeBundle, request: Request) -> Operation:
        """Build an image from a recipe."""
        return self._images.build(bundle, request)

    def image_import(self, path: Path, name: str, request: Request) -> Operation:
        """Take over an uploaded temporary file: the operation removes it, whatever its end."""
        return self._images.take_over(path, name, request)

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
