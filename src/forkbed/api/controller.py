"""The controller as the server sees it: synchronous, thread-safe, raising `OperationalError`.

`forkbed.engine.controller.Controller` implements it; tests put a small one in memory in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from forkbed.core.operations.records import Event, Operation
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.engine.branching import BranchingApi
from forkbed.engine.promoting import PromotionApi
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
from forkbed.ports.guests import CommandChannel, CommandRequest
from forkbed.ports.hypervisor import ConsoleStream
from forkbed.ports.images import ImageView, RecipeBundle, TagMove


class ControllerApi(BranchingApi, PromotionApi, Protocol):
    """Every method may block; none needs the caller to hold anything between calls.

    What is asked about snapshots and forks is in `BranchingApi`, about upgrades in `PromotionApi`.
    """

    # systems
    def plan(self, bundle: ManifestBundle, options: UpOptions) -> PlanView: ...

    def up(self, bundle: ManifestBundle, options: UpOptions, request: Request) -> Operation: ...

    def down(self, system: str, *, delete: bool, request: Request) -> Operation: ...

    def power(
        self, system: str, machines: tuple[str, ...], action: PowerAction, *, force: bool, request: Request
    ) -> Operation: ...

    def systems(self) -> Sequence[SystemSummary]: ...

    def system(self, name: str, *, revision: int | None = None) -> SystemDetail: ...

    def history(self, name: str) -> Sequence[RevisionSummary]: ...

    # operations and events
    def operations(self, *, system: str | None, active_only: bool, limit: int) -> Sequence[Operation]:
        """The newest first."""

    def operation(self, operation_id: str) -> OperationDetail: ...

    def cancel(self, operation_id: str, request: Request) -> Operation: ...

    def wait_change(
        self, operation_id: str, after: int, timeout_s: float, *, gather_s: float = 0.0
    ) -> tuple[int, OperationDetail]:
        """Return once the operation's version is not `after`, or time is up (then with the same version).

        Not before `gather_s` have passed, unless the operation has ended. Versions rise from 0 and begin anew
        with the process; -1 is none.
        """

    def events(self, *, after: int, system: str | None, limit: int) -> Sequence[Event]:
        """Events with a sequence above `after`, oldest first, at most `limit`."""

    def wait_events(self, after: int, system: str | None, timeout_s: float) -> Sequence[Event]:
        """`events`, waiting for at least one; empty when time is up."""

    # images
    def images(self) -> Sequence[ImageView]: ...

    def image(self, ref: str) -> ImageView: ...

    def image_remove(self, ref: str, request: Request) -> None: ...

    def image_tag(self, ref: str, name: str, request: Request) -> TagMove: ...

    def image_history(self, name: str) -> Sequence[TagMove]:
        """Every move of a name with its channel, or of all channels of a name, oldest first."""

    def image_build(self, bundle: RecipeBundle, request: Request) -> Operation: ...

    def image_import(self, path: Path, name: str, request: Request) -> Operation:
        """Take over an uploaded temporary file: the operation removes it, whatever its end."""

    def image_export(self, ref: str, format: str, target: Path) -> None:  # noqa: A002
        """Write the image to `target`, which does not exist yet, as "qcow2" or "raw"."""

    # guests
    def open_command(self, system: str, machine: str, request: CommandRequest) -> CommandChannel: ...

    def open_console(self, system: str, machine: str) -> ConsoleStream: ...

    def console_log(self, system: str, machine: str, tail_bytes: int | None) -> bytes: ...

    # the rest
    def garbage(self, *, dry_run: bool, request: Request) -> GarbageReport: ...

    def about(self) -> Mapping[str, object]: ...
