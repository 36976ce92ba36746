"""Look at everything now and then, and whenever something happens by itself; tell that, and put right what differs.

What is put right is an operation like any other (kind `reconcile`), so people see it, with its reason.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from forkbed.base.errors import OperationalError
from forkbed.base.ids import MachineId, OperationId, SystemId
from forkbed.core.operations.records import (
    Event,
    Operation,
    OperationKind,
    OperationStatus,
    Requester,
)
from forkbed.core.operations.rules import Refuse, admit
from forkbed.core.systems.supervision import Deviation, backoff_s, find_deviation, find_stale_networks
from forkbed.core.systems.view import SystemView
from forkbed.engine.observation import observe_all
from forkbed.engine.options import Options
from forkbed.engine.runner import GOAL
from forkbed.engine.surroundings import Surroundings
from forkbed.engine.upkeep import Upkeep
from forkbed.ports.hypervisor import MachineEvent, MachineEventKind
from forkbed.ports.store import SystemRecord

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 10.0
_SETTLE_S = 0.3  # events come in bursts: a stop is followed by a start
_LONGEST_SETTLE_S = 2.0


@dataclass(slots=True)
class _Attempts:
    """What was tried for a system, so that a machine that cannot run is not started without end."""

    failures: int = 0
    operation_id: OperationId | None = None
    not_before: float = 0.0


class Supervisor:
    """A thread that compares all systems with what is wanted. `dispatch` is called for new operations."""

    def __init__(
        self,
        around: Surroundings,
        options: Options,
        draw_operation_id: Callable[[], OperationId],
        dispatch: Callable[[], None],
    ) -> None:
        self._around = around
        self._draw_operation_id = draw_operation_id
        self._dispatch = dispatch
        self._upkeep = Upkeep(around, options, draw_operation_id)
        self._attempts: dict[SystemId, _Attempts] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._untold: deque[tuple[float, MachineEvent]] = deque()
        # Systems as they were since events were told last: a machine's end is told when its system may have gone.
        self._places: dict[MachineId, tuple[str, str]] = {}
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._unwatch: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._unwatch = self._around.host.hypervisor.watch(self._heard)
        self._wake.set()
        self._thread.start()

    def stop(self) -> None:
        """End the watching."""
        self._stopping = True
        self._wake.set()
        if self._unwatch is not None:
            self._unwatch()
        self._thread.join(5)
        if not self._thread.is_alive():
            self._tell()
        if self._untold:
            log.warning("machine-events-not-recorded", number=len(self._untold))

    def _heard(self, event: MachineEvent) -> None:
        """Called by whoever delivers events, perhaps while machines stand still for a cut: nothing is done here."""
        if event.kind is MachineEventKind.CONNECTION_LOST:
            log.warning("hypervisor-connection-lost", detail=event.detail)
        else:
            self._untold.append((self._around.host.clock.now(), event))
        self._wake.set()

    def _tell(self) -> None:
        """Keep what machines did by themselves as events for people; what cannot be kept now is tried again."""
        try:
            if self._untold:
                now = _places(self._around.store.systems())
                self._places |= now
                while self._untold:
                    self._tell_first()
                self._places = now
        except OperationalError as error:
            log.warning("machine-events-wait", number=len(self._untold), error=str(error))

    def _tell_first(self) -> None:
        at, event = self._untold.popleft()
        try:
            self._keep_event(at, event)
        except OperationalError:
            self._untold.appendleft((at, event))
            raise

    def _keep_event(self, at: float, event: MachineEvent) -> None:
        place = self._places.get(event.machine_id)
        if place is None:
            return
        system, machine = place
        self._around.store.add_event(
            Event(
                sequence=0,
                at=at,
                kind=f"machine.{event.kind}",
                system=system,
                machine=machine,
                attributes={"detail": event.detail, "host": self._around.host.name},
            )
        )
        self._around.hub.touch_events()

    def _watch(self) -> None:
        while not self._stopping:
            self._wake.wait(LOOK_EVERY_S)
            try:
                if self._wake.is_set():
                    self._settle()
                self._wake.clear()
                if self._stopping:
                    return
                self._tell()
                self._dispatch()  # what an earlier failure to look left waiting
                self.look()
            except OperationalError as error:
                log.warning("supervision-postponed", error=str(error))
            except Exception as error:
                log.error("supervision-failed", exc_info=error)

    def _settle(self) -> None:
        """Let a burst of events pass, and for a while the operation that may cause it: it needs the processors.

        The events are told meanwhile.
        """
        nothing = threading.Event()
        deadline = time.monotonic() + _LONGEST_SETTLE_S
        nothing.wait(_SETTLE_S)
        while not self._stopping and time.monotonic() < deadline:
            self._tell()
            if not self._around.store.operations(active_only=True, limit=1):
                return
            nothing.wait(_SETTLE_S)

    def look(self) -> int:
        """Compare once; returns how many operations were begun to put something right."""
        views = observe_all(self._around.host, self._around.store)
        begun = 0
        # Generations that only wait come first: while one still leads out, the live one must not.
        systems = sorted(self._around.store.systems(), key=lambda system: system.kept_of is None)
        self._places |= _places(systems)
        held_back: set[SystemId] = set()
        for system in systems:
            view = views.get(system.id) or SystemView()
            if system.kept_of is None:
                deviation = find_deviation(system.resolved, system.wanted, system.up, view)
            else:
                deviation = find_stale_networks(system.resolved, system.up, view)
                if deviation is not None:
                    held_back.add(system.kept_of)
            attempts = self._attempts.setdefault(system.id, _Attempts())
            self._learn(attempts)
            waits = self._around.host.clock.now() < attempts.not_before or system.id in held_back
            if waits or self._is_busy(system):
                continue
            if deviation is None:
                attempts.failures = 0
            elif self._begin(system, deviation, attempts):
                begun += 1
        begun += self._upkeep.look()
        if begun:
            self._dispatch()
        return begun

    def _is_busy(self, system: SystemRecord) -> bool:
        return bool(self._around.store.operations(system_id=system.id, active_only=True, limit=1))

    def _learn(self, attempts: _Attempts) -> None:
        """Count the last try, once it has ended."""
        if attempts.operation_id is None:
            return
        operation = self._around.store.operation(attempts.operation_id)
        if operation is None or not operation.status.ended:
            return
        attempts.operation_id = None
        if operation.status is OperationStatus.FAILED:
            attempts.failures += 1
            attempts.not_before = self._around.host.clock.now() + backoff_s(attempts.failures)

    def _begin(self, system: SystemRecord, deviation: Deviation, attempts: _Attempts) -> bool:
        goal = GOAL.dump_python(deviation.goal, mode="json")
        operation = Operation(
            id=self._draw_operation_id(),
            kind=OperationKind.RECONCILE,
            system_id=system.id,
            subject=system.name,
            goal=goal,
            requester=Requester.itself("; ".join(deviation.reasons)),
            status=OperationStatus.QUEUED,
            created_at=self._around.host.clock.now(),
        )
        submitted = self._around.store.submit(operation, lambda active: admit(operation, active))
        if isinstance(submitted, Refuse):
            return False
        attempts.operation_id = operation.id
        # a guest that stops by itself again and again is started less and less often
        attempts.failures += 1
        attempts.not_before = self._around.host.clock.now() + backoff_s(attempts.failures)
        return True


def _places(systems: Iterable[SystemRecord]) -> dict[MachineId, tuple[str, str]]:
    """The names of each machine and its system."""
    return {
        machine.id: (system.name, machine.name) for system in systems for machine in system.resolved.machines
    }
