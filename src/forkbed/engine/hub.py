"""Tell those who wait that something changed: operations by version, events by sequence. In memory only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from forkbed.base.ids import OperationId


@dataclass(frozen=True, slots=True)
class StepProgress:
    """The latest word of a step under way; `done` is a share from 0 to 1 where it is known."""

    message: str
    done: float | None


class Hub:
    """Versions that rise with every change, and a way to wait for the next one. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._versions: dict[OperationId, int] = {}
        self._ended: set[OperationId] = set()
        self._events = 0
        self._progress: dict[tuple[OperationId, int], StepProgress] = {}

    def touch(self, operation_id: OperationId) -> None:
        """Say that the operation or its journal changed."""
        with self._changed:
            self._versions[operation_id] = self._versions.get(operation_id, 0) + 1
            self._changed.notify_all()

    def end(self, operation_id: OperationId) -> None:
        """Say that the operation has ended."""
        with self._changed:
            self._ended.add(operation_id)
        self.touch(operation_id)

    def touch_events(self) -> None:
        """Say that there is a new event."""
        with self._changed:
            self._events += 1
            self._changed.notify_all()

    def progress(self, operation_id: OperationId, sequence: int, progress: StepProgress | None) -> None:
        """Set what a step under way says; None when it is over."""
        with self._changed:
            if progress is None:
                self._progress.pop((operation_id, sequence), None)
            else:
                self._progress[operation_id, sequence] = progress
        self.touch(operation_id)

    def progress_of(self, operation_id: OperationId, sequence: int) -> StepProgress | None:
        """What that step said last, while it is under way."""
        with self._changed:
            return self._progress.get((operation_id, sequence))

    def version(self, operation_id: OperationId) -> int:
        """The operation's version in the life of this process, from 0."""
        with self._changed:
            return self._versions.get(operation_id, 0)

    def wait_end(self, operation_id: OperationId, timeout_s: float) -> None:
        """Return when the operation has ended in the life of this process, or after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: operation_id in self._ended, timeout_s)

    def wait_operation(self, operation_id: OperationId, after: int, timeout_s: float) -> None:
        """Return when the operation's version is not `after` any more, or after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._versions.get(operation_id, 0) != after, timeout_s)

    def wait_events(self, arrived: Callable[[], bool], timeout_s: float) -> None:
        """Return when `arrived` says so (asked after every new event), or after `timeout_s`."""
        with self._changed:
            before = self._events
            self._changed.wait_for(lambda: self._events != before or arrived(), timeout_s)
