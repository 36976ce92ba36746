"""A controller in memory that implements `ControllerApi` with one system, `boss-ops`, the forks and
rehearsals made of it, and one image.

Its operations go where the test pushes them (`advance`), so that following, resuming and waiting are exact.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import ImageId, OperationId, SystemId
from forkbed.core.operations.records import (
    Event,
    JournalEntry,
    Operation,
    OperationKind,
    OperationStatus,
    Requester,
    StepStatus,
)
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.engine.requests import (
    ChangeKind,
    ChangeView,
    FieldChange,
    GarbageItem,
    GarbageReport,
    MachineDetail,
    NetworkDetail,
    OperationDetail,
    PlanView,
    PowerAction,
    ReasonLine,
    Request,
    RevisionSummary,
    SystemDetail,
    SystemSummary,
    UpOptions,
)
from forkbed.ports.guests import CommandRequest
from forkbed.ports.images import ImageView, RecipeBundle, TagMove
from tests.unit.api.fake_branching import FakeBranching
from tests.unit.api.fake_promoting import FakePromoting
from tests.unit.api.guest import EchoConsole, LocalCommand

IMAGE_ID = ImageId("b" * 64)
ROOT = Requester(0, "root", "forkbed up system.yaml")
PLAN = PlanView(
    system="boss-ops",
    revision=4,
    is_new_revision=True,
    changes=(
        ChangeView(ChangeKind.CREATE, "machine ops", (FieldChange("memory", "", "256 MiB"),)),
        ChangeView(
            ChangeKind.CHANGE, "machine boss", (FieldChange("memory", "256 MiB", "512 MiB"),), needs="restart"
        ),
        ChangeView(ChangeKind.REMOVE, "machine old", needs="destroy", loses=("old/root (2 GiB)",)),
        ChangeView(ChangeKind.KEEP, "network control"),
    ),
    steps=("define ops", "start ops", "stop boss", "start boss"),
    refusals=("machine boss: memory needs a restart; add --restart",),
)


class FakeController(FakeBranching, FakePromoting):
    """See the module. Writes append to `calls` what they were asked."""

    def __init__(self, guest_directory: Path) -> None:
        super().__init__()
        self.calls: list[tuple[str, object]] = []
        self.commands: list[LocalCommand] = []
        self.consoles: list[EchoConsole] = []
        self.machine_notice = ""
        self.error: OperationalError | None = None
        self.imported = b""
        self.log = b"booting\n"
        self.auto_succeed = True
        self._guest_directory = guest_directory
        self._changed = threading.Condition()
        self._details: dict[str, OperationDetail] = {}
        self._by_key: dict[str, str] = {}
        self._events: list[Event] = []

    # what tests do to it

    def advance(
        self,
        operation_id: str,
        *,
        status: OperationStatus | None = None,
        step: tuple[str, str, StepStatus, str] | None = None,
        error: OperationalError | None = None,
    ) -> None:
        """Change an operation: its status, and one step (verb, subject, status, message)."""
        with self._changed:
            detail = self._details[operation_id]
            operation, journal = detail.operation, list(detail.journal)
            if status is not None:
                operation = replace(
                    operation,
                    status=status,
                    ended_at=time.time() if status.ended else None,
                    error=error.as_dict() if error else None,
                )
            if step is not None:
                verb, subject, state, message = step
                key = f"{verb} {subject}"
                sequence = next((e.sequence for e in journal if e.key == key), len(journal) + 1)
                entry = JournalEntry(
                    sequence, operation.id, key, verb, subject, "local", state, 1000.0, message=message
                )
                journal[sequence - 1 :] = [entry, *journal[sequence:]]
            self._details[operation_id] = OperationDetail(operation, tuple(journal), detail.version + 1)
            self._changed.notify_all()

    def happen(self, kind: str, system: str = "boss-ops", **attributes: object) -> None:
        """Add an event."""
        with self._changed:
            number = len(self._events) + 1
            self._events.append(Event(number, 1000.0 + number, kind, system, "boss", "", attributes))
            self._changed.notify_all()

    # the facade

    def plan(self, bundle: ManifestBundle, options: UpOptions) -> PlanView:
        self._note("plan", (bundle, options))
        if "broken" in bundle.text:
            raise OperationalError(
                Kind.INVALID,
                bundle.file_name,
                "2 errors in the manifest",
                "correct them and try again",
                details=(f"{bundle.file_name}:3:5: machines.boss.cpu: unknown key; did you mean cpus?",) * 2,
            )
        return PLAN

    def up(self, bundle: ManifestBundle, options: UpOptions, request: Request) -> Operation:
        self._note("up", (bundle, options))
        if request.if_match not in (None, 3):
            raise OperationalError(
                Kind.CONFLICT, "system boss-ops", f"it is at revision 3, not {request.if_match}"
            )
        return self._operation(OperationKind.UP, "boss-ops", request)

    def down(self, system: str, *, delete: bool, request: Request) -> Operation:
        self._system(system)
        self._note("down", delete)
        return self._operation(OperationKind.DOWN, system, request)

    def power(
        self, system: str, machines: tuple[str, ...], action: PowerAction, *, force: bool, request: Request
    ) -> Operation:
        self._system(system)
        self._note("power", (machines, action, force))
        return self._operation(OperationKind.POWER, system, request)

    def systems(self) -> Sequence[SystemSummary]:
        self._note("systems", None)
        return [_SUMMARY, *self.fork_summaries.values()]

    def system(self, name: str, *, revision: int | None = None) -> SystemDetail:
        self._system(name)
        manifest = f"version: 1\nsystem: boss-ops # revision {revision or 3}\n"
        summary = self.fork_summaries.get(name, _SUMMARY)
        return SystemDetail(summary, manifest, (_MACHINE,), (_NETWORK,), (_REASON,))

    def history(self, name: str) -> Sequence[RevisionSummary]:
        self._system(name)
        return [RevisionSummary(3, 1000.0, ROOT, "d" * 64, ("machine boss: memory 128 MiB -> 256 MiB",))]

    def operations(self, *, system: str | None, active_only: bool, limit: int) -> Sequence[Operation]:
        found = [detail.operation for detail in reversed(self._details.values())]
        return [o for o in found if not (active_only and o.status.ended) and system in (None, o.subject)][
            :limit
        ]

    def operation(self, operation_id: str) -> OperationDetail:
        try:
            return self._details[operation_id]
        except KeyError:
            raise OperationalError(Kind.NOT_FOUND, f"operation {operation_id}", "there is none") from None

    def cancel(self, operation_id: str, request: Request) -> Operation:
        self.operation(operation_id)
        self._note("cancel", operation_id)
        self.advance(operation_id, status=OperationStatus.CANCELLED)
        return self.operation(operation_id).operation

    def wait_change(
        self, operation_id: str, after: int, timeout_s: float, *, gather_s: float = 0.0
    ) -> tuple[int, OperationDetail]:
        with self._changed:
            self._changed.wait_for(lambda: self._details[operation_id].operation.status.ended, gather_s)
            self._changed.wait_for(lambda: self._details[operation_id].version != after, timeout_s)
            detail = self._details[operation_id]
            return detail.version, detail

    def events(self, *, after: int, system: str | None, limit: int) -> Sequence[Event]:
        found = [e for e in self._events if e.sequence > after and system in (None, e.system)]
        return found[:limit]

    def wait_events(self, after: int, system: str | None, timeout_s: float) -> Sequence[Event]:
        with self._changed:
            self._changed.wait_for(lambda: self.events(after=after, system=system, limit=1), timeout_s)
            return self.events(after=after, system=system, limit=1000)

    def images(self) -> Sequence[ImageView]:
        return [_IMAGE]

    def image(self, ref: str) -> ImageView:
        if ref not in ("boss:dev", "boss", IMAGE_ID, IMAGE_ID[:12]):
            raise OperationalError(Kind.NOT_FOUND, f"image {ref}", "there is none", "`forkbed image list`")
        return _IMAGE

    def image_remove(self, ref: str, request: Request) -> None:
        self.image(ref)
        self._note("image_remove", ref)
        raise OperationalError(Kind.CONFLICT, f"image {ref}", "boss-ops/boss uses it")

    def image_tag(self, ref: str, name: str, request: Request) -> TagMove:
        self.image(ref)
        self._note("image_tag", (ref, name))
        return TagMove(name, 1000.0, "root", _IMAGE.id, "")

    def image_history(self, name: str) -> Sequence[TagMove]:
        return [TagMove(name, 1000.0, "root", _IMAGE.id, "")]

    def image_build(self, bundle: RecipeBundle, request: Request) -> Operation:
        self._note("image_build", bundle)
        return self._operation(OperationKind.IMAGE_BUILD, bundle.file_name, request)

    def image_import(self, path: Path, name: str, request: Request) -> Operation:
        self._note("image_import", name)
        if name == "refused":
            raise OperationalError(Kind.INVALID, "image refused", "it names a backing file")
        self.imported = path.read_bytes()
        path.unlink()
        return self._operation(OperationKind.IMAGE_IMPORT, name, request)

    def image_export(self, ref: str, format: str, target: Path) -> None:  # noqa: A002
        self.image(ref)
        target.write_bytes(format.encode() * 1_000_000)

    def open_command(self, system: str, machine: str, request: CommandRequest) -> LocalCommand:
        self._machine(system, machine)
        self._note("open_command", request)
        via = "agent" if self.machine_notice else "ssh"
        command = LocalCommand(request, self._guest_directory, via=via, notice=self.machine_notice)
        self.commands.append(command)
        return command

    def open_console(self, system: str, machine: str) -> EchoConsole:
        self._machine(system, machine)
        self.consoles.append(EchoConsole())
        return self.consoles[-1]

    def console_log(self, system: str, machine: str, tail_bytes: int | None) -> bytes:
        self._machine(system, machine)
        return self.log if tail_bytes is None else self.log[max(0, len(self.log) - tail_bytes) :]

    def garbage(self, *, dry_run: bool, request: Request) -> GarbageReport:
        self._note("garbage", dry_run)
        items = (GarbageItem("volume", "root-x1", "its machine is gone", 4096),)
        return GarbageReport(
            items, None if dry_run else self._operation(OperationKind.GARBAGE_COLLECTION, "garbage", request)
        )

    def about(self) -> Mapping[str, object]:
        return {"version": "0.1.0", "installation": "t3st", "simulate": True, "host": {"qemu": "7.2"}}

    def _note(self, call: str, what: object) -> None:
        self.calls.append((call, what))
        if self.error is not None:
            raise self.error

    def _summary(self) -> SystemSummary:
        return _SUMMARY

    def _system(self, name: str) -> None:
        if name != "boss-ops" and name not in self.fork_summaries:
            raise OperationalError(
                Kind.NOT_FOUND, f"system {name}", "there is none of that name", "`forkbed list` shows them"
            )

    def _machine(self, system: str, machine: str) -> None:
        self._system(system)
        if machine != "boss":
            raise OperationalError(
                Kind.NOT_FOUND, f"machine {system}/{machine}", "there is none of that name"
            )

    def _operation(
        self,
        kind: OperationKind,
        subject: str,
        request: Request,
        result: dict[str, object] | None = None,
        *,
        other_systems: tuple[SystemId, ...] = (),
    ) -> Operation:
        with self._changed:
            if request.idempotency_key in self._by_key:
                return self._details[self._by_key[request.idempotency_key]].operation
            number = OperationId(f"op{len(self._details) + 1}")
            status = OperationStatus.SUCCEEDED if self.auto_succeed else OperationStatus.RUNNING
            operation = Operation(
                number,
                kind,
                SystemId("sys1"),
                subject,
                {},
                request.requester,
                status,
                1000.0,
                1000.0,
                ended_at=1001.2 if status.ended else None,
                result=result,
                idempotency_key=request.idempotency_key,
                other_systems=other_systems,
            )
            self._details[number] = OperationDetail(operation, (), 1)
            if request.idempotency_key:
                self._by_key[request.idempotency_key] = number
            return operation


_SUMMARY = SystemSummary("boss-ops", "sys1", 3, "up", 1, 1, 1, 900.0, 1000.0, "", labels={"team": "a"})
_MACHINE = MachineDetail(
    name="boss",
    id="mach1",
    host="local",
    power="running",
    ready=True,
    wanted="running",
    image="boss:dev",
    image_id=IMAGE_ID,
    cpus=1,
    memory_bytes=256 * 1024**2,
    addresses=(("control", "10.0.0.2", "02:00:00:00:00:02"),),
    published=("127.0.0.1:8080 -> 80/tcp",),
    volumes=(("root", 2 * 1024**3),),
    restart_pending=False,
    domain="fb-t3st-boss-ops.boss",
)
_NETWORK = NetworkDetail(
    "control", "net1", "10.0.0.0/24", "nat", "block", "10.0.0.1", "fbt3stabcd", "fb-t3st-n1", True
)
_REASON = ReasonLine(1000.0, "root ran `forkbed up system.yaml`", "op1")
_IMAGE = ImageView(IMAGE_ID, ("boss:dev",), 2 * 1024**3, 400 * 1024**2, 900.0, {"recipe": "boss.yaml"})
