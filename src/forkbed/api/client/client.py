"""Ask a Forkbed server: every route of the API as a typed method.

Failures are `OperationalError`, the same as the engine raised. Methods that change something answer at once
with the operation; `wait` follows it to its end.

Types are imported by the methods that need them: they are many, and a command needs few.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from forkbed.api.client.branching import BranchingCalls
from forkbed.api.client.calls import OnGap, segment
from forkbed.api.client.following import follow
from forkbed.api.client.transport import PATIENCE_S
from forkbed.api.client.upgrades import UpgradeCalls
from forkbed.api.codec import decode
from forkbed.api.contract import OCTETS, PREFIX, ExportFormat

if TYPE_CHECKING:
    from forkbed.api.client.streams import GuestConnection
    from forkbed.core.operations.records import Event, Operation
    from forkbed.core.systems.bundle import ManifestBundle
    from forkbed.engine.requests import (
        GarbageReport,
        OperationDetail,
        PlanView,
        PowerAction,
        RevisionSummary,
        SystemDetail,
        SystemSummary,
        UpOptions,
    )
    from forkbed.ports.guests import CommandRequest
    from forkbed.ports.images import ImageView, RecipeBundle, TagMove

_CHUNK_BYTES = 1024 * 1024


class Client(BranchingCalls, UpgradeCalls):
    """A client of the server at `socket`. A context manager; safe to use from several threads.

    Every write carries an idempotency key of its own unless one is given, so that a repeated request after a
    lost answer does nothing twice. `if_match` is the revision that the system must be at.
    """

    # systems

    def plan(self, bundle: ManifestBundle, options: UpOptions | None = None) -> PlanView:
        """What `up` would do. Raises INVALID with every error of the manifest in `details`."""
        from forkbed.api.bodies import up_body
        from forkbed.engine.requests import PlanView, UpOptions

        return decode(PlanView, self._write("POST", "/plans", up_body(bundle, options or UpOptions())))

    def up(
        self,
        bundle: ManifestBundle,
        options: UpOptions | None = None,
        *,
        if_match: int | None = None,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Accept a manifest and make it true."""
        from forkbed.api.bodies import up_body
        from forkbed.engine.requests import UpOptions

        body = up_body(bundle, options or UpOptions())
        return self._start("/systems", body, if_match=if_match, idempotency_key=idempotency_key)

    def down(
        self,
        system: str,
        *,
        delete: bool = False,
        if_match: int | None = None,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Shut a system's machines down; with `delete`, remove it with its data."""
        from forkbed.api.bodies import DownBody

        path = f"/systems/{segment(system)}/down"
        return self._start(path, DownBody(delete), if_match=if_match, idempotency_key=idempotency_key)

    def power(
        self,
        system: str,
        action: PowerAction,
        machines: tuple[str, ...] = (),
        *,
        force: bool = False,
        if_match: int | None = None,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Start, stop, restart, pause or resume some or (with none named) all machines."""
        from forkbed.api.bodies import PowerBody

        path = f"/systems/{segment(system)}/power"
        body = PowerBody(action, machines, force)
        return self._start(path, body, if_match=if_match, idempotency_key=idempotency_key)

    def systems(self) -> Sequence[SystemSummary]:
        """All systems."""
        from forkbed.engine.requests import SystemSummary

        return self._list(SystemSummary, "/systems")

    def system(self, name: str, *, revision: int | None = None) -> SystemDetail:
        """One system as it is, with the manifest of its current (or the given) revision."""
        from forkbed.engine.requests import SystemDetail

        return decode(SystemDetail, self._get(f"/systems/{segment(name)}", revision=revision))

    def history(self, name: str) -> Sequence[RevisionSummary]:
        """Every accepted manifest of a system."""
        from forkbed.engine.requests import RevisionSummary

        return self._list(RevisionSummary, f"/systems/{segment(name)}/revisions")

    # operations and events

    def operations(
        self, *, system: str | None = None, active_only: bool = False, limit: int = 100
    ) -> Sequence[Operation]:
        """The newest first, without their results: `operation` has them."""
        from forkbed.core.operations.records import Operation

        return self._list(Operation, "/operations", system=system, active=active_only, limit=limit)

    def operation(self, operation_id: str) -> OperationDetail:
        """An operation with its journal."""
        from forkbed.engine.requests import OperationDetail

        return decode(OperationDetail, self._get(f"/operations/{segment(operation_id)}"))

    def cancel(self, operation_id: str) -> Operation:
        """Ask an operation to stop where stopping harms nothing."""
        return self._start(f"/operations/{segment(operation_id)}/cancel")

    def follow_operation(
        self,
        operation_id: str,
        *,
        after: int | None = None,
        patience_s: float = PATIENCE_S,
        on_gap: OnGap | None = None,
    ) -> Iterator[OperationDetail]:
        """Its changes until it has ended; each journal holds only the steps that changed.

        Survives a restart of the server: the steps may then come again.
        """
        from forkbed.engine.requests import OperationDetail

        path = f"{PREFIX}/operations/{segment(operation_id)}/events"
        stream = follow(self._transport, path, params={}, after=after, patience_s=patience_s, on_gap=on_gap)
        for data in stream:
            detail = decode(OperationDetail, data)
            yield detail
            if detail.operation.status.ended:
                return
        # The server says that the last event seen was the last one; after a restart it may count anew, so look.
        yield self.operation(operation_id)

    def wait(self, operation_id: str) -> Operation:
        """Wait for an operation's end and return it, whatever came of it."""
        for detail in self.follow_operation(operation_id):
            if detail.operation.status.ended:
                return detail.operation
        raise AssertionError("following ends with the operation's end")

    def events(self, *, after: int = 0, system: str | None = None, limit: int = 1000) -> Sequence[Event]:
        """What happened, oldest first."""
        from forkbed.core.operations.records import Event

        return self._list(Event, "/events", after=after, system=system, limit=limit)

    def follow_events(self, *, after: int = 0, system: str | None = None) -> Iterator[Event]:
        """What happened after that event and what happens, without end."""
        from forkbed.core.operations.records import Event

        params = {} if system is None else {"system": system}
        stream = follow(
            self._transport, f"{PREFIX}/events", params=params, after=after, patience_s=PATIENCE_S
        )
        return (decode(Event, data) for data in stream)

    # images

    def images(self) -> Sequence[ImageView]:
        """All images."""
        from forkbed.ports.images import ImageView

        return self._list(ImageView, "/images")

    def image(self, ref: str) -> ImageView:
        """One image, by name, name with channel, or id."""
        from forkbed.ports.images import ImageView

        return decode(ImageView, self._get(f"/images/{segment(ref)}"))

    def image_build(self, recipe: RecipeBundle, *, idempotency_key: str | None = None) -> Operation:
        """Build an image from a recipe."""
        from forkbed.api.bodies import bundle_body
        from forkbed.core.systems.bundle import ManifestBundle

        bundle = ManifestBundle(recipe.file_name, recipe.text, files=recipe.files)
        body = bundle_body(bundle)
        return self._start("/images/builds", body, idempotency_key=idempotency_key)

    def image_import(self, file: BinaryIO, name: str, *, size_bytes: int | None = None) -> Operation:
        """Upload an image file from where `file` stands to its end."""
        from forkbed.core.operations.records import Operation

        headers = self._write_headers(None, None) | {"Content-Type": OCTETS}
        if size_bytes is not None:
            headers["Content-Length"] = str(size_bytes)
        chunks = iter(lambda: file.read(_CHUNK_BYTES), b"")
        answer = self._transport.send(
            "POST", f"{PREFIX}/images/imports", params={"name": name}, headers=headers, content=chunks
        )
        return decode(Operation, json.loads(answer))

    def image_export(
        self,
        ref: str,
        target: BinaryIO,
        format: ExportFormat = ExportFormat.QCOW2,  # noqa: A002
    ) -> int:
        """Download an image into `target`; returns the number of bytes."""
        path = f"{PREFIX}/images/{segment(ref)}/content"
        total = 0
        with self._transport.stream(path, params={"format": str(format)}) as response:
            for chunk in response.chunks(_CHUNK_BYTES):
                target.write(chunk)
                total += len(chunk)
        return total

    def image_remove(self, ref: str) -> None:
        """Refused while a machine uses it."""
        self._write("DELETE", f"/images/{segment(ref)}", None)

    def image_tag(self, ref: str, name: str) -> TagMove:
        """Point a name with its channel (`boss:production`) to an image."""
        from forkbed.api.bodies import TagBody
        from forkbed.ports.images import TagMove

        return decode(TagMove, self._write("POST", f"/images/{segment(ref)}/tags", TagBody(name)))

    def image_history(self, name: str) -> Sequence[TagMove]:
        """What a name pointed to, the oldest first."""
        from forkbed.ports.images import TagMove

        return self._list(TagMove, f"/images/{segment(name)}/tags")

    # machines

    def open_command(self, system: str, machine: str, request: CommandRequest) -> GuestConnection:
        """Run a command in a machine."""
        from forkbed.api.client.streams import connect

        path = _machine_path(system, machine, "exec")
        stream = connect(self._transport, path, f"machine {system}/{machine}")
        stream.start(request)
        return stream.wait_opened()

    def open_console(self, system: str, machine: str) -> GuestConnection:
        """The serial console of a machine."""
        from forkbed.api.client.streams import connect

        path = _machine_path(system, machine, "console")
        return connect(self._transport, path, f"machine {system}/{machine}").wait_opened()

    def console_log(self, system: str, machine: str, *, tail_bytes: int | None = None) -> bytes:
        """What a machine wrote to its serial console."""
        params = {} if tail_bytes is None else {"tail_bytes": tail_bytes}
        return self._transport.send("GET", _machine_path(system, machine, "log"), params=params)

    def follow_console_log(
        self, system: str, machine: str, *, tail_bytes: int | None = None
    ) -> Iterator[bytes]:
        """`console_log`, going on with what the machine writes."""
        params: dict[str, Any] = {"follow": True}
        if tail_bytes is not None:
            params["tail_bytes"] = tail_bytes
        with self._transport.stream(_machine_path(system, machine, "log"), params=params) as response:
            yield from response.chunks()

    # the rest

    def garbage(self, *, dry_run: bool = False) -> GarbageReport:
        """Remove, or with `dry_run` only tell, what belongs to no system."""
        from forkbed.api.bodies import GarbageBody
        from forkbed.engine.requests import GarbageReport

        return decode(GarbageReport, self._write("POST", "/garbage-collections", GarbageBody(dry_run)))

    def about(self) -> Mapping[str, object]:
        """Version, installation id and host of the server."""
        answer: dict[str, object] = self._get("/about")
        return answer


def _machine_path(system: str, machine: str, what: str) -> str:
    return f"{PREFIX}/systems/{segment(system)}/machines/{segment(machine)}/{what}"
