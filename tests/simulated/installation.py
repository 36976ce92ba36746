"""A whole installation in memory whose controller can die and be started again on the same world."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from forkbed.base.ids import OperationId
from forkbed.core.operations.records import Operation, OperationStatus, Requester
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.core.systems.planner import ALIVE
from forkbed.drivers.simulated.world import SimulatedWorld, VirtualClock
from forkbed.engine.controller import Controller
from forkbed.engine.hub import Hub
from forkbed.engine.options import Options
from forkbed.engine.requests import PowerAction, Request, UpOptions
from forkbed.engine.surroundings import Boundary, Surroundings
from forkbed.store.database import Database
from forkbed.wiring import simulated_host

KEPT_IN_MEMORY_S = 600.0
PERSON = Request(Requester(1000, "ada", "forkbed up system.yaml"))


class Died(BaseException):
    """The controller was killed: nothing in the program may catch this."""


class Inline(Executor):
    """Does each step at once, in the order in which it was begun: the same every time."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as any executor does
            future.set_exception(error)
        return future


class Installation:
    """Controllers come and go (`restart`); world and store stay."""

    def __init__(self, path: Path, *, parallel: bool = False) -> None:
        self.world = SimulatedWorld(VirtualClock())
        self._numbers = itertools.count(1)
        self.store = Database(path / "forkbed.db", self._draw, durable=False)
        self._parallel = parallel
        self.host = simulated_host("sim", self.world)
        self.boundaries: list[str] = []
        self.controller = self._new_controller(self.boundaries.append)

    def _draw(self, length: int) -> str:
        return f"{next(self._numbers):0{length}d}"

    def _draw_uuid(self) -> str:
        return str(UUID(int=next(self._numbers)))

    def _new_controller(self, boundary: Boundary) -> Controller:
        self.executor: Executor = ThreadPoolExecutor(16) if self._parallel else Inline()
        waiters: Executor = ThreadPoolExecutor(16) if self._parallel else Inline()
        around = Surroundings(self.host, self.store, Hub(), self.executor, waiters, boundary)
        options = Options(
            IPv4Network("198.19.0.0/16"), self._draw, self._draw_uuid, {"version": "test"}, KEPT_IN_MEMORY_S
        )
        return Controller(around, options)

    def restart(self, boundary: Boundary | None = None) -> None:
        """Another controller takes over, as after a kill."""
        self.controller = self._new_controller(boundary or self.boundaries.append)

    def settle(self) -> None:
        """Run every unfinished operation to its end."""
        self.controller.dispatcher.dispatch()
        assert self.controller.dispatcher.wait_idle(60)

    def up(self, text: str, options: UpOptions | None = None, request: Request = PERSON) -> Operation:
        """`forkbed up`, to the end of the operation."""
        return self.ended(self.controller.up(bundle(text), options or UpOptions(), request))

    def down(self, name: str, *, delete: bool = False) -> Operation:
        """`forkbed down`, to the end of the operation."""
        return self.ended(self.controller.down(name, delete=delete, request=PERSON))

    def power(self, name: str, action: PowerAction, *machines: str, force: bool = False) -> Operation:
        """`forkbed start`, `stop`, …, to the end of the operation."""
        return self.ended(self.controller.power(name, machines, action, force=force, request=PERSON))

    def ended(self, operation: Operation) -> Operation:
        assert self.controller.dispatcher.wait_idle(60)
        found = self.store.operation(OperationId(operation.id))
        assert found is not None
        assert found.status.ended, found.status
        return found

    def end(self) -> None:
        """Cancel what is under way, so that no thread outlives the test."""
        self.world.deaf.clear()
        self.world.on_call = None
        for operation in self.store.operations(active_only=True):
            self.controller.cancel(operation.id, PERSON)
        self.controller.dispatcher.wait_idle(30)

    def running(self) -> set[str]:
        return {
            machine.definition.machine.name
            for machine in self.world.machines.values()
            if machine.power in ALIVE
        }


@dataclass(frozen=True, slots=True)
class Killed:
    """An operation whose controller died at a step boundary, and that the next one ended. `boots`: what ran before."""

    installation: Installation
    operation: Operation
    boundary: str
    boots: frozenset[str]

    @property
    def done(self) -> bool:
        return self.operation.status is OperationStatus.SUCCEEDED


def killed_at_every_boundary(
    path: Path,
    begin: Callable[[Path], Installation],
    act: Callable[[Installation], object],
    look: Callable[[Installation], object] = lambda _: None,
    *,
    between: tuple[str, str] | None = None,
) -> Iterator[Killed]:
    """What comes of `act` for a death at each of its boundaries, or at those from one to another. `look` sees what the
    dead one left."""
    boundaries = _recorded(_fresh(path, "count"), begin, act)
    first, last = map(boundaries.index, between) if between else (0, len(boundaries))
    for number in (n for n in distinct(boundaries) if first <= n <= last):
        installation = begin(_fresh(path, str(number)))
        boots = frozenset(machine.boot_id for machine in installation.world.machines.values())
        installation.restart(_dying_at(number))
        with pytest.raises(AssertionError):  # the operation has not ended: its controller is dead
            act(installation)
        look(installation)
        installation.restart()
        installation.host.cuts.recover()
        installation.settle()
        operation = installation.store.operations(limit=1)[0]
        boundary = f"{number}: {boundaries[number]}"
        assert operation.status.ended, boundary
        yield Killed(installation, operation, boundary, boots)


def _fresh(path: Path, name: str) -> Path:
    (path / name).mkdir()
    return path / name


def _recorded(
    path: Path, begin: Callable[[Path], Installation], act: Callable[[Installation], object]
) -> list[str]:
    installation = begin(path)
    installation.boundaries.clear()
    act(installation)
    return list(installation.boundaries)


def _dying_at(number: int) -> Boundary:
    passed = itertools.count()

    def boundary(_name: str) -> None:
        if next(passed) == number:
            raise Died

    return boundary


def distinct(boundaries: Sequence[str]) -> list[int]:
    """The boundaries that are worth a death each.

    Between the end of a step and the beginning of the next nothing happens but that the next is journalled, so a
    death at the end of a step shows nothing that one at the beginning of the next does not.
    """
    last = len(boundaries) - 1
    return [n for n, name in enumerate(boundaries) if not name.endswith(": ended") or n == last]


def bundle(text: str, **files: bytes) -> ManifestBundle:
    return ManifestBundle("system.yaml", text, files)


def succeeded(operation: Operation) -> bool:
    assert operation.status is OperationStatus.SUCCEEDED, operation.error
    return True


TWO_MACHINES = """
version: 1
system: pair
networks:
  control: {subnet: 10.20.0.0/24, uplink: nat}
machines:
  ops:
    image: micro
    volumes: {data: {size: 1GiB}}
    ready: [{tcp: 22}]
  boss:
    image: micro
    after: [ops]
    publish: ["8080:80"]
    setup: ["touch /ready"]
    ready: [{http: {port: 80}}]
"""

PATIENT = TWO_MACHINES.replace("ready: [{tcp: 22}]", "ready: [{tcp: 22, timeout: 90000d}]")
"""Virtual time flies while threads poll: this one does not give up before the test is over."""


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when the condition holds, within 5 s of real time."""
    for _ in range(500):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come about")
