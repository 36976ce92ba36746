"""Which operations run now: one thread each, one operation at a time on a system, all resumed after a crash."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping

import structlog

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import OperationId
from forkbed.core.operations.records import Operation, OperationKind, OperationStatus
from forkbed.engine.surroundings import Surroundings

log = structlog.get_logger(__name__)

RETRY_AFTER_S = 5.0

RunToEnd = Callable[[Operation, threading.Event], None]


class Dispatcher:
    """Starts operations in the order in which they were asked for, and tells them when they are cancelled.

    `runs` says for each kind how an operation of it is worked off; the function returns when the operation's
    end is recorded.
    """

    def __init__(self, around: Surroundings, runs: Mapping[OperationKind, RunToEnd]) -> None:
        self._around = around
        self._runs = runs
        self._lock = threading.Lock()
        self._running: dict[OperationId, tuple[Operation, threading.Event, threading.Thread]] = {}

    def dispatch(self) -> None:
        """Start every operation that may run now, and pass cancellations on. Called after every change."""
        with self._lock:
            if self._around.stopping.is_set():
                return
            active = sorted(
                self._around.store.operations(active_only=True, limit=100_000),
                # what gives way to another goes first, whatever was done to the clock
                key=lambda o: (o.status is not OperationStatus.CANCELLING, o.created_at),
            )
            busy = {system for running, _, _ in self._running.values() for system in running.systems}
            for operation in active:
                running = self._running.get(operation.id)
                if running is not None:
                    if operation.status is OperationStatus.CANCELLING:
                        running[1].set()
                    continue
                if operation.systems & busy:
                    continue
                busy |= operation.systems
                self._start(operation)

    def _start(self, operation: Operation) -> None:
        cancelled = threading.Event()
        if operation.status is OperationStatus.CANCELLING:
            cancelled.set()
        thread = threading.Thread(
            target=self._run, args=(operation, cancelled), name=f"operation-{operation.id}", daemon=True
        )
        self._running[operation.id] = (operation, cancelled, thread)
        thread.start()

    def _run(self, operation: Operation, cancelled: threading.Event) -> None:
        try:
            self._runs[operation.kind](operation, cancelled)
        except Exception as error:  # noqa: BLE001 - the one supervisor: a bug ends its operation, not the service
            if not self._around.stopping.is_set():  # else the next controller goes on with it
                self._record_bug(operation, error)
        with self._lock:
            self._running.pop(operation.id, None)
        self.dispatch()

    def _record_bug(self, operation: Operation, error: Exception) -> None:
        log.error("operation-crashed", operation=operation.id, kind=operation.kind, exc_info=error)
        problem = OperationalError(
            Kind.FAULT,
            operation.subject,
            f"Forkbed itself failed: {type(error).__name__}: {error}",
            "this is a bug; please report it with the lines above. `forkbed up` tries again",
            details=tuple(traceback.format_exception(error)[-6:]),
        )
        now = self._around.host.clock.now()
        try:
            self._around.store.set_status(operation.id, OperationStatus.FAILED, now, error=problem.as_dict())
        except OperationalError as unwritable:
            log.error("operation-end-not-recorded", operation=operation.id, error=str(unwritable))
            self._around.stopping.wait(RETRY_AFTER_S)  # then it is begun again, as after a crash
        self._around.hub.touch(operation.id)

    def stop(self, timeout_s: float) -> None:
        """Start nothing more and interrupt what is under way where that harms nothing; the next start resumes it."""
        with self._lock:
            self._around.stopping.set()
            threads = [thread for _, _, thread in self._running.values()]
            for _, cancelled, _ in self._running.values():
                cancelled.set()
        for thread in threads:
            thread.join(timeout_s / max(len(threads), 1))

    def wait_idle(self, timeout_s: float) -> bool:
        """Whether nothing runs any more within that time. For tests and for a service that ends."""
        while True:
            with self._lock:
                running = dict(self._running)
            if not running:
                return True
            operation_id, (_, _, thread) = next(iter(running.items()))
            thread.join(timeout_s)
            if operation_id in self._running and not thread.is_alive():
                return False  # it ended in a way that nothing here may catch
            if thread.is_alive():
                return False
