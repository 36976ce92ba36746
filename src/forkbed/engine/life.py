"""The life of one operation: it begins, its steps are journalled, it ends. Nothing here decides anything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from forkbed.base.errors import OperationalError
from forkbed.core.operations.records import (
    Event,
    JournalEntry,
    Operation,
    OperationStatus,
    StepStatus,
)
from forkbed.engine.hub import Hub, StepProgress
from forkbed.engine.surroundings import Surroundings
from forkbed.ports.progress import Cancelled, Progress


class Life:
    """One operation on its way; what happens to it is stored before anything else is done."""

    def __init__(self, around: Surroundings, operation: Operation, cancelled: threading.Event) -> None:
        self.around = around
        self.operation = operation
        self.cancelled = cancelled

    def begin(self) -> None:
        """Close what a dead controller left open, and say that it runs."""
        self.around.store.interrupt_steps(self.operation.id, self.around.host.clock.now())
        self._set_status(OperationStatus.RUNNING)

    def end(
        self,
        status: OperationStatus,
        error: OperationalError | None = None,
        result: dict[str, object] | None = None,
    ) -> None:
        """Record how it ended."""
        self.around.boundary(f"operation: {status}")
        self._set_status(status, error, result)

    def work_off(self, work: Callable[[], dict[str, object]]) -> None:
        """Begin, work, end by what comes of it; no end while the controller is stopping: the next one goes on.

        What was cancelled before it began has made nothing but records; the work itself takes them back.
        """
        self.begin()
        try:
            result = work()
        except OperationalError as error:
            if not self.around.stopping.is_set():
                self.end(OperationStatus.FAILED, error)
        except Cancelled:
            if not self.around.stopping.is_set():
                self.end(OperationStatus.CANCELLED)
        else:
            self.end(OperationStatus.SUCCEEDED, result=result)

    def check_cancelled(self) -> None:
        """Raise `Cancelled` if it is to end."""
        if self.cancelled.is_set():
            raise Cancelled

    def begin_step(self, key: str, verb: str, subject: str) -> JournalEntry:
        """Journal that a step begins."""
        around = self.around
        entry = around.store.begin_step(
            JournalEntry(
                sequence=0,
                operation_id=self.operation.id,
                key=key,
                verb=verb,
                subject=subject,
                host=around.host.name,
                status=StepStatus.STARTED,
                started_at=around.host.clock.now(),
            )
        )
        around.hub.touch(self.operation.id)
        around.boundary(f"{key}: begun")
        return entry

    def end_step(
        self,
        entry: JournalEntry,
        status: StepStatus,
        message: str = "",
        *,
        machine: str = "",
        error: OperationalError | None = None,
    ) -> None:
        """Journal how a step ended, of which machine if it was one's; a change or failure is told as an event."""
        event = None
        if error is not None:
            message = error.brief
            event = self._event("step.failed", machine, {"key": entry.key, **error.as_dict()})
        elif status is StepStatus.CHANGED:
            event = self._event("step.changed", machine, {"key": entry.key})
        now = self.around.host.clock.now()
        self.around.store.end_step(self.operation.id, entry.sequence, status, now, message, event)
        self.around.hub.progress(self.operation.id, entry.sequence, None)
        if event is not None:
            self.around.hub.touch_events()

    def progress(self, entry: JournalEntry) -> Progress:
        """Where a step tells how it goes."""
        return JournalProgress(self.around.hub, entry, self.cancelled)

    @contextmanager
    def step(self, verb: str, subject: str) -> Iterator[Progress]:
        """A step that is done here and now, journalled whatever comes of it."""
        key = f"{verb} {subject}"
        entry = self.begin_step(key, verb, subject)
        try:
            yield self.progress(entry)
        except OperationalError as error:
            self.end_step(entry, StepStatus.FAILED, error=error)
            raise
        except Cancelled:
            self.end_step(entry, StepStatus.INTERRUPTED, "cancelled")
            raise
        self.around.boundary(f"{key}: done")
        self.end_step(entry, StepStatus.CHANGED)
        self.around.boundary(f"{key}: ended")

    def _event(self, kind: str, machine: str, attributes: dict[str, object]) -> Event:
        return Event(
            sequence=0,
            at=self.around.host.clock.now(),
            kind=kind,
            system=self.operation.subject.partition("/")[0],
            machine=machine,
            operation_id=self.operation.id,
            attributes={**attributes, "host": self.around.host.name},
        )

    def _set_status(
        self,
        status: OperationStatus,
        error: OperationalError | None = None,
        result: dict[str, object] | None = None,
    ) -> None:
        stored = self.around.store.set_status(
            self.operation.id,
            status,
            self.around.host.clock.now(),
            error=error.as_dict() if error else None,
            result=result,
        )
        hub = self.around.hub
        (hub.end if stored.status.ended else hub.touch)(self.operation.id)
        kind = "started" if status is OperationStatus.RUNNING else str(stored.status)
        attributes: dict[str, object] = {
            "kind": str(self.operation.kind),
            "subject": self.operation.subject,
        }
        if error is not None:
            attributes["error"] = error.as_dict()
        self.around.store.add_event(self._event(f"operation.{kind}", "", attributes))
        hub.touch_events()


class JournalProgress:
    """Progress of one step, shown with its journal entry to whoever follows the operation."""

    def __init__(self, hub: Hub, entry: JournalEntry, cancelled: threading.Event) -> None:
        self._hub = hub
        self._entry = entry
        self._cancelled = cancelled

    def tell(self, message: str, *, done: float | None = None) -> None:
        self._hub.progress(self._entry.operation_id, self._entry.sequence, StepProgress(message, done))

    def check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled


def with_progress(entry: JournalEntry, hub: Hub) -> JournalEntry:
    """The entry with the latest word of its step, if that is under way."""
    progress = hub.progress_of(entry.operation_id, entry.sequence)
    return replace(entry, message=progress.message, done=progress.done) if progress else entry
