"""Operations that are one piece of work: building and importing images, collecting garbage.

Each is begun again from its start after a crash; what it makes appears only when it is complete.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from forkbed.base.errors import OperationalError
from forkbed.core.operations.records import (
    Event,
    JournalEntry,
    Operation,
    OperationKind,
    OperationStatus,
    StepStatus,
)
from forkbed.engine.garbage import Garbage
from forkbed.engine.life import JournalProgress
from forkbed.engine.surroundings import Surroundings
from forkbed.ports.images import RecipeBundle
from forkbed.ports.progress import Cancelled, Progress

JOBS = (OperationKind.IMAGE_BUILD, OperationKind.IMAGE_IMPORT, OperationKind.GARBAGE_COLLECTION)
Work = Callable[[Operation, Progress], dict[str, object]]


class Jobs:
    """Runs the operations that are no plan of steps."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._work: Mapping[OperationKind, tuple[str, Work]] = {
            OperationKind.IMAGE_BUILD: ("build", self._build),
            OperationKind.IMAGE_IMPORT: ("import", self._import),
            OperationKind.GARBAGE_COLLECTION: ("collect", self._collect),
        }

    def run(self, operation: Operation, cancelled: threading.Event) -> None:
        """Return when the operation has ended and that is recorded, or when the controller is stopping."""
        store, clock = self._around.store, self._around.host.clock
        verb, work = self._work[operation.kind]
        store.interrupt_steps(operation.id, clock.now())
        store.set_status(operation.id, OperationStatus.RUNNING, clock.now())
        entry = store.begin_step(
            JournalEntry(
                sequence=0,
                operation_id=operation.id,
                key=f"{verb} {operation.subject}",
                verb=verb,
                subject=operation.subject,
                host=self._around.host.name,
                status=StepStatus.STARTED,
                started_at=clock.now(),
            )
        )
        self._around.hub.touch(operation.id)
        progress = JournalProgress(self._around.hub, entry, cancelled)
        try:
            progress.check_cancelled()
            result = work(operation, progress)
        except OperationalError as error:
            self._end(entry, StepStatus.FAILED, OperationStatus.FAILED, error=error)
        except Cancelled:
            if not self._around.stopping.is_set():  # else the next controller begins it again
                self._end(entry, StepStatus.INTERRUPTED, OperationStatus.CANCELLED)
        else:
            self._end(entry, StepStatus.CHANGED, OperationStatus.SUCCEEDED, result=result)

    def _end(
        self,
        entry: JournalEntry,
        step: StepStatus,
        status: OperationStatus,
        *,
        error: OperationalError | None = None,
        result: dict[str, object] | None = None,
    ) -> None:
        around = self._around
        now = around.host.clock.now()
        message = error.brief if error else ""
        around.store.end_step(entry.operation_id, entry.sequence, step, now, message)
        problem = error.as_dict() if error else None
        around.store.set_status(entry.operation_id, status, now, error=problem, result=result)
        attributes: dict[str, object] = {"key": entry.key, "host": entry.host}
        if problem:
            attributes["error"] = problem
        around.store.add_event(
            Event(
                sequence=0,
                at=now,
                kind=f"operation.{status}",
                operation_id=entry.operation_id,
                attributes=attributes,
            )
        )
        around.hub.progress(entry.operation_id, entry.sequence, None)
        around.hub.touch_events()

    def _build(self, operation: Operation, progress: Progress) -> dict[str, object]:
        contents = self._around.host.contents
        goal = operation.goal
        files = goal["files"]
        assert isinstance(files, dict)
        recipe = RecipeBundle(
            file_name=str(goal["file_name"]),
            text=str(goal["text"]),
            files={path: contents.get(content_hash) for path, content_hash in files.items()},
        )
        image = self._around.host.images.build(
            recipe, operation.requester.account, self._around.host.clock.now(), progress
        )
        return {"image_id": image.id, "names": list(image.names)}

    def _import(self, operation: Operation, progress: Progress) -> dict[str, object]:
        path = Path(str(operation.goal["path"]))
        try:
            image = self._around.host.images.import_file(
                path,
                str(operation.goal["name"]),
                operation.requester.account,
                self._around.host.clock.now(),
                progress,
            )
        finally:
            if not self._around.stopping.is_set():  # else the next controller needs it
                path.unlink(missing_ok=True)
        return {"image_id": image.id, "names": list(image.names)}

    def _collect(self, operation: Operation, progress: Progress) -> dict[str, object]:
        removed = Garbage(self._around.host, self._around.store, self._around.accepting).collect(progress)
        return {"removed": [f"{item.kind} {item.name}" for item in removed]}
